"""Everything that a function reaches: what is loaded and decides what it computes.

Not the text of files is looked at, but what is loaded and will run: code objects, the values of
the globals that they read, closures, defaults, classes, instances. What belongs to an installed
package is taken by the version of the package, the user's own compiled code by its file.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import hashlib
import importlib
import inspect
import itertools
import marshal
import pkgutil
import random
import runpy
import sys
import types
import weakref
from collections import Counter, deque
from collections.abc import Callable, Mapping
from importlib.util import resolve_name
from typing import Any, Literal

import numpy as np

from hpcio.fingerprints.codes import fields_of, reads_of
from hpcio.fingerprints.contents import content_of, digest_of_file, without_gathered
from hpcio.fingerprints.origins import (
    check_bytecode,
    module_of,
    origin_of,
    package_to_import,
    version_of,
)

__all__ = ["Walk"]

# Values of these types are what they look like, and nothing else.
_PLAIN = {type(None), bool, int, float, complex, str, bytes, type(...)}
# What a class has besides what decides: where it was typed, what others keep there, and what it
# inherits from `type`.
_BESIDE = {
    "__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__annotations__",
    "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__",
    "__annotations_cache__", "_abc_impl",
    # Made from other attributes, with addresses in them, or filled while it is used.
    "__pydantic_core_schema__", "__pydantic_validator__", "__pydantic_serializer__",
    "_value2member_map_",
}  # fmt: skip
# Functions that reach things by names which are made while they run.
_BY_NAME: set[Any] = {
    eval, exec, __import__, importlib.import_module, runpy.run_path, runpy.run_module,
    pkgutil.resolve_name, inspect.getmodule, sys._getframe,
}  # fmt: skip
# Attributes that lead to things which no code names.
_AROUND = {"__globals__", "f_globals", "f_locals", "f_back", "__subclasses__", "gi_frame"}
# Where universal functions are known by their names.
_WITH_UFUNCS = ("numpy", "scipy.special")
# What is said of a class or function, which counts only if somebody asks for it.
_SAID = {"__annotations__", "__doc__"}
_MEMBERS = (
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.MethodWrapperType,
)


class Walk:
    """Goes through everything that a value reaches, one named part after the other."""

    def __init__(self, *, within_set: bool = False) -> None:
        self.parts: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self.unseen: dict[str, None] = {}
        self.generators: dict[str, None] = {}
        self._hash = hashlib.sha256()
        self._part = ""
        # Whether what cannot be looked into is passed over: inside of installed packages.
        self._lenient = False
        self._waiting: deque[tuple[str, bool, Callable[[], None]]] = deque()
        self._names: dict[object, str] = {}
        self._used: Counter[str] = Counter()
        # Ids are unique only as long as things live.
        self._kept: list[object] = []
        # Containers that are being looked into, which may hold themselves; and those that were,
        # by their digests: one may be reached on many ways.
        self._open: dict[int, int] = {}
        self._done: dict[int, bytes] = {}
        self._within_set = within_set
        # Generators that all of Python shares: who draws from them, and which are seeded.
        self._drawn: list[tuple[int, str]] = []
        self._seeded: set[int] = set()

    # ---- parts

    def part(self, name: str, write: Callable[[], None]) -> None:
        """Digest one part under its name."""
        self._hash, self._part, self._open, self._done = hashlib.sha256(), name, {}, {}
        write()
        self.parts[name] = self._hash.hexdigest()[:32]

    def finish(self) -> None:
        """Digest the parts that others have named."""
        while self._waiting:
            name, self._lenient, write = self._waiting.popleft()
            self.part(name, write)
        for owner, part in self._drawn:
            if owner not in self._seeded:
                self.unseen[
                    f"{part or 'an argument'}: it draws from a generator that all of Python shares"
                ] = None

    def _named(
        self, key: object, name: str, write: Callable[[], None], *, lenient: bool = False
    ) -> None:
        """Mention a part by its name, and look into it later."""
        if key not in self._names:
            self._used[name] += 1
            number = self._used[name]
            self._names[key] = name if number == 1 else f"{name}#{number}"
            self._waiting.append((self._names[key], lenient, write))
        self._put("part", self._names[key].encode())

    def _put(self, tag: str, content: bytes = b"") -> None:
        self._hash.update(b"%s %d:" % (tag.encode(), len(content)))
        self._hash.update(content)

    def _cannot(self, what: str) -> None:
        if not self._lenient:
            self.unseen[f"{self._part or 'an argument'}: {what}"] = None
        self._put("unseen")

    # ---- values

    def value(self, obj: Any) -> None:
        """Digest a value, whatever it is."""
        kind = type(obj)
        if kind in _PLAIN:
            self._put("plain", marshal.dumps(obj, 2))
        elif kind in (list, tuple):
            self._sequence(obj, kind.__name__)
        elif kind is dict:
            self._pairs(obj, "dict")
        elif kind in (set, frozenset):
            self._set(obj, kind.__name__)
        elif kind is np.ndarray or isinstance(obj, np.generic):
            self._array(obj)
        elif isinstance(obj, type):
            self._class(obj)
        elif (write := _KINDS.get(kind)) is not None:
            write(self, obj)
        elif kind in _MEMBERS:
            self._put("member", obj.__qualname__.encode())
        else:
            self._instance(obj)

    def _set(self, items: Any, tag: str) -> None:
        if all(map(_is_plain, items)):
            self._put(tag, repr(sorted(marshal.dumps(item, 2) for item in items)).encode())
        elif self._within_set:  # it may be the set that is being sorted
            self._put(tag, b"%d" % len(items))
        else:
            # Parts are numbered as they are met: they are met in the order of what they are.
            ordered = sorted(items, key=_digest_in_set)
            self._within(items, tag, lambda: self._all(ordered))

    def _sequence(self, items: Any, tag: str) -> None:
        if _PLAIN.issuperset(map(type, items)):
            self._put(tag, marshal.dumps(items, 2))
        else:
            self._within(items, tag, lambda: self._all(items))

    def _all(self, items: Any) -> None:
        for item in items:
            self.value(item)

    def _pairs(self, items: Mapping[Any, Any], tag: str) -> None:
        if _PLAIN.issuperset(map(type, items)) and _PLAIN.issuperset(map(type, items.values())):
            self._put(tag, marshal.dumps((tuple(items), tuple(items.values())), 2))
        else:
            self._within(
                items, tag, lambda: self._all(itertools.chain.from_iterable(items.items()))
            )

    def _within(self, obj: Any, tag: str, write: Callable[[], None]) -> None:
        """Look into something that may hold itself, once."""
        if id(obj) in self._open:
            self._put("around", b"%d" % (len(self._open) - self._open[id(obj)]))
            return
        if id(obj) not in self._done:
            around, self._hash = self._hash, hashlib.sha256()
            self._open[id(obj)] = len(self._open)
            write()
            del self._open[id(obj)]
            self._kept.append(obj)
            self._done[id(obj)], self._hash = self._hash.digest(), around
        self._put(tag, self._done[id(obj)])

    def _array(self, array: Any) -> None:
        self._put(type(array).__name__, repr((array.dtype, array.shape)).encode())
        if array.dtype.names:  # there may be anything between the fields
            self._all(array[name] for name in array.dtype.names)
            return
        if array.dtype.hasobject or array.dtype.kind not in "biufcmMSUV":
            self._within(array, "items", lambda: self.value(array.tolist()))
        else:
            order: Literal["F", "C"] = "F" if array.flags.fnc else "C"
            self._put(order, array.tobytes(order))

    # ---- code

    def _function(self, func: types.FunctionType) -> None:
        space = func.__globals__
        module = space.get("__name__") or ""
        package = self._package(module)
        name = f"{func.__module__ or module}.{func.__qualname__}"
        if func in _BY_NAME:
            self._by_name(func)
        if package and not _holds(func):
            self._put("installed", f"{module}.{func.__qualname__}".encode())
            return
        self._kept.append(func)
        # A decorator of a package may hold a function of the user.
        self._named(id(func), name, lambda: self._of_function(func, package), lenient=bool(package))

    def _of_function(self, func: types.FunctionType, package: str) -> None:
        if package:
            self._put("installed", func.__code__.co_qualname.encode())
        else:
            module = sys.modules.get(func.__globals__.get("__name__", ""))
            if module is not None and vars(module) is func.__globals__:
                self._opaque(module)
            self._code(func.__code__)
            self._globals(func)
        for part in (func.__defaults__, func.__kwdefaults__, func.__dict__):
            self.value(part)
        for variable, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
            if not (package == "python" and variable == "cache_token"):  # of `singledispatch`
                self._cell(cell)

    def _cell(self, cell: types.CellType) -> None:
        try:
            self.value(cell.cell_contents)
        except ValueError:  # nothing has been assigned to it yet
            self._put("empty")

    def _code(self, code: types.CodeType) -> None:
        self._put("code")
        for name in sorted(_AROUND.intersection(code.co_names)):
            self._cannot(f"it asks for {name}, and what that reaches is not seen")
        for field in fields_of(code):
            self.value(field)

    def _globals(self, func: types.FunctionType) -> None:
        space, reads = func.__globals__, reads_of(func.__code__)
        for chain in reads.globals:
            self._global(func, space, chain)
        for one in reads.imports:
            package = space.get("__package__") or space.get("__name__", "").rpartition(".")[0]
            try:
                name = resolve_name("." * one.level + one.module, package)
            except ImportError:
                self._put("missing", one.module.encode())
                continue
            if one.is_bound and not package_to_import(name):
                self._imported_in_part(name)
            else:
                self._imported(name, one.names)
        for top, *attributes in reads.modules:
            if not package_to_import(top) and (module := module_of(top)) is not None:
                self._attribute({top: module}, top, attributes)

    def _imported_in_part(self, name: str) -> None:
        """A module of the user's own, some attributes of which are looked up."""
        self._put("import", name.encode())
        if module_of(name) is None:
            self._put("missing")

    def _global(
        self, func: types.FunctionType, space: dict[str, Any], chain: tuple[str, ...]
    ) -> None:
        name, *attributes = chain
        if name in space:
            self._attribute(space, name, attributes)
        elif not hasattr(builtins, name):
            self._put("missing", name.encode())
        elif self._is_foreign(getattr(builtins, name)):
            self.value(getattr(builtins, name))
        elif (found := getattr(builtins, name)) in _BY_NAME:
            self._by_name(found)
        elif found is globals:
            self._space(func, space)

    def _by_name(self, func: Callable[..., Any]) -> None:
        self._cannot(f"it calls {func.__name__}(), and what that reaches is not seen")

    def _space(self, func: types.FunctionType, space: dict[str, Any]) -> None:
        """All globals of a module."""
        if sys.modules.get(space.get("__name__", "")) is None or space["__name__"] == "__main__":
            self._cannot("it calls globals(), and only a module keeps all of its globals")
            return
        for name in sorted(n for n in space if not n.startswith("__")):
            if space[name] is not func:
                self._attribute(space, name, [])

    def _attribute(self, space: dict[str, Any], name: str, attributes: list[str]) -> None:
        """What stands under a name in a module, or behind it in other modules."""
        obj, module = space[name], space.get("__name__", "")
        while isinstance(obj, types.ModuleType) and attributes:
            if self._opaque(obj):
                self._installed(obj, attributes)
                return
            module, space, name = obj.__name__, vars(obj), attributes.pop(0)
            try:
                obj = getattr(obj, name)
            except AttributeError:
                self._put("missing", f"{module}.{name}".encode())
                return
        self._label(space, f"{module}.{name}", obj)
        for asked in _SAID.intersection(attributes):
            self.value(getattr(obj, asked, None))

    def _installed(self, obj: Any, attributes: list[str]) -> None:
        """What stands in an installed module: its own, unless somebody else has put it there."""
        for name in attributes:
            try:  # a module may be loaded only now, as the call would do
                obj = getattr(obj, name) if isinstance(obj, types.ModuleType | type) else None
            except Exception:  # noqa: BLE001  (whatever that raises)
                obj = None
        if _is_seed(obj) or _is_common(getattr(obj, "__self__", None)):
            self._draw(obj)
        if obj is sys.modules:
            self._cannot("it looks into sys.modules, and what that reaches is not seen")
        elif isinstance(obj, types.FunctionType | types.BuiltinFunctionType) and obj in _BY_NAME:
            self._by_name(obj)
        elif type(obj) in _PLAIN or self._is_foreign(obj):
            self.value(obj)
        elif isinstance(called := getattr(obj, "__name__", None), str):
            self._put("called", called.encode())

    def _is_foreign(self, obj: Any) -> bool:
        """Whether something in an installed module was made by the user."""
        if isinstance(obj, types.FunctionType):
            return not self._package(obj.__globals__.get("__name__") or "")
        if isinstance(obj, functools.partial):
            return True
        kind = obj if isinstance(obj, type) else type(obj)
        return not self._package(kind.__module__)

    def _label(self, space: dict[str, Any], label: str, obj: Any) -> None:
        """A value that has a name in a module."""
        self._put("name", label.encode())
        if _is_seed(obj):
            self._draw(obj)
        if isinstance(obj, types.FunctionType | type | types.ModuleType):
            self.value(obj)  # they are parts of their own
        else:
            self._kept.append(space)
            self._named((id(space), label), label, lambda: self.value(obj))

    def _imported(self, name: str, names: tuple[str, ...]) -> None:
        self._put("import", repr((name, names)).encode())
        package = package_to_import(name)
        if package:  # whether it has been imported yet makes no difference
            self.packages[package] = version_of(package)
            return
        module = module_of(name)
        if module is None:
            self._put("missing")
        elif not names:
            self.value(module)
        elif not self._opaque(module):
            for one in names:
                if not hasattr(module, one):  # as the statement does
                    module_of(f"{name}.{one}")
                if hasattr(module, one):
                    self._label(vars(module), f"{name}.{one}", getattr(module, one))
                else:
                    self._put("missing", one.encode())

    # ---- modules and classes

    def _package(self, module: str) -> str:
        """The installed package that a module belongs to, which is noted; ``""`` if to none."""
        package = origin_of(module).package
        if package and package not in self.packages:
            self.packages[package] = version_of(package)
        return package

    def _opaque(self, module: types.ModuleType) -> bool:
        """Whether a module is taken as a whole: an installed one, or compiled code."""
        if self._package(module.__name__):
            self._put("installed", module.__name__.encode())
            return True
        file = origin_of(module.__name__).compiled
        if file:
            self._named(("file", file), file, lambda: self._put("file", digest_of_file(file)))
            return True
        check_bytecode(module)
        return False

    def _module(self, module: types.ModuleType) -> None:
        """A module that is handed around, so that anything of it may be used."""
        if self._opaque(module):
            return
        space = vars(module)
        names = sorted(n for n in space if not n.startswith("__") or n == "__getattr__")

        def write() -> None:
            for name in names:
                self._attribute(space, name, [])

        self._named(("module", module.__name__), module.__name__, write)

    def _class(self, cls: type) -> None:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if self._package(cls.__module__):
            self._put("installed", name.encode())
            return
        origin = sys.modules.get(cls.__module__)
        if origin is not None and cls.__module__ != "__main__" and self._opaque(origin):
            return
        self._kept.append(cls)
        self._named(id(cls), name, lambda: self._of_class(cls))

    def _of_class(self, cls: type) -> None:
        self.value(type(cls))
        self.value(cls.__bases__)
        for name, item in sorted(vars(cls).items()):
            if name not in _BESIDE:
                self._put("name", name.encode())
                self.value(item)

    def _builtin(self, func: Any) -> None:
        owner = func.__self__
        module = func.__module__ or ""
        if module and not self._package(module):
            self._opaque(sys.modules.get(module, builtins))
        if func in _BY_NAME:
            self._by_name(func)
        self._put("builtin", f"{module}.{func.__qualname__}".encode())
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.value(owner)

    def _generator(self, obj: Any) -> None:
        if _is_common(obj):
            self._drawn.append((id(obj), self._part))
        else:
            self.generators[self._part] = None

    def _method(self, method: types.MethodType) -> None:
        if _is_common(method.__self__):
            self._put("method", method.__name__.encode())
            self._draw(method)
        else:
            self._all((method.__func__, method.__self__))

    def _draw(self, func: Any) -> None:
        """A function of a generator that all of Python shares: whoever seeds it may draw."""
        owner = getattr(func, "__self__", None) or np.random.mtrand._rand
        if func.__name__ == "seed":
            self._seeded.add(id(owner))
        else:
            self._drawn.append((id(owner), self._part))

    # ---- anything else

    def _instance(self, obj: Any) -> None:
        """An object by what it is made of, as for a copy of it."""
        kind = type(obj)
        if _draws(obj):
            self._generator(obj)
            if _is_common(obj):
                return
        try:
            content = content_of(obj)
        except ValueError:
            self._cannot(f"a {kind.__module__}.{kind.__qualname__} cannot be looked into")
            return
        if content is not None:
            self._within(obj, kind.__qualname__, lambda: self._all(content))
            return
        if self._lenient and self._package(kind.__module__):
            self._put("installed", kind.__qualname__.encode())
            if (inside := getattr(obj, "__dict__", None)) is not None:
                self._within(obj, "state", lambda: self.value(dict(inside)))
            return
        try:
            reduce = copyreg.dispatch_table.get(kind)
            made = reduce(obj) if reduce is not None else obj.__reduce_ex__(4)
        except Exception:  # noqa: BLE001  (whatever it raises)
            self._cannot(f"a {kind.__module__}.{kind.__qualname__} cannot be looked into")
            return
        if isinstance(made, str):
            if not self._package(kind.__module__):
                self.value(getattr(obj, "__dict__", None))
            self._put("global", f"{getattr(obj, '__module__', '')}.{made}".encode())
            module = sys.modules.get(getattr(obj, "__module__", None) or "")
            if module is not None:
                self._opaque(module)
            return
        self._kept.append(made)

        def write() -> None:
            for k, part in enumerate(made):
                if k == 2:
                    self.value(without_gathered(kind, part) or None)
                else:  # the items of a list or dict come as iterators
                    self.value(list(part) if k in (3, 4) and part is not None else part)

        self._within(obj, kind.__qualname__, write)

    def _ufunc(self, func: np.ufunc) -> None:
        name = func.__name__
        if not any(getattr(sys.modules.get(m), name, None) is func for m in _WITH_UFUNCS):
            self._cannot(f"the universal function {name} cannot be looked into")
        self._put("ufunc", name.encode())


