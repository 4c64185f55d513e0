"""Pictures and the page of a run, for scripts; see `hpcio.reporting`."""

from hpcio.reporting import (
    COLOURS,
    canvas,
    drawing,
    picture,
    read_timeline,
    summary,
    write_page,
)
from hpcio.reporting import draw_throughput as throughput
from hpcio.reporting import draw_timeline as timeline

__all__ = [
    "COLOURS",
    "canvas",
    "drawing",
    "picture",
    "read_timeline",
    "summary",
    "throughput",
    "timeline",
    "write_page",
]
