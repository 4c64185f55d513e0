"""Where results lie in the one dataset: their regions, the axes, and the averages.

This room uses `hpcio.recording` and those below. Others take `Target` (the layout), `Axis` and
`Average` from it, and `State`, in which averages are added up.
"""

from hpcio.layout.averages import Average, OwnReduction, Reduce, averaged, check_reduce
from hpcio.layout.axes import RESERVED, Axis, attach, hide, name_axes, times_of
from hpcio.layout.outputs import (
    Output,
    in_equal_groups,
    record_of,
    results_in,
    sizes_of_parts,
    split_record,
)
from hpcio.layout.states import Functions, State, begin, combine, nbytes_of
from hpcio.layout.target import Join, Target, lay_out

__all__ = [
    "RESERVED",
    "Average",
    "Axis",
    "Functions",
    "Join",
    "Output",
    "OwnReduction",
    "Reduce",
    "State",
    "Target",
    "attach",
    "averaged",
    "begin",
    "check_reduce",
    "combine",
    "hide",
    "in_equal_groups",
    "lay_out",
    "name_axes",
    "nbytes_of",
    "record_of",
    "results_in",
    "sizes_of_parts",
    "split_record",
    "times_of",
]
