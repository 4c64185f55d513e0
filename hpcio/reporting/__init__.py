"""What is kept of a run: pictures, and the page of the report, from its plan and journals.

This room uses all rooms of a run but `hpcio.watching`; it only reads. The public door
`hpcio.report`, the command and the demo take `write_page`, `picture` and what they are made of from
it. A new section of the page is an entry in `SECTIONS`.
"""

from hpcio.reporting.page import GENERATOR, check_replaceable, save_page, write_page
from hpcio.reporting.pictures import (
    COLOURS,
    as_svg,
    canvas,
    draw_throughput,
    draw_timeline,
    drawing,
    picture,
    summary,
)
from hpcio.reporting.sections import SECTIONS, RunView, Section, render
from hpcio.reporting.timeline import read_timeline

__all__ = [
    "COLOURS",
    "GENERATOR",
    "SECTIONS",
    "RunView",
    "Section",
    "as_svg",
    "canvas",
    "check_replaceable",
    "draw_throughput",
    "draw_timeline",
    "drawing",
    "picture",
    "read_timeline",
    "render",
    "save_page",
    "summary",
    "write_page",
]
