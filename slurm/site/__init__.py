"""What the site offers: SLURM's commands, partitions and queue, and the defaults of the user.

This room uses `hpcio.planning` and rooms below that one, and nothing else of `slurm`. Other rooms
take from it the calls of SLURM, `Site`, `SubmitOptions`, and what the environment of a task says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcio.machine import lazily

if TYPE_CHECKING:
    from slurm.site import environment
    from slurm.site.commands import call, job_number, refusal, require
    from slurm.site.config import settings
    from slurm.site.options import SubmitOptions, parse_factor
    from slurm.site.partitions import Site, format_time, parse_time, read_site
    from slurm.site.sbatch import check_options, join_words, names_option, split_option
    from slurm.site.squeue import ENDED, FIRST_LOOK, LAST_LOOK, queued_jobs

__all__ = [
    "ENDED",
    "FIRST_LOOK",
    "LAST_LOOK",
    "Site",
    "SubmitOptions",
    "call",
    "check_options",
    "environment",
    "format_time",
    "job_number",
    "join_words",
    "names_option",
    "parse_factor",
    "parse_time",
    "queued_jobs",
    "read_site",
    "refusal",
    "require",
    "settings",
    "split_option",
]

# Imported when they are asked for: an array task asks for its environment, and little else.
__getattr__ = lazily(
    __name__,
    {
        "ENDED": "squeue",
        "FIRST_LOOK": "squeue",
        "LAST_LOOK": "squeue",
        "Site": "partitions",
        "SubmitOptions": "options",
        "call": "commands",
        "format_time": "partitions",
        "job_number": "commands",
        "parse_factor": "options",
        "parse_time": "partitions",
        "queued_jobs": "squeue",
        "read_site": "partitions",
        "refusal": "commands",
        "require": "commands",
        "settings": "config",
        "split_option": "sbatch",
        "names_option": "sbatch",
        "join_words": "sbatch",
        "check_options": "sbatch",
    },
)
