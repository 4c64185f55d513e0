"""Registries: named things of one kind, our own and those that other packages bring."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from hpcio.errors import MissingPackageError, OptionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Registry"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Brought:
    """A thing of another package, not loaded yet."""

    entry: EntryPoint


class Registry(Generic[T]):
    """Named things of one kind, loaded when they are first used.

    Another package adds one by an entry point of the group, or by a call of `register`.

    Parameters
    ----------
    kind : str
        What one of them is called in messages, such as ``"writer"``.
    group : str
        The entry-point group, such as ``"hpcio.writers"``.
    own : mapping of str to str
        Where ours are, by name: ``"MODULE:OBJECT"``.

    Examples
    --------
    >>> numbers: Registry[float] = Registry("number", group="hpcio.numbers", own={"pi": "math:pi"})
    >>> numbers.register("two", 2.0)
    >>> numbers["pi"], numbers["two"], numbers.names()
    (3.141592653589793, 2.0, ('pi', 'two'))
    """

    def __init__(self, kind: str, *, group: str, own: Mapping[str, str]) -> None:
        self._kind, self._group = kind, group
        self._known: dict[str, Any] = dict(own)
        self._scanned = False

    def register(self, name: str, thing: T | str) -> None:
        """Add a thing, or say where it is as ``"MODULE:OBJECT"``.

        Raises
        ------
        OptionError
            If the name is taken.
        """
        if name in self._known:
            raise OptionError(f"There is a {self._kind} '{name}' already. Choose another name.")
        self._known[name] = thing

    def __getitem__(self, name: str) -> T:
        known = isinstance(name, str) and name in self._known
        if not known:  # installed packages are searched only when they must be
            self._scan()
        if not isinstance(name, str) or name not in self._known:
            raise OptionError(
                f"There is no {self._kind} '{name}'. Choose one of: {', '.join(self.names())}."
            )
        found = self._known[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = getattr(importlib.import_module(module), attribute)
        elif isinstance(found, _Brought):
            found = self._load(found.entry)
        self._known[name] = found
        return cast("T", found)

    def _load(self, entry: EntryPoint) -> Any:
        try:
            return entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.value
            raise MissingPackageError(
                f"The {self._kind} '{entry.name}' of the package '{package}' cannot be loaded "
                f"({type(error).__name__}: {error}). Mend the package, or remove it."
            ) from error

    def names(self) -> tuple[str, ...]:
        """All names: ours, then those that were added."""
        self._scan()
        return tuple(self._known)

    def added_first(self) -> list[T]:
        """All things, the newest first: those that were added are asked before ours."""
        return [self[name] for name in reversed(self.names())]

    def _scan(self) -> None:
        if not self._scanned:
            from importlib import metadata  # slow to import, and seldom needed in a worker

            self._scanned = True
            for entry in metadata.entry_points(group=self._group):
                self._known.setdefault(entry.name, _Brought(entry))
