"""An open result as people see it: what is in it, and where that came from."""

from __future__ import annotations

import json
from typing import Any

import h5py

from hpcio.errors import DAMAGE
from hpcio.files import read_text
from hpcio.recording import FURTHER, unnamed
from hpcio.results.besides import RECORDINGS, names_of_results
from hpcio.results.labelled import names_of_axes
from hpcio.words import brief, count, earlier_words, shape_words, size

__all__ = ["earlier_in", "recording_in_words", "shown"]

# So many names of columns, and of earlier steps, are told.
_MOST = 8


def shown(f: h5py.File) -> list[tuple[str, str]]:
    """Names and values of a result, for a table; none if it is closed, or cannot be read.

    To look at a result never raises: whoever reads its data hears what is wrong with it.
    """
    try:
        return _rows(f) if f else []
    except DAMAGE:
        return []


def _rows(f: h5py.File) -> list[tuple[str, str]]:
    results = [f[name] for name in names_of_results(f)]
    trials = f["trials"]
    gaps = int((~trials.fields("done")[()]).sum())
    columns = [*json.loads(trials.attrs.get(FURTHER, "{}"))]
    steps = [step["function"] for step in json.loads(read_text(f, "chain", "[]"))]
    averages = [_average_of(one) for one in results]
    several = len(results) > 1
    rows = [
        ("result", f.filename),
        *(
            (one.name.lstrip("/"), _in_words(one) + (f", {average}" if several and average else ""))
            for one, average in zip(results, averages, strict=True)
        ),
        ("average", averages[0] if not several else ""),
        ("trials", f"{len(trials):,}"),
        ("gaps", f"{gaps:,}" if gaps else ""),
        ("kept", earlier_words(earlier) if (earlier := earlier_in(f)) else ""),
        ("columns", _listed(columns)),
        ("function", read_text(f, "function", "")),
        ("runs", _runs(f)),
        ("recording", recording_in_words(f)),
        ("steps before", _listed([*dict.fromkeys(steps)])),
        ("created", read_text(f, "created", "")),
    ]
    return [(name, value) for name, value in rows if value]


def _runs(f: h5py.File) -> str:
    """How many trials each run has brought, if there were several."""
    runs = json.loads(read_text(f, "runs", "[]"))
    return _listed([f"{run['trials']:,} trials {run['created']}".strip() for run in runs])


def recording_in_words(f: h5py.File) -> str:
    """What was read: a recording, or how many."""
    source, dataset = (read_text(f, name, "") for name in ("source", "source_dataset"))
    if RECORDINGS not in f:
        return f"{source}::{dataset}"
    first, *_ = (f"{a}::{b}" for a, b in zip(json.loads(source), json.loads(dataset), strict=False))
    return f"{count(len(f[RECORDINGS]), 'recording')}, the first of them {first}"


def _in_words(data: h5py.Dataset) -> str:
    axes = ["" if name == unnamed(k) else name for k, name in enumerate(names_of_axes(data))]
    return f"{shape_words(data.shape, axes)}, {data.dtype}, {size(data.nbytes)}"


def _average_of(data: h5py.Dataset) -> str:
    """Which average of how many trials a result is; empty if it is none."""
    reduce = read_text(data, "reduce", "")
    return f"{reduce} of {count(int(data.attrs['trials']), 'trial')}" if reduce else ""


def _listed(names: list[Any]) -> str:
    first = [brief(str(name), 40) for name in names[:_MOST]]
    return ", ".join(first + ["..."] * (len(names) > _MOST))


def earlier_in(f: h5py.File) -> int:
    """Trials of a result that are kept from before the function or its arguments changed."""
    *former, _ = json.loads(read_text(f, "functions", "[null]"))
    return sum(int(one["trials"]) for one in former)
