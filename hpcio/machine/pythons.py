"""New Pythons: their command, and their environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["new_python", "with_threads"]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

# Where hpcio is imported from; new processes import it from there, too.
_ROOT = str(Path(__file__).parents[2])


def new_python(serve: str, *arguments: str) -> list[str]:
    """The command of a new Python that calls a function of hpcio with some texts.

    It takes hpcio from where this is; what else lies there comes after the user's modules. The
    folder at hand hides no module of the standard library.

    Parameters
    ----------
    serve : str
        ``MODULE:FUNC``.
    arguments : str

    Examples
    --------
    >>> import subprocess
    >>> command = new_python("hpcio.machine.resources:cores")
    >>> subprocess.run(command).returncode
    0
    """
    module, _, name = serve.partition(":")
    script = (
        f"import sys; sys.path.insert(0, sys.argv.pop()); from {module} import {name}; "
        f"sys.path.append(sys.path.pop(0)); {name}(*sys.argv[1:])"
    )
    return [sys.executable, "-P", "-c", script, *arguments, _ROOT]


def with_threads(count: int) -> dict[str, str]:
    """The environment for a process whose numerical libraries may use so many threads."""
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(count))}
