"""What a code object reads besides its arguments: globals, and modules that it imports."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

__all__ = ["Import", "Reads", "fields_of", "reads_of"]

_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}


@dataclass(frozen=True)
class Import:
    """An import statement: ``from module import names``, with dots as its level."""

    module: str
    level: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Reads:
    """What a code object reads, that of nested functions included.

    Attributes
    ----------
    globals : tuple of tuple of str
        The name of a global, and the attributes of it that are looked up, such as
        ``("np", "linalg", "norm")``.
    imports : tuple of Import
    """

    globals: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]


@functools.cache
def reads_of(code: CodeType) -> Reads:
    """What a code object reads."""
    globals_: dict[tuple[str, ...], None] = {}
    imports: dict[Import, None] = {}
    for one in _with_nested(code):
        instructions = [i for i in dis.get_instructions(one) if i.opname != "EXTENDED_ARG"]
        for k, instruction in enumerate(instructions):
            if instruction.opname in _GLOBALS:
                chain = _chain(instructions, k)
                if chain is not None:
                    globals_[chain] = None
            elif instruction.opname == "IMPORT_NAME":
                level, names = (instructions[k - back].argval for back in (2, 1))
                imports[Import(instruction.argval, level, tuple(names or ()))] = None
    return Reads(tuple(globals_), tuple(imports))


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _chain(instructions: list[dis.Instruction], at: int) -> tuple[str, ...] | None:
    """The global that is loaded, with its attributes; None if it is loaded to set one."""
    names = [instructions[at].argval]
    for after in instructions[at + 1 :]:
        if after.opname not in _ATTRIBUTES:
            return None if after.opname in ("STORE_ATTR", "DELETE_ATTR") else tuple(names)
        names.append(after.argval)
    return tuple(names)


def fields_of(code: CodeType) -> tuple[object, ...]:
    """What a code object does, without where it was typed and how it is called."""
    return (
        code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, code.co_freevars,
        code.co_cellvars, code.co_consts,
    )  # fmt: skip
