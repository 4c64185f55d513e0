"""What is called: a function, its arguments, and the decorators.

This room uses `hpcio.recording` and those below: the dict branch of `unwrap_io` reads a trial and
writes a result by itself. Others take `Function` and `Arguments` from it, and call the function by
`compute`, and functions that make an average by `Reduction`.
"""

from hpcio.function.arguments import Arguments, FreshArguments, per_trial
from hpcio.function.calls import (
    Part,
    announced_parts,
    arrays_of,
    compute,
    compute_record,
    dry_outcome,
    naming_result,
    pack_details,
    split_details,
    unpack_details,
    write_details,
)
from hpcio.function.cfg import unwrap_cfg
from hpcio.function.decorators import unwrap_io
from hpcio.function.faux import FauxTrial
from hpcio.function.functions import (
    Function,
    check_versions,
    functions_named,
    other_versions,
    takes,
)
from hpcio.function.reductions import ROLES, Reduction, plain_state, state_of
from hpcio.function.texts import MOST_TEXT, text_of

__all__ = [
    "MOST_TEXT",
    "ROLES",
    "Arguments",
    "FauxTrial",
    "FreshArguments",
    "Function",
    "Part",
    "Reduction",
    "announced_parts",
    "arrays_of",
    "check_versions",
    "compute",
    "compute_record",
    "dry_outcome",
    "functions_named",
    "naming_result",
    "other_versions",
    "pack_details",
    "per_trial",
    "plain_state",
    "split_details",
    "state_of",
    "takes",
    "text_of",
    "unpack_details",
    "unwrap_cfg",
    "unwrap_io",
    "write_details",
]
