"""The names of recordings that are read as one, and which of them the column `recording` means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.files import mark_of
from hpcio.recording.recording import Recording
from hpcio.recording.several import SeveralRecordings, short_names
from hpcio.recording.trials import Trials

__all__ = [
    "RECORDING",
    "check_said",
    "names_of_recordings",
    "plain_name",
    "recording_of_each",
    "refuse_others",
    "which_of",
    "with_earlier_name",
    "with_plain_name",
]

# The column of trials that says which recording they are of.
RECORDING = "recording"


def check_said(
    given: npt.NDArray[Any], which: npt.NDArray[np.int64], recording: SeveralRecordings
) -> None:
    """Raise TrialError if a column says of a trial that it is of another recording."""
    said = which_of(given, recording)
    if not (said == which).all():
        k = int(np.argmax(said != which))
        raise TrialError(
            f"The column '{RECORDING}' says '{given[k]}' of a trial of "
            f"'{recording.parts[which[k]]}'. Correct or rename it."
        )


def names_of_recordings(
    given: npt.NDArray[Any] | None, which: npt.NDArray[np.int64], recording: SeveralRecordings
) -> npt.NDArray[np.str_]:
    """The column `recording` of trials: as it is, unless it names one in two ways."""
    names = np.asarray(short_names(recording), "U")[which]
    if given is None:
        return names
    text, known = given.astype("U"), _known(recording)
    pairs = {*zip(text.tolist(), which.tolist(), strict=True)}
    means_so = all(known.get(name, known.get(_absolute(name))) == {k} for name, k in pairs)
    return text if means_so and len(pairs) == len({k for _, k in pairs}) else names


def plain_name(name: str) -> str:
    """The name of a column, which is `recording` however that is written."""
    return RECORDING if name.strip().lower() == RECORDING else name


def with_plain_name(trials: Trials) -> Trials:
    """Trials whose column of recordings has its plain name."""
    columns = {plain_name(name): values for name, values in trials.columns.items()}
    return replace(trials, columns=columns)


def with_earlier_name(trials: Trials, part: Recording) -> Trials:
    """Trials of a result that say what it was computed of: that is `earlier_recording` now."""
    if RECORDING not in trials.columns or mark_of(part.path) is None:
        return trials
    name = f"earlier_{RECORDING}"
    while name in trials.columns:
        name = f"earlier_{name}"
    columns = {name if n == RECORDING else n: v for n, v in trials.columns.items()}
    return replace(trials, columns=columns)


def refuse_others(trials: Trials, recording: Recording) -> None:
    """Raise TrialError if trials of one recording say that some are of others.

    Those of a result say of which recordings it was computed.
    """
    if RECORDING not in trials.columns or mark_of(recording.path) is not None:
        return
    known = _known(recording)
    values = trials.columns[RECORDING].astype("U")
    said = {name: name in known or _absolute(name) in known for name in np.unique(values).tolist()}
    if any(said.values()) and not all(said.values()):
        own, other = (next(name for name in said if said[name] is ours) for ours in (True, False))
        raise TrialError(
            f"The column '{RECORDING}' says that trials are of '{own}', others of '{other}', and "
            f"'{recording}' alone is read. Select its trials: trials.where(recording='{own}') (in "
            f"the shell: --where recording={own}); or read all recordings."
        )


def recording_of_each(
    columns: Mapping[str, npt.NDArray[Any]], recording: SeveralRecordings, count: int, where: str
) -> npt.NDArray[np.int64]:
    """Which of the recordings each row of a table is of, shape (N,)."""
    if RECORDING in columns:
        return which_of(columns[RECORDING], recording)
    if len(recording.parts) == 1:
        return np.zeros(count, np.int64)
    raise TrialError(
        f"{where} does not say which of {len(recording.parts)} recordings a trial is of. Give it a "
        "column 'recording' with the names of their files, or give a list with the trials of each."
    )


def which_of(values: npt.NDArray[Any], recording: SeveralRecordings) -> npt.NDArray[np.int64]:
    """Which of the recordings names mean, shape (N,)."""
    names, where = np.unique(values.astype("U"), return_inverse=True)
    known = _known(recording)
    which = [_meant(name, known, recording) for name in names.tolist()]
    return np.asarray(which, np.int64)[where.reshape(-1)]


def _known(recording: Recording) -> dict[str, set[int]]:
    """All names of recordings, and which ones each of them means."""
    known: dict[str, set[int]] = {}
    for k, part in enumerate(recording.parts):
        path = Path(part.path)
        for name in {path.stem, path.name, _absolute(part.path), _absolute(str(part))}:
            known.setdefault(name, set()).add(k)
    # These tell them apart, whatever else they mean.
    return known | {name: {k} for k, name in enumerate(short_names(recording))}


def _absolute(name: str) -> str:
    """A name as `_known` has it: the path of a file, perhaps with a dataset."""
    file, separator, dataset = name.rpartition("::") if "::" in name else (name, "", "")
    path = os.path.abspath(os.path.expanduser(file))
    return f"{path}{separator}{dataset.strip('/')}"


def _meant(name: str, known: Mapping[str, set[int]], recording: SeveralRecordings) -> int:
    """Which recording a name means."""
    found = known.get(name) or (known.get(_absolute(name)) if name else None) or set()
    if len(found) == 1:
        return next(iter(found))
    names = short_names(recording)
    among = [names[k] for k in sorted(found)] if found else [*names]
    which = f"may be each of {len(found)}" if found else f"names none of {len(names)} recordings"
    there_are = ", ".join(among[:10]) + ", ..." * (len(among) > 10)
    raise TrialError(
        f"The column '{RECORDING}' of the trials says '{name}', which {which}: {there_are}. "
        "Give the path of a file, its name, or that without its suffix."
    )
