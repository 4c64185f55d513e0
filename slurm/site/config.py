"""Defaults of submissions: one TOML file, for you and for each cluster that you use.

.. code-block:: toml

    [submit]
    partition = "short"
    memory = "4GB"
    prologue = "module load hdf5"

    [submit.hpc2]            # on the cluster that SLURM calls hpc2
    partition = "batch"
    sbatch = ["--account=lab"]
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcio.errors import PlanError

__all__ = ["DEFAULTS", "Settings", "location", "settings"]

# Each with the type that it must have, and what it is if nobody says otherwise.
DEFAULTS: dict[str, tuple[type, Any]] = {
    "tasks": (int, 16),
    "partition": (str, None),
    "memory": (str, None),
    "walltime": (str, None),
    "cpus": (int, 1),
    "throttle": (int, None),
    "prologue": (str, ""),
    "sbatch": (list, []),
    "signal": (int, 90),
    "stale": (float, 120.0),
    "launcher": (str, "mpirun"),
}


@dataclass(frozen=True)
class Settings:
    """Effective defaults, and where each comes from.

    Attributes
    ----------
    path : pathlib.Path
        Of the file, whether it is there or not.
    values : dict
    origin : dict of str
        For each value: ``"default"``, ``"[submit]"`` or ``"[submit.CLUSTER]"``.
    """

    path: Path
    values: dict[str, Any]
    origin: dict[str, str]


def location() -> Path:
    """Where the file is: ``$HPCIO_CONFIG``, or ``~/.config/hpcio/config.toml``."""
    named = os.environ.get("HPCIO_CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base, "hpcio", "config.toml")


def settings(cluster: str | None = None) -> Settings:
    """Read the defaults of submissions.

    Parameters
    ----------
    cluster : str, optional
        SLURM's name of the cluster, for what holds there alone.

    Raises
    ------
    PlanError
        If the file is no TOML, or says what is not known.
    """
    path = location()
    values = {name: default for name, (_, default) in DEFAULTS.items()}
    origin = dict.fromkeys(DEFAULTS, "default")
    try:
        said = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return Settings(path, values, origin)
    except (OSError, ValueError) as error:
        raise PlanError(f"'{path}' cannot be read: {error}. Mend or remove it.") from error
    for name in said.keys() - {"submit"}:
        raise PlanError(f"'{path}' has '{name}', which nobody reads. Sections are [submit] "
                        "and [submit.CLUSTER].")  # fmt: skip
    general = said.get("submit", {})
    if not isinstance(general, dict):
        raise PlanError(f"'submit' in '{path}' is no section. Write [submit].")
    of_clusters = {k: v for k, v in general.items() if isinstance(v, dict)}
    _take(
        path, {k: v for k, v in general.items() if k not in of_clusters}, "submit", values, origin
    )
    for name, section in of_clusters.items():
        # Checked in any case, so that a mistake shows before one goes there.
        into = (values, origin) if name == cluster else ({}, {})
        _take(path, section, f"submit.{name}", *into)
    return Settings(path, values, origin)


def _take(
    path: Path, section: dict[str, Any], name: str, values: dict[str, Any], origin: dict[str, str]
) -> None:
    for key, value in section.items():
        if key not in DEFAULTS:
            raise PlanError(
                f"'{key}' in [{name}] of '{path}' is not known. There are: {', '.join(DEFAULTS)}."
            )
        kind = DEFAULTS[key][0]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or isinstance(value, bool):
            raise PlanError(f"'{key}' in [{name}] of '{path}' must be of type {kind.__name__}.")
        values[key], origin[key] = value, f"[{name}]"
