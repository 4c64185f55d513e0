"""Compute functions by name: how a plan remembers a function, and how a worker finds it."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from typing import Any

from hpcio.errors import FunctionError, PlanError
from hpcio.function.arguments import fingerprint
from hpcio.function.sourcetext import text_digest

__all__ = ["Function", "takes"]

Compute = Callable[..., Any]

# Modules that were imported from a FILE.py; another file of that name may replace them.
_from_files: set[str] = set()


def _import(name: str, *, path: str | None = None) -> Compute:
    """The function that ``MODULE:FUNC`` names."""
    module_name, _, attribute = name.partition(":")
    if path is not None and path not in sys.path:
        sys.path.insert(0, path)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may end with sys.exit(main())
        hint = (
            "Check the name and that its folder is on PYTHONPATH."
            if isinstance(error, ModuleNotFoundError) and error.name == module_name
            else "Mend the module, or import what it needs first."
        )
        raise FunctionError(
            f"Cannot import module '{module_name}' of function '{name}': "
            f"{type(error).__name__}: {error}. {hint}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise FunctionError(
                f"Module '{module_name}' has no '{attribute}'. "
                "Name a function as MODULE:FUNC or FILE.py:FUNC."
            )
    if not callable(found):
        raise FunctionError(f"'{name}' is a {type(found).__name__}. Name a function instead.")
    return found  # type: ignore[no-any-return]


def _import_file(path: str, attribute: str) -> Compute:
    """A function of a file as it is now, even if another file of that name was imported before."""
    folder, file = os.path.split(os.path.abspath(path))
    name = file[:-3]
    loaded = sys.modules.get(name)
    if name in sys.stdlib_module_names or (loaded is not None and name not in _from_files):
        origin = getattr(loaded, "__file__", None) or ""
        if not (os.path.exists(origin) and os.path.samefile(origin, path)):
            raise FunctionError(
                f"The file '{path}' has the name of another module, '{name}'. Rename the file."
            )
    sys.modules.pop(name, None)
    _from_files.add(name)
    importlib.invalidate_caches()
    sys.path[:] = [p for p in sys.path if p != folder]
    return _import(f"{name}:{attribute}", path=folder)


def _add_to_path(folders: Sequence[str]) -> None:
    """Let modules be found where the session that made the plan found them.

    A module beside the user's script comes before an installed one of the same name, as in
    that session, but never before one of the standard library.
    """
    standard = os.path.dirname(os.__file__)
    library = [k for k, p in enumerate(sys.path) if p == standard or "lib-dynload" in p]
    for k, folder in enumerate(folders):
        if folder not in sys.path:
            later = [sys.path.index(p) for p in folders[k + 1 :] if p in sys.path]
            behind = [place for place in later if place > max(library, default=-1)]
            sys.path.insert(min(behind, default=len(sys.path)), folder)


def _version(module_name: str) -> str:
    module = sys.modules.get(module_name.partition(".")[0])
    version = getattr(module, "__version__", "")
    return version if isinstance(version, str) else ""


@dataclass(frozen=True)
class Function:
    """A compute function as a plan keeps it.

    Attributes
    ----------
    name : str
        ``MODULE:FUNC``; for a pickled function the name it had.
    pickled : bytes
        Empty if the function is found by import. A function of ``__main__``, of a notebook,
        or from inside another function is pickled by value.
    digest : str
        Of its source text and what it uses of its module, or of its pickled code. A changed
        function makes another plan.
    version : str
        ``__version__`` of its package, or ``""``.
    path : tuple of str
        Folders to import from, as they were in the session that made the plan.
    """

    name: str
    pickled: bytes
    digest: str
    version: str
    path: tuple[str, ...]

    @classmethod
    def of(cls, func: Compute | str) -> Function:
        """Describe a function, given itself or by ``MODULE:FUNC`` or ``FILE.py:FUNC``.

        Raises
        ------
        FunctionError
            If it cannot be imported, is not callable, or cannot be pickled.
        """
        if isinstance(func, str):
            func = cls._by_name(func)
        if not callable(func):
            raise FunctionError(f"{func!r} is not callable. Pass a function, or its name.")
        # Each folder once, at its first place: that is the one that counts.
        path = tuple(dict.fromkeys(os.path.abspath(p) for p in sys.path))
        module = getattr(func, "__module__", None) or ""
        qualname = getattr(func, "__qualname__", None) or type(func).__qualname__
        name = f"{module}:{qualname}"
        if module not in ("", "__main__", "__mp_main__"):
            found: Any = sys.modules.get(module)
            for part in qualname.split("."):
                found = getattr(found, part, None)
            spec = getattr(sys.modules.get(module), "__spec__", None)
            if found is func and spec is not None:
                return cls(name, b"", text_digest(func), _version(module), path)
        import cloudpickle

        digest = fingerprint(func)  # says what cannot be pickled
        return cls(name, cloudpickle.dumps(func, protocol=5), digest, "", path)

    @staticmethod
    def _by_name(name: str) -> Compute:
        place, separator, attribute = name.rpartition(":")
        if not separator or not place or not attribute:
            raise FunctionError(f"'{name}' names no function. Write MODULE:FUNC or FILE.py:FUNC.")
        if place.endswith(".py"):
            if not os.path.isfile(place):
                raise FunctionError(
                    f"There is no file '{place}' to take '{attribute}' from. Check the path."
                )
            return _import_file(place, attribute)
        return _import(f"{place}:{attribute}", path=os.getcwd())

    def load(self) -> Compute:
        """The function itself.

        Raises
        ------
        FunctionError
            If it cannot be imported or unpickled here.
        PlanError
            If its source text has changed since the plan was made.
        """
        _add_to_path(self.path)
        if self.pickled:
            try:
                return pickle.loads(self.pickled)  # type: ignore[no-any-return]
            except Exception as error:
                raise FunctionError(
                    f"The pickled function '{self.name}' cannot be loaded here "
                    f"({type(error).__name__}: {error}). Put it into a module and name that."
                ) from error
        module, _, attribute = self.name.partition(":")
        spec = PathFinder.find_spec(module, list(self.path)) if module in _from_files else None
        loaded = getattr(sys.modules.get(module), "__file__", None)
        if spec is not None and spec.origin is not None and spec.origin != loaded:
            func = _import_file(spec.origin, attribute)  # the name belongs to another plan by now
        else:
            brought = module not in sys.modules
            func = _import(self.name)
            if brought and "." not in module:  # another plan's module of that name may replace it
                _from_files.add(module)
        if text_digest(func) != self.digest:
            raise PlanError(
                f"The function '{self.name}' has changed since the plan was made, and old and new "
                "results would be mixed. Start over (in the shell: --fresh)."
            )
        return func


def takes(func: Compute, keyword: str) -> bool:
    """Whether `func` names `keyword` among its parameters."""
    try:
        return keyword in inspect.signature(func).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
