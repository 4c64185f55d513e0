"""Measuring a file system: what it can do, and what each writer makes of it.

This room uses `hpcio.plan` and all below it; the command takes `measure` from it. `jobs` are what
a process does, `team` has several do it at the same time, `measuring` says what, `comparing` how
often, `advice` what follows; `kept` writes what was found, and reads it again. Other packages may
start the processes of a team in ways of their own (`StartMembers`).
"""

from hpcio.bench.advice import Advice, advise
from hpcio.bench.figures import WRITERS, Figure, LeftOut, Spread
from hpcio.bench.kept import Found, read_advice, read_found, write_found
from hpcio.bench.measuring import SCALES, Scale, measure
from hpcio.bench.page import HEADS, PARTS, figure_rows, write_page
from hpcio.bench.place import Place, machine_facts
from hpcio.bench.team import TEAMS, Members, StartMembers, Team, serve

__all__ = [
    "HEADS",
    "PARTS",
    "SCALES",
    "TEAMS",
    "WRITERS",
    "Advice",
    "Figure",
    "Found",
    "LeftOut",
    "Members",
    "Place",
    "Scale",
    "Spread",
    "StartMembers",
    "Team",
    "advise",
    "figure_rows",
    "machine_facts",
    "measure",
    "read_advice",
    "read_found",
    "serve",
    "write_found",
    "write_page",
]
