"""Where results lie in the one dataset: their regions, the axes, and the averages.

This room uses `hpcio.recording` and those below. Others take `Target` (the layout), `Axis` and
`Average` from it.
"""

from hpcio.layout.averages import Average, Moments, Reduce, averaged, combine
from hpcio.layout.axes import RESERVED, Axis, attach, hide, name_axes
from hpcio.layout.target import Join, Target, lay_out

__all__ = [
    "RESERVED",
    "Average",
    "Axis",
    "Join",
    "Moments",
    "Reduce",
    "Target",
    "attach",
    "averaged",
    "combine",
    "hide",
    "lay_out",
    "name_axes",
]
