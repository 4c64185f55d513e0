"""The file of a user's defaults, in sections of TOML.

.. code-block:: toml

    [plan]
    writer = "direct"

    [submit]
    partition = "short"
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcio.errors import OptionError, as_output_error
from hpcio.machine.filesystems import read_whole, write_whole

__all__ = ["add_section", "read_section", "settings_file"]

_SECTIONS = ("plan", "submit")


def settings_file() -> Path:
    """Where it is: ``$HPCIO_CONFIG``, or ``~/.config/hpcio/config.toml``."""
    named = os.environ.get("HPCIO_CONFIG")
    if named:
        return Path(named)
    # Of a user without a home, `~` stays as it is: there is no such file.
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "hpcio", "config.toml")


def read_section(name: str) -> dict[str, Any]:
    """What the file says in a section, those within it included; {} without a file.

    Raises
    ------
    OptionError
        If the file is no TOML, or has sections that nobody reads.
    """
    path = settings_file()
    try:
        text = read_whole(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OptionError(f"'{path}' cannot be read: {error}. Mend or remove it.") from error
    section = _parsed(path, text).get(name, {})
    if not isinstance(section, dict):
        raise OptionError(f"'{name}' in '{path}' is no section. Write [{name}].")
    return section


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    import tomllib  # most have no file

    try:
        said = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise OptionError(f"'{path}' cannot be read: {error}. Mend or remove it.") from error
    for name in said.keys() - {*_SECTIONS}:
        raise OptionError(
            f"'{path}' has '{name}', which nobody reads. Sections are [plan], [submit] and "
            "[submit.CLUSTER]."
        )
    return said


def add_section(name: str, values: Mapping[str, str]) -> Path:
    """Add a section of texts to the file, which is made if it is not there.

    Raises
    ------
    OptionError
        If there is such a section already.
    OutputError
        If the file cannot be written.
    """
    path = settings_file()
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    if read_section(name):
        raise OptionError(
            f"'{path}' has a section [{name}] already. Put into it what you want of this:\n{lines}"
        )
    try:
        final = Path(os.path.realpath(path))  # a link stays one
        final.parent.mkdir(parents=True, exist_ok=True)
        before, mode = b"", 0o666
        if final.exists():
            before, mode = read_whole(final) + b"\n", final.stat().st_mode & 0o777
        write_whole(final, before + f"[{name}]\n{lines}\n".encode(), mode=mode)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path
