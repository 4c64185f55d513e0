"""Trying a function with trials before the run: whatever it does, it is told in words."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpcio.errors import FunctionError, HpcioError, as_message, from_message
from hpcio.fingerprints import Fingerprint
from hpcio.machine import Death, call_apart, launched

__all__ = ["MOST_TRIES", "failure", "in_words", "is_tried_apart", "tell", "try_each"]

# So many trials are tried before it is taken that the function fails for all.
MOST_TRIES = 3

_PRODUCT = str(Path(__file__).parents[1])
_INSTALLED = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))

# What came of a try: whatever was asked for; or an error, and its kind if it is one of hpcio's.
Said = dict[str, Any]


def is_tried_apart(*reached: Fingerprint) -> bool:
    """Whether code of the user is called, which may crash. Ranks of MPI call it in place."""
    launch = launched()
    own = any(one.reaches_code for one in reached)
    return own and (launch is None or launch.size == 1)


def try_each(
    make: Callable[[Any], Callable[[Any], Said]],
    given: object,
    jobs: Sequence[Any],
    *,
    apart: bool,
    processes: int | None = None,
    limit: float | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Said]:
    """What comes of each job, in place or in other processes; see `hpcio.machine.call_apart`."""
    if not apart:
        call = make(given)
        return [call(job) for job in jobs]
    name = f"{make.__module__}:{make.__qualname__}"
    found = call_apart(name, given, jobs, processes=processes, limit=limit, on_done=on_done)
    return [_death(r) if isinstance(r, Death) else r for r in found]


def _death(death: Death) -> Said:
    """A death as `tell` tells an error."""
    if not death.stacks:
        return {"error": f"WorkerError: {death.why}"}
    frames = re.findall(r'File "(.+)", line (\d+)', death.stacks)  # the innermost comes first
    where = _own([(file, int(line)) for file, line in reversed(frames)])
    return {"error": f"TimeoutError: {death.why}{where}"}


def tell(call: Callable[[], Said]) -> Said:
    """What a call returns, or the error that it raises."""
    try:
        return call()
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it raises)
        return in_words(error)


def in_words(error: BaseException) -> Said:
    """An error as `tell` tells it."""
    if isinstance(error, HpcioError):
        return as_message(error)
    return {"error": f"{type(error).__name__}: {error}{_where(error)}"}


def _where(error: BaseException) -> str:
    """The line of the user's own code that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return _own([(f.filename, f.lineno or 0) for f in frames])


def _own(frames: Sequence[tuple[str, int]]) -> str:
    """The innermost of the frames, files and lines, that is the user's; the outermost is first."""
    own = [f for f in frames if not f[0].startswith((_PRODUCT, *_INSTALLED))]
    return f" ({os.path.basename(own[-1][0])}, line {own[-1][1]})" if own else ""


def failure(said: Said, name: str, where: str) -> HpcioError:
    """The error to raise for one that has been told.

    Parameters
    ----------
    said : dict
        As of `tell`.
    name : str
        Of the function.
    where : str
        What it was tried with.
    """
    if said.get("kind") == "FunctionError":
        return FunctionError(f"'{name}' fails {where}: {said['error']}")
    if "kind" in said:
        return from_message(said)
    kind, _, message = said["error"].partition(": ")
    return FunctionError(
        f"'{name}' raised {kind} {where}: {message}. Call it with one trial to find out why."
    )
