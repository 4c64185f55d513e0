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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcio.errors import OptionError
from hpcio.machine import read_section, settings_file
from slurm.site.options import SubmitOptions

__all__ = ["DEFAULTS", "Settings", "settings"]

# The type that each option must have, and its value if nobody says otherwise.
DEFAULTS: dict[str, tuple[type, Any]] = SubmitOptions.configurable()


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


def settings(cluster: str | None = None) -> Settings:
    """Read the defaults of submissions.

    Parameters
    ----------
    cluster : str, optional
        SLURM's name of the cluster, for what holds there alone.

    Raises
    ------
    OptionError
        If the file is no TOML, or says what is not known.
    """
    path = settings_file()
    found = Settings(
        path,
        values={name: default for name, (_, default) in DEFAULTS.items()},
        origin=dict.fromkeys(DEFAULTS, "default"),
    )
    general = read_section("submit")
    of_clusters = {k: v for k, v in general.items() if isinstance(v, dict)}
    of_all = {k: v for k, v in general.items() if k not in of_clusters}
    _check(path, of_all, "submit")
    # All are checked, so that a mistake shows before one goes to that cluster.
    for name, section in of_clusters.items():
        _check(path, section, f"submit.{name}")
    _take(found, of_all, "submit")
    if cluster in of_clusters:
        _take(found, of_clusters[cluster], f"submit.{cluster}")
    return found


def _check(path: Path, section: dict[str, Any], name: str) -> None:
    """Refuse options that are not known, and values of another type."""
    for key, value in section.items():
        if key not in DEFAULTS:
            raise OptionError(
                f"'{key}' in [{name}] of '{path}' is not known. There are: {', '.join(DEFAULTS)}."
            )
        kind = DEFAULTS[key][0]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if value in (words := SubmitOptions.words(key)):
            continue
        if not fits or isinstance(value, bool):
            or_words = "".join(f', or "{word}"' for word in words)
            raise OptionError(
                f"'{key}' in [{name}] of '{path}' must be of type {kind.__name__}{or_words}."
            )


def _take(found: Settings, section: dict[str, Any], name: str) -> None:
    found.values.update(section)
    found.origin.update(dict.fromkeys(section, f"[{name}]"))