# Nothing is of `numpy.random` before somebody imports it, which takes a worker some time.


def _is_seed(func: object) -> bool:
    """Whether a function is `numpy.random.seed`, which is a method of nothing."""
    return "numpy.random" in sys.modules and func is np.random.seed


def _is_common(obj: object) -> bool:
    """Whether it is what draws for `numpy.random.normal`, or for `random.gauss`."""
    common = np.random.mtrand._rand if "numpy.random" in sys.modules else None
    return obj is random._inst or (common is not None and obj is common)


def _draws(obj: object) -> bool:
    """Whether it is a generator of random numbers, or what seeds one."""
    if isinstance(obj, random.Random):
        return True
    if "numpy.random" not in sys.modules:
        return False
    made = np.random
    kinds = (made.Generator, made.RandomState, made.BitGenerator, made.SeedSequence)
    return isinstance(obj, kinds)


def _is_plain(item: Any) -> bool:
    return type(item) in _PLAIN or (type(item) is tuple and _PLAIN.issuperset(map(type, item)))


def _digest_in_set(item: Any) -> str:
    walk = Walk(within_set=True)
    walk.part("", lambda: walk.value(item))
    walk.finish()
    return repr(sorted(walk.parts.items()))


def _holds(func: types.FunctionType) -> bool:
    """Whether a function of a package holds things of others, as one made by a decorator does."""
    return func.__closure__ is not None or bool(func.__dict__)


