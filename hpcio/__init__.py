"""Run a Python function over every trial of a large HDF5 recording.

>>> import hpcio
>>> plan = hpcio.Plan.create("spectrum.py:power", "rec.h5::/lfp", trials="rec.h5::/trials",
...                          out="out.h5")                           # doctest: +SKIP
>>> done = plan.run(workers=4)                                       # doctest: +SKIP
>>> with hpcio.open("out.h5") as f:                                  # doctest: +SKIP
...     power = f["data"][...]
"""

from typing import TYPE_CHECKING

from hpcio import errors
from hpcio.machine import lazily

if TYPE_CHECKING:
    from hpcio.function import FauxTrial, per_trial, unwrap_cfg, unwrap_io
    from hpcio.plan import Plan
    from hpcio.recording import Trials, electrodes
    from hpcio.results import open, repack, verify  # noqa: A004  (as io.open and gzip.open)

__all__ = [
    "FauxTrial",
    "Plan",
    "Trials",
    "electrodes",
    "errors",
    "open",
    "per_trial",
    "repack",
    "unwrap_cfg",
    "unwrap_io",
    "verify",
]
__version__ = "0.1.0"

# Workers start in half the time without what only sessions use.
__getattr__ = lazily(
    __name__,
    {
        "FauxTrial": "function",
        "Plan": "plan",
        "Trials": "recording",
        "electrodes": "recording",
        "open": "results",
        "per_trial": "function",
        "repack": "results",
        "unwrap_cfg": "function",
        "unwrap_io": "function",
        "verify": "results",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
