"""Run a Python function over every trial of a large HDF5 recording.

>>> import hpcio
>>> plan = hpcio.Plan.create("spectrum.py:power", "rec.h5::/lfp", trials="rec.h5::/trials",
...                          out="out.h5")                           # doctest: +SKIP
>>> done = plan.run(workers=4)                                       # doctest: +SKIP
>>> with hpcio.open("out.h5") as f:                                  # doctest: +SKIP
...     power = f["data"][...]
"""

from hpcio import errors
from hpcio.function.arguments import per_trial
from hpcio.function.cfg import unwrap_cfg
from hpcio.function.decorators import unwrap_io
from hpcio.planning.plan import Plan
from hpcio.recording.faux import FauxTrial
from hpcio.recording.trials import Trials
from hpcio.results.opening import open  # noqa: A004  (as io.open and gzip.open are called)
from hpcio.results.repack import repack
from hpcio.results.verify import verify

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