_KINDS: dict[type, Callable[[Walk, Any], None]] = {
    types.FunctionType: Walk._function,
    types.BuiltinFunctionType: Walk._builtin,
    types.CodeType: Walk._code,
    types.ModuleType: Walk._module,
    types.CellType: Walk._cell,
    types.MappingProxyType: lambda w, p: w._pairs(p, "proxy"),
    types.MethodType: Walk._method,
    staticmethod: lambda w, m: w._all(("static", m.__func__)),
    classmethod: lambda w, m: w._all(("class", m.__func__)),
    property: lambda w, p: w._all(("property", p.fget, p.fset, p.fdel)),
    functools.cached_property: lambda w, p: w._all(("property", p.func)),
    functools._lru_cache_wrapper: lambda w, f: w._all(("cache", f.__wrapped__)),
    functools.partial: lambda w, p: w._all(("partial", p.func, p.args, p.keywords, vars(p))),
    np.ufunc: Walk._ufunc,
    slice: lambda w, s: w._all(("slice", s.start, s.stop, s.step)),
    weakref.ref: lambda w, r: w.value(r()),
    weakref.WeakValueDictionary: lambda w, d: w._pairs(dict(d), "weak"),
    weakref.WeakKeyDictionary: lambda w, _: w._put("weak"),  # caches are such
}
