"""Options of sbatch, as users write them."""

from __future__ import annotations

from collections.abc import Sequence

from hpcio.errors import ClusterError

__all__ = ["check_options", "join_words", "names_option", "split_option"]

# Options that hpcio sets itself, and the options of hpcio to use instead.
_OURS = {
    "array": "tasks and throttle", "time": "walltime", "mem": "memory", "partition": "partition",
    "cpus-per-task": "cpus", "job-name": "name", "signal": "", "output": "", "error": "",
    "open-mode": "", "wrap": "", "parsable": "", "test-only": "", "wait": "",
}  # fmt: skip
_SHORT = {
    "A": "account", "C": "constraint", "c": "cpus-per-task", "d": "dependency", "D": "chdir",
    "e": "error", "G": "gpus", "J": "job-name", "L": "licenses", "M": "clusters", "N": "nodes",
    "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time", "w": "nodelist",
    "x": "exclude", "a": "array", "i": "input",
}  # fmt: skip


def names_option(option: str) -> str:
    """The long name of an option of sbatch, without dashes.

    Examples
    --------
    >>> names_option("--qos=high"), names_option("-phigh")
    ('qos', 'partition')
    """
    if option.startswith("--"):
        return option[2:].partition("=")[0]
    if option.startswith("-") and len(option) > 1:
        return _SHORT.get(option[1], option[1])
    raise ClusterError(f"'{option}' is no option of sbatch. Write --name=value.")


def join_words(words: Sequence[str]) -> tuple[str, ...]:
    """Options as they are written in a shell, one in each.

    Examples
    --------
    >>> join_words(["--qos", "high", "-A", "lab", "--exclusive"])
    ('--qos=high', '-Alab', '--exclusive')
    """
    joined: list[str] = []
    for word in words:
        if word.startswith("-") or not joined or "=" in joined[-1]:
            joined.append(word)
        else:
            joined[-1] += ("=" if joined[-1].startswith("--") else "") + word
    return tuple(joined)


def check_options(options: Sequence[str]) -> None:
    """Raise ClusterError for options of sbatch that are not to be passed on."""
    for option in options:
        name = names_option(option)
        if name in _OURS:
            instead = f": say {_OURS[name]} instead" if _OURS[name] else ""
            raise ClusterError(f"'--{name}' of sbatch is set by hpcio{instead}.")


def split_option(option: str) -> tuple[str, str]:
    """The long name and the value of an option of sbatch.

    Examples
    --------
    >>> split_option("--qos=high"), split_option("-A lab")
    (('qos', 'high'), ('account', 'lab'))
    """
    name = names_option(option)
    if option.startswith("--"):
        return name, option.partition("=")[2]
    return name, option[2:].lstrip(" =")
