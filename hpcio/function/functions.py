"""Compute functions by name: how a plan remembers a function, and how a worker finds it."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

from hpcio.errors import FunctionError, HpcioWarning, PlanError
from hpcio.fingerprints import Fingerprint, fingerprint, has_version, version_of
from hpcio.function.arguments import pickled
from hpcio.words import START_OVER

__all__ = ["Function", "check_versions", "functions_named", "other_versions", "takes"]

Compute = Callable[..., Any]

# Where nobody may have edited anything.
_ITSELF = (
    "What differs from process to process, or fills while it computes, should be an argument, or "
    "be kept by functools.cache. "
)

# Modules that were imported from a FILE.py; another file of that name may replace them.
_from_files: set[str] = set()


class _Installed:
    """Finds what hpcio imports late, the standard library included, where that is installed.

    A folder is on the path for the modules of a function, and may hold files of any names. They
    count when these modules are imported, and hide nothing from hpcio afterwards.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._aside = 0

    def hide(self, folder: str) -> None:
        """Pass over a folder of the path."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._folders.add(folder)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let all folders count, in their order."""
        self._aside += 1
        try:
            yield
        finally:
            self._aside -= 1

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As Python asks a finder of ``sys.meta_path``."""
        if path is None and not self._aside and (name in _OURS or name in sys.stdlib_module_names):
            return PathFinder.find_spec(name, [p for p in sys.path if p not in self._folders])
        return None


# Packages that hpcio imports when they are needed.
_OURS = {
    "IPython", "cloudpickle", "dask", "dask_jobqueue", "distributed", "hdf5plugin", "jinja2",
    "markupsafe", "matplotlib", "mpi4py", "rich",
}  # fmt: skip
_installed = _Installed()


def _lies_in(folder: str, module: str) -> bool:
    """Whether a module that is not loaded yet would be taken from a folder, if that came first."""
    top = module.partition(".")[0]
    found = None if top in sys.modules else PathFinder.find_spec(top, [folder])
    # A folder without modules of Python is a package only where there is no other.
    return found is not None and (found.origin is not None or PathFinder.find_spec(top) is None)


def _import(name: str, *, path: str | None = None) -> Any:
    """What ``MODULE:NAME`` names."""
    module_name, _, attribute = name.partition(":")
    if path is not None and path not in sys.path:
        sys.path.insert(0, path)
        _installed.hide(path)
    try:
        with _installed.aside():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may end with sys.exit(main())
        if isinstance(error, ModuleNotFoundError) and error.name == module_name:
            hint = "Check the name and that its folder is on PYTHONPATH."
        elif isinstance(error, EOFError):  # a disk was full when Python wrote bytecode
            hint = "Bytecode was cut short: remove the folder __pycache__ beside the module."
        else:
            hint = "Mend the module, or import what it needs first."
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
    return found


def _import_file(path: str, attribute: str) -> Any:
    """Something of a file as it is now, even if another file of that name was imported before."""
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
            _installed.hide(folder)


def _version(module_name: str) -> str:
    module = sys.modules.get(module_name.partition(".")[0])
    version = getattr(module, "__version__", "")
    return version if isinstance(version, str) else ""


def _by_name(name: str) -> Any:
    """What ``MODULE:NAME`` or ``FILE.py:NAME`` names."""
    place, separator, attribute = name.rpartition(":")
    if not separator or not place or not attribute:
        raise FunctionError(f"'{name}' names no function. Write MODULE:FUNC or FILE.py:FUNC.")
    if place.endswith(".py"):
        if not os.path.isfile(place):
            raise FunctionError(
                f"There is no file '{place}' to take '{attribute}' from. Check the path."
            )
        return _import_file(place, attribute)
    here = os.getcwd()
    return _import(f"{place}:{attribute}", path=here if _lies_in(here, place) else None)


def _callable(found: Any, name: str) -> Compute:
    if not callable(found):
        raise FunctionError(f"'{name}' is a {type(found).__name__}. Name a function instead.")
    return found  # type: ignore[no-any-return]


def functions_named(name: str) -> tuple[Compute, ...]:
    """Several functions, which are a tuple that ``MODULE:NAME`` or ``FILE.py:NAME`` names.

    Raises
    ------
    FunctionError
        If it cannot be imported, or is none.
    """
    found = _by_name(name)
    if not isinstance(found, tuple | list):
        raise FunctionError(
            f"'{name}' is a {type(found).__name__}. Name a tuple of functions instead."
        )
    return tuple(found)


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
    fingerprint : Fingerprint
        Of all that is loaded and decides what it computes. A changed function makes another
        plan.
    version : str
        ``__version__`` of its package, or ``""``.
    path : tuple of str
        Folders to import from, as they were in the session that made the plan.
    """

    name: str
    pickled: bytes = field(repr=False)
    fingerprint: Fingerprint
    version: str
    path: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.name + (" (pickled)" if self.pickled else "")

    @property
    def digest(self) -> str:
        """The digest of the fingerprint."""
        return self.fingerprint.digest

    @classmethod
    def of(cls, func: Compute | str) -> Function:
        """Describe a function, given itself or by ``MODULE:FUNC`` or ``FILE.py:FUNC``.

        Raises
        ------
        FunctionError
            If it cannot be imported, is not callable, or cannot be pickled.
        """
        if isinstance(func, str):
            func = _callable(_by_name(func), func)
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
                return cls(name, b"", fingerprint(func), _version(module), path)
        payload = pickled(func)
        # Of what workers will get: an object may be made up otherwise before it was pickled.
        return cls(name, payload, fingerprint(pickle.loads(payload)), "", path)

    def load(
        self, *, live: Compute | None = None, same_versions: bool = False, remedy: str = ""
    ) -> Compute:
        """The function itself, if it is what the plan was made for.

        Parameters
        ----------
        live : callable, optional
            The function as this process has it; it is taken if it is the very same.
        same_versions : bool
            Refuse packages of other versions than the plan was made with, instead of warning.
        remedy : str
            What is said to do if it has changed.

        Raises
        ------
        FunctionError
            If it cannot be imported or unpickled here.
        PlanError
            If anything that it reaches has changed since the plan was made.
        """
        if live is not None and fingerprint(live).digest == self.digest:
            return live
        _add_to_path(self.path)
        self._check_python()
        func = self._unpickled() if self.pickled else self._imported()
        changes = fingerprint(func).changes(self.fingerprint)
        if changes:
            raise PlanError(
                f"The function '{self.name}' has changed since the plan was made (in "
                f"{_listed(changes)}). {_ITSELF * any(map(_may_change_itself, changes))}"
                f"{remedy or f'Undo the change, or {START_OVER}.'}"
            )
        check_versions(self.fingerprint.packages, same=same_versions)
        return func

    def as_it_is(self, *, live: Compute | None = None) -> Compute:
        """The function as it is now, be it another than the plan was made for.

        Raises
        ------
        FunctionError
            If it cannot be imported or unpickled here.
        """
        if live is not None:
            return live
        _add_to_path(self.path)
        return self._unpickled() if self.pickled else self._imported()

    def _check_python(self) -> None:
        planned, here = self.fingerprint.packages["python"], version_of("python")
        if planned.split(".")[:2] != here.split(".")[:2]:
            raise PlanError(
                f"The plan was made by Python {planned}, and this is Python {here}, which "
                f"compiles '{self.name}' otherwise. Use that Python, or {START_OVER}."
            )

    def _unpickled(self) -> Compute:
        try:
            return pickle.loads(self.pickled)  # type: ignore[no-any-return]
        except Exception as error:
            raise FunctionError(
                f"The pickled function '{self.name}' cannot be loaded here "
                f"({type(error).__name__}: {error}). Put it into a module and name that."
            ) from error

    def _imported(self) -> Compute:
        module, _, attribute = self.name.partition(":")
        spec = PathFinder.find_spec(module, list(self.path)) if module in _from_files else None
        loaded = getattr(sys.modules.get(module), "__file__", None)
        if spec is not None and spec.origin is not None and spec.origin != loaded:
            # The name belongs to another plan by now.
            return _callable(_import_file(spec.origin, attribute), self.name)
        brought = module not in sys.modules
        func = _callable(_import(self.name), self.name)
        if brought and "." not in module:  # another plan's module of that name may replace it
            _from_files.add(module)
        return func


