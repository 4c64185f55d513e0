"""How a side is asked: a line on its standard input, and a line of JSON as the answer.

``python -m benchmarks.peers.serving MODULE:SIDE WORK`` serves one of `benchmarks.peers.sides`.
``go FOLDER`` does all of the work once, into an empty folder; the answer has the seconds.
``save FILE`` stores the result, as anybody would read it, for a comparison. The end of the
input ends the program. Between lines it has everything open that a session would have.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.peers.work import Work


@dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes
    ----------
    run : callable
        Is given an empty folder. Has done all when it returns, and the result is on the disk.
    read : callable
        Is given what `run` returned, and reads the result.
    """

    run: Callable[[Path], Any]
    read: Callable[[Any], np.ndarray]


def serve(name: str, work: Work) -> None:
    """Answer until the input ends."""
    answers = _own_stdout()  # before anything is imported that may greet
    # If whoever asks is killed while this program is stopped, it goes on, to its end.
    ctypes.CDLL(None).prctl(1, signal.SIGCONT)  # PR_SET_PDEATHSIG
    module, _, of_module = name.partition(":")
    make: Callable[[Work], AbstractContextManager[Side]] = getattr(
        importlib.import_module(f"benchmarks.peers.sides.{module}"), of_module
    )

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    with make(work) as side:
        answer(ready=True)
        result: Any = None
        for line in sys.stdin:
            word, _, path = line.rstrip("\n").partition(" ")
            if word == "go":
                result = None  # what it holds on to is let go outside of the clock
                gc.collect()
                started = time.perf_counter()
                result = side.run(Path(path))
                answer(seconds=time.perf_counter() - started)
            else:
                np.save(path, side.read(result))
                answer(saved=True)
        os.killpg(0, signal.SIGCONT)  # its workers, too


def _own_stdout() -> IO[str]:
    """The standard output, for answers only: whatever else is printed goes with the errors."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    serve(sys.argv[1], Work(**json.loads(sys.argv[2])))
