"""The text that decides what a function does: its own, and what it uses of its module."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["text_digest"]


def text_digest(func: Callable[..., Any]) -> str:
    """A digest of a function's source text, and of what it uses of its own module.

    Helpers, classes, constants and imports of the same module count, also those that are
    used through others. Comments, layout and the rest of the module do not. Other modules
    are not looked into.

    Parameters
    ----------
    func : callable
        The function inside its decorators is looked at.

    Returns
    -------
    str
        Hexadecimal; ``""`` if there is no source, as for a built-in function.
    """
    inner = inspect.unwrap(func)
    try:
        own = ast.parse(inspect.cleandoc("\n" + inspect.getsource(inner)))
        module = inspect.getmodule(inner)
        whole = ast.parse(inspect.getsource(module)) if module else own
    except (OSError, TypeError, SyntaxError):  # built in, or part of a line such as a lambda
        return _digest_of_text(inner)
    defined: dict[str, list[ast.stmt]] = {}
    for statement in whole.body:
        for name in _names_bound(statement):
            defined.setdefault(name, []).append(statement)
    reached: dict[str, None] = {}
    texts = [ast.dump(own)]
    waiting = _names_used(own)
    while waiting:
        name = waiting.pop()
        if name in reached or name not in defined:
            continue
        reached[name] = None
        for statement in defined[name]:
            waiting |= _names_used(statement)
    texts += [ast.dump(s) for name in sorted(reached) for s in defined[name]]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _digest_of_text(func: Callable[..., Any]) -> str:
    try:
        return hashlib.sha256(inspect.getsource(func).encode()).hexdigest()
    except (OSError, TypeError):
        return ""


def _names_used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _names_bound(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    bound = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            bound.add(node.id)
    return bound
