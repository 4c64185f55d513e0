"""Calling SLURM's own commands, and passing on what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from hpcio.errors import ClusterError

__all__ = ["call", "job_number", "refusal", "require"]

# The clients of a slurmctld that does not answer wait for 9 s and more before they give up.
PATIENCE = 60.0

_REMEDY = (
    "Go to a login node of the cluster, or run the plan here: plan.run(workers=...), in the shell: "
    "hpcio run"
)
NO_SLURM = "There is no SLURM on this machine (no command '{command}' on PATH). " + _REMEDY
# SLURM is installed, and does not know of a cluster.
_ELSEWHERE = ". This machine is of no cluster. " + _REMEDY


def require(command: str) -> None:
    """Raise ClusterError if a command of SLURM is not installed here."""
    if shutil.which(command) is None:
        raise ClusterError(NO_SLURM.format(command=command))


def call(
    arguments: Sequence[str],
    *,
    timeout: float = PATIENCE,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command of SLURM and return what it prints.

    Parameters
    ----------
    arguments : sequence of str
        The command and its arguments; no shell sees them.
    timeout : float
        Seconds to wait for an answer.
    environment : mapping of str to str, optional
        That of the command; by default as here.

    Returns
    -------
    str

    Raises
    ------
    ClusterError
        If the command is missing, says no (with its own words), or does not answer.
    """
    require(arguments[0])
    try:
        done = subprocess.run(
            list(arguments), capture_output=True, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"'{arguments[0]}' has not answered for {timeout:.0f} s. The controller of SLURM may "
            "be down: ask again later."
        ) from None
    if done.returncode:
        raise refusal(arguments[0], done.stderr or done.stdout)
    return done.stdout


def refusal(command: str, words: str) -> ClusterError:
    """The error of a command that said no, with its own words."""
    said = " ".join(words.split()) or "nothing"
    remedy = _ELSEWHERE if "configuration source" in words else ""
    return ClusterError(f"'{command}' refuses. It says: {said}{remedy}")


def job_number(answer: str) -> int:
    """The number of the job, in what ``sbatch --parsable`` has printed.

    Examples
    --------
    >>> job_number("1234;cluster")
    1234
    """
    match = re.match(r"(\d+)", answer)
    if match is None:
        raise ClusterError(f"'sbatch' gives no number of a job. It says: {answer.strip()}")
    return int(match[1])
