"""Who speaks? 640 utterances of 7 to 29 samples, made equally long and compared.

Nine men said the vowels /ae/; of each utterance there are 12 cepstral coefficients in time
(Kudo, Toyama and Shimbo 1999). The package sktime brings the recordings along::

    pip install hpcio sktime
    python japanese_vowels.py [FOLDER]
"""

import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np

import hpcio

POINTS = 8


def utterances(part: str) -> Iterator[tuple[np.ndarray, int]]:
    """Yield each utterance of a .ts file, as an array (samples, 12), and its speaker."""
    spec = find_spec("sktime")  # found, but not imported
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The recordings come with sktime. Get it: pip install sktime")
    data = Path(spec.submodule_search_locations[0], "datasets", "data", "JapaneseVowels")
    _, _, lines = (data / f"JapaneseVowels_{part}.ts").read_text().partition("@data\n")
    for line in lines.splitlines():
        *coefficients, speaker = line.split(":")
        yield np.array([c.split(",") for c in coefficients], "f8").T, int(speaker)


def record(path: Path) -> None:
    """Write one recording: the utterances one after the other, and where each of them lies."""
    known, others = list(utterances("TRAIN")), list(utterances("TEST"))
    trials, speakers = zip(*known, *others, strict=True)
    stop = np.cumsum([len(trial) for trial in trials])
    with h5py.File(path, "w") as f:
        f["cepstrum"] = np.concatenate(trials)
        f["utterances"] = np.column_stack([np.append(0, stop[:-1]), stop])
        f["speakers"] = speakers
        f["speakers"].attrs["known"] = len(known)


@hpcio.unwrap_io
def stretch(utterance, points, chunkShape=None, noCompute=None):
    """Bring an utterance of any length to so many points in time."""
    if noCompute:  # the dry run: what will the result look like?
        return (points, utterance.shape[1]), utterance.dtype
    old, new = np.linspace(0, 1, len(utterance)), np.linspace(0, 1, points)
    return np.stack([np.interp(new, old, c) for c in utterance.T], axis=1)


folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="vowels-"))
record(folder / "vowels.h5")

plan = hpcio.Plan.create(
    stretch,
    f"{folder}/vowels.h5::cepstrum",
    trials=f"{folder}/vowels.h5::utterances",
    args=[POINTS],
    join="stack",
    axes={"utterance": None, "time": np.linspace(0, 1, POINTS), "coefficient": range(1, 13)},
    out=folder / "stretched.h5",
)
plan.run(workers=2)

with hpcio.open(folder / "stretched.h5") as f, h5py.File(folder / "vowels.h5") as recording:
    print(f"{f['data']} with axes {[dim.label for dim in f['data'].dims]}\n")
    flat = f["data"][...].reshape(len(plan), -1)
    speaker, known = recording["speakers"][...], recording["speakers"].attrs["known"]

# Whose known utterance is nearest to each of the others?
distance = ((flat[known:, None] - flat[None, :known]) ** 2).sum(axis=-1)
heard, said = speaker[:known][distance.argmin(axis=1)], speaker[known:]

print("speaker  utterances  recognised")
for one in np.unique(said):
    print(f"{one:7}  {(said == one).sum():10}  {(heard[said == one] == one).mean():10.0%}")
print(f"    all  {said.size:10}  {(heard == said).mean():10.0%}")
print(f"\n{folder / 'stretched.h5'}")
