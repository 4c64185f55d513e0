"""Where a module comes from: an installed package, the user's own text, or compiled code."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
import weakref
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from hpcio.errors import FunctionError

__all__ = [
    "Origin",
    "check_bytecode",
    "has_version",
    "module_of",
    "origin_of",
    "package_to_import",
    "version_of",
]

_SITE = {"site-packages", "dist-packages"}
# Where the standard library lies, compiled modules included; `sysconfig` takes long to say it.
_VERSIONED = os.path.basename(os.path.dirname(os.__file__))
_STANDARD = (
    os.path.dirname(os.__file__) + os.sep,
    os.path.join(sys.base_exec_prefix, sys.platlibdir, _VERSIONED) + os.sep,
)
# What comes with hpcio: an editable install does not lie where packages do.
_ROOT = Path(__file__).parents[2]
_PRODUCT = tuple(f"{_ROOT / name}{os.sep}" for name in ("hpcio", "slurm"))


@dataclass(frozen=True)
class Origin:
    """Where the code of a module is from.

    Attributes
    ----------
    package : str
        The installed package, or ``python`` for its own library; ``""`` for the user's own.
    compiled : str
        The file of the user's own compiled extension; ``""`` for all else.
    """

    package: str = ""
    compiled: str = ""


def origin_of(name: str) -> Origin:
    """Where a module is from.

    Parameters
    ----------
    name : str
        As in `sys.modules`; one that is not there is taken for the user's own.

    Returns
    -------
    Origin
    """
    module = sys.modules.get(name)
    if module is None or name in ("__main__", "__mp_main__"):
        return Origin()
    spec = getattr(module, "__spec__", None)
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    top = name.partition(".")[0]
    if file is None:  # a package without __init__.py
        file = next((os.path.join(p, "__init__.py") for p in getattr(module, "__path__", ())), None)
    return _origin(top, file)


@functools.cache
def _origin(top: str, file: str | None) -> Origin:
    if file is None or file in ("built-in", "frozen"):
        return Origin("python" if top in sys.stdlib_module_names else "")
    if (_SITE & set(Path(file).parts) or file.startswith(_PRODUCT)) and version_of(top):
        return Origin(top)
    if file.startswith(_STANDARD) and not _SITE & set(Path(file).parts):
        return Origin("python")
    return Origin(compiled=file if file.endswith(tuple(EXTENSION_SUFFIXES)) else "")


@functools.cache
def version_of(package: str) -> str:
    """The version of an installed package, by the name that it is imported by; ``""`` if none."""
    if package == "python":
        return ".".join(map(str, sys.version_info[:3]))
    version = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(version, str):
        return version
    return _version_in_metadata(package)


@functools.cache
def _version_in_metadata(package: str) -> str:
    from importlib import metadata  # takes a moment, and few packages need it

    try:  # most are installed under the name that they are imported by
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        pass
    else:
        if any(file.parts[0] in (package, f"{package}.py") for file in installed.files or ()):
            return installed.version
    # This reads the metadata of whatever is installed.
    names = metadata.packages_distributions().get(package, [])
    return metadata.version(names[0]) if names else ""


def has_version(package: str, version: str) -> bool:
    """Whether an installed package calls itself by a version, or was installed by it."""
    known = version_of(package)
    if version == known or package == "python":
        return version == known
    if version == _version_in_metadata(package):  # each worker asks, and this may be slow
        return True
    if package in sys.modules or module_of(package) is None:
        return False
    version_of.cache_clear()  # now that it is imported, it may say it otherwise
    return version == version_of(package)


def package_to_import(name: str) -> str:
    """The installed package that an import statement would take a module from; ``""`` if none."""
    if name in sys.modules:
        return origin_of(name).package
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    folders = spec.submodule_search_locations or ()
    inside = next((os.path.join(folder, "__init__.py") for folder in folders), None)
    return _origin(top, spec.origin or inside).package


def module_of(name: str) -> types.ModuleType | None:
    """A module that a function imports when it is called.

    It is imported now, as the call would do. None if there is none of that name.
    """
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit):  # noqa: BLE001  (the function may be prepared for that)
        return None


# Modules that were looked at, with the spec that they were loaded by: `reload` gives them another.
_checked: weakref.WeakKeyDictionary[types.ModuleType, object] = weakref.WeakKeyDictionary()


def check_bytecode(module: types.ModuleType) -> None:
    """Raise FunctionError if a module was loaded from bytecode that is not that of its text.

    Python takes bytecode for that of a text of the same size and time, and ``rsync -t`` or an
    archive may bring another text of the same size and time.

    Parameters
    ----------
    module : module
        One of the user's own.
    """
    spec = getattr(module, "__spec__", None)
    if _checked.get(module, _checked) is not spec:
        _compare_bytecode(module)
        _checked[module] = spec


def _compare_bytecode(module: types.ModuleType) -> None:
    cached, file = getattr(module, "__cached__", None), getattr(module, "__file__", None)
    if not cached or not file or not (os.path.exists(cached) and os.path.exists(file)):
        return
    import marshal

    stored, text, stat = Path(cached).read_bytes(), Path(file).read_bytes(), os.stat(file)
    flags, time, size = (int.from_bytes(stored[k : k + 4], "little") for k in (4, 8, 12))
    if flags == 0 and (time, size) != (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF):
        return  # Python has compiled the text anew
    if stored[:4] != importlib.util.MAGIC_NUMBER or flags & 0b10:
        return  # Python does not use it, or has compared it
    try:
        code = marshal.loads(stored[16:])
    except (EOFError, ValueError, TypeError):  # Python does not use it, either
        return
    if code != compile(text, code.co_filename, "exec", dont_inherit=True):
        raise FunctionError(
            f"The bytecode of '{file}' is that of another text. Remove '{cached}', and import the "
            "module in a new Python."
        )
