"""A fingerprint of what a function is: a digest of everything loaded that decides its results."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hpcio.errors import FunctionError
from hpcio.fingerprints.origins import version_of
from hpcio.fingerprints.reach import Walk
from hpcio.words import brief, count

__all__ = ["Fingerprint", "fingerprint"]

# What values may be nested to; pickle gives up earlier.
_DEPTH = 20_000


@dataclass(frozen=True, repr=False)
class Fingerprint:
    """What decides what a function computes.

    Attributes
    ----------
    parts : mapping of str to str
        A digest for each function, class and global value that is reached, by its name.
    packages : mapping of str to str
        The version of each installed package that is reached.
    unseen : tuple of str
        What is reached and could not be looked into, in words.
    generators : tuple of str
        Where generators of random numbers are reached.
    """

    parts: Mapping[str, str]
    packages: Mapping[str, str]
    unseen: tuple[str, ...] = ()
    generators: tuple[str, ...] = ()

    def __repr__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        parts = count(len(self.parts), "part")
        return f"Fingerprint({self.digest[:8]} of {parts}, with {brief(packages)})"

    @property
    def digest(self) -> str:
        """Hexadecimal; equal if all parts are."""
        return hashlib.sha256(repr(sorted(self.parts.items())).encode()).hexdigest()

    @property
    def reaches_code(self) -> bool:
        """Whether anything but a plain value is reached, which may change by itself."""
        return len(self.parts) > 1 or bool(self.unseen)

    def changes(self, other: Fingerprint) -> list[str]:
        """The names of parts that another one has not, or has otherwise."""
        names = dict.fromkeys((*self.parts, *other.parts))
        return [n for n in names if self.parts.get(n) != other.parts.get(n)]


def fingerprint(value: object) -> Fingerprint:
    """The fingerprint of a function, or of any value.

    It is the same in every process that has loaded the same thing, whether by import, by
    unpickling or by typing it.

    Parameters
    ----------
    value : object

    Returns
    -------
    Fingerprint

    Raises
    ------
    FunctionError
        If a module on the way was loaded from bytecode that is older than its text.

    Examples
    --------
    >>> fingerprint({"gain": 1}).digest == fingerprint({"gain": 1}).digest
    True
    >>> fingerprint({"gain": 1}).digest == fingerprint({"gain": 1.0}).digest
    False
    """
    walk = Walk()
    with _deep():
        walk.part("", lambda: walk.value(value))
        walk.finish()
    walk.packages["python"] = version_of("python")
    return Fingerprint(walk.parts, walk.packages, tuple(walk.unseen), tuple(walk.generators))


@contextlib.contextmanager
def _deep() -> Iterator[None]:
    """Let values be nested deeply."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    try:
        yield
    except RecursionError:
        raise FunctionError(
            "What the function or an argument holds is nested too deeply to be looked into. Keep "
            "it in arrays or flat lists."
        ) from None
    finally:
        sys.setrecursionlimit(limit)
