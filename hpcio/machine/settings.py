"""The file of a user's defaults, in sections of TOML.

.. code-block:: toml

    [plan]
    writer = "direct"

    [submit]
    partition = "short"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcio.errors import OptionError, as_output_error
from hpcio.machine.filesystems import read_whole, write_whole

__all__ = ["bench_file", "keep_bench", "read_section", "set_in_section", "settings_file"]

_SECTIONS = ("plan", "submit")


def settings_file() -> Path:
    """Where it is: ``$HPCIO_CONFIG``, or ``~/.config/hpcio/config.toml``."""
    named = os.environ.get("HPCIO_CONFIG")
    if named:
        return Path(named)
    # Of a user without a home, `~` stays as it is: there is no such file.
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "hpcio", "config.toml")


def bench_file() -> Path:
    """Where ``hpcio config --take`` keeps the benchmark that it was given: beside the settings."""
    return settings_file().with_name("bench.json")


def keep_bench(path: str | os.PathLike[str]) -> Path:
    """Keep a copy of a benchmark's JSON beside the settings; where it is.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    kept = bench_file()
    try:
        data = read_whole(path)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, data, mode=0o666)
    except OSError as error:
        raise as_output_error(error, kept) from error
    return kept


def read_section(name: str) -> dict[str, Any]:
    """What the file says in a section, those within it included; {} without a file.

    Raises
    ------
    OptionError
        If the file is no TOML, or has sections that nobody reads.
    """
    path = settings_file()
    section = _parsed(path, _text(path)).get(name, {})
    if not isinstance(section, dict):
        raise OptionError(f"'{name}' in '{path}' is no section. Write [{name}].")
    return section


def _text(path: Path) -> str:
    """What the file says; "" without one."""
    try:
        return read_whole(path).decode("utf-8-sig")  # some editors put a mark before all
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"'{path}' cannot be read: {error}. Mend or remove it.") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    import tomllib  # most have no file

    try:
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"'{path}' cannot be read: {error}. Mend or remove it.") from error
    for name in said.keys() - {*_SECTIONS}:
        raise OptionError(
            f"'{path}' has '{name}', which nobody reads. Sections are [plan], [submit] and "
            "[submit.CLUSTER]."
        )
    return said


def set_in_section(name: str, values: Mapping[str, str]) -> Path:
    """Set some values of a section of the file; all else of it, comments too, stays as it is.

    The file is made if it is not there.

    Raises
    ------
    OptionError
        If the file is no TOML, or has sections that nobody reads.
    OutputError
        If it cannot be written.
    """
    import tomlkit

    read_section(name)
    path = settings_file()
    final = Path(os.path.realpath(path))  # a link stays one
    document = tomlkit.parse(_text(path))
    if name in document:
        document[name].update(values)
    else:
        table = tomlkit.table()
        table.update(values)
        if document.body:
            document.add(tomlkit.nl())
        document.add(name, table)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        mode = final.stat().st_mode & 0o777 if final.exists() else 0o666
        write_whole(final, tomlkit.dumps(document).encode(), mode=mode)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path