def other_versions(planned: Mapping[str, str]) -> dict[str, str]:
    """The packages whose versions here are not the planned ones, with those that they have."""
    return {
        name: version_of(name) or "not installed"
        for name, version in planned.items()
        if not has_version(name, version)
    }


def check_versions(planned: Mapping[str, str], *, same: bool) -> None:
    """Warn of packages whose versions here are not the planned ones; with `same`, refuse."""
    others = other_versions(planned)
    if not others:
        return
    said = ", ".join(f"{name} {planned[name]} (now {now})" for name, now in others.items())
    message = f"The plan was made with {said}."
    if same:
        raise PlanError(f"{message} Use that environment, or {START_OVER}.")
    warnings.warn(
        f"{message} Results may differ from earlier ones; same_versions=True (in the shell: "
        "hpcio run --same-versions ...) refuses that.",
        HpcioWarning,
        stacklevel=3,
    )


def _may_change_itself(part: str) -> bool:
    """Whether a part may change without being edited: a function with nothing but code does not."""
    module, _, attribute = part.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    func = inspect.unwrap(found) if isinstance(found, FunctionType) else found
    if not isinstance(func, FunctionType) or func.__closure__ or func.__dict__:
        return True
    given = (*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values())
    return any(type(value).__hash__ is None for value in given)


def _listed(names: Sequence[str], most: int = 3) -> str:
    """The names of parts, for a message."""
    said = ", ".join(f"'{name}'" if name else "its own value" for name in names[:most])
    if len(names) > most:
        said += f" and {len(names) - most} more"
    return said


def takes(func: Compute, keyword: str) -> bool:
    """Whether `func` names `keyword` among its parameters."""
    try:
        return keyword in inspect.signature(func).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
