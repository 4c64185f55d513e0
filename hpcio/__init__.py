"""Run a Python function over every trial of a large HDF5 recording.

>>> import hpcio
>>> plan = hpcio.Plan.create("spectrum.py:power", "rec.h5::/lfp", trials="rec.h5::/trials",
...                          out="out.h5")                           # doctest: +SKIP
>>> done = plan.run(workers=4)                                       # doctest: +SKIP
>>> with hpcio.open("out.h5") as f:                                  # doctest: +SKIP
...     power = f["data"][...]
"""

from hpcio import errors
from hpcio.arguments import per_trial
from hpcio.cfg import unwrap_cfg
from hpcio.decorators import unwrap_io
from hpcio.faux import FauxTrial
from hpcio.plan import Plan
from hpcio.repack import repack
from hpcio.result import open  # noqa: A004  (as io.open and gzip.open are called)
from hpcio.trials import Trials
from hpcio.verify import verify

__all__ = [
    "FauxTrial",
    "Plan",
    "Trials",
    "errors",
    "open",
    "per_trial",
    "repack",
    "unwrap_cfg",
    "unwrap_io",
    "verify",
]
__version__ = "0.1.0"
