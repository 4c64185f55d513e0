"""Environments of the other programs, made when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# With these, esi-syncopy 2023.9 works: it needs numpy before 1.25, and that Python before 3.12.
_ESI = (
    "numpy==1.24.4", "h5py==3.11.0", "scipy==1.10.1", "dask==2023.5.0", "distributed==2023.5.0",
    "dask-jobqueue==0.8.5", "matplotlib==3.7.5", "bokeh==3.1.1", "fooof==1.1.0", "pandas==2.0.3",
    "natsort==8.4.0", "tqdm==4.66.4", "pytz", "esi-acme==2026.6.2", "esi-syncopy==2023.9",
)  # fmt: skip
_OTHERS = ("joblib==1.6.0", "zarr==3.1.6", "executorlib==1.11.0")


class LeftOutError(Exception):
    """An environment cannot be made here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """Pinned packages beside a Python.

    Attributes
    ----------
    python : str
        A program on PATH, or its path.
    requirements : tuple of str
        As pip takes them.
    """

    python: str
    requirements: tuple[str, ...]

    def make(self) -> str:
        """The path of its Python; it is built if it is not there.

        Raises
        ------
        LeftOutError
            If that does not work, as without network.
        """
        command = [_ROOT / ".ci" / "pinned-env", "peers", self.python, *self.requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
            raise LeftOutError(errors[-1].strip() if errors else f"exit status {done.returncode}")
        python: str = done.stdout.strip()
        return python


def esi() -> Environment:
    return Environment("python3.11", _ESI)


def others() -> Environment:
    """Beside the packages that hpcio itself runs with here."""
    own = (f"{name}=={version(name)}" for name in ("numpy", "h5py", "distributed"))
    return Environment(sys.executable, (*_OTHERS, *own))
