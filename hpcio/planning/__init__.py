"""The dry run and its outcome: a plan, frozen before work begins.

This room uses `hpcio.function`, `hpcio.layout` and those below; it runs nothing but probes. Others
take the value `Plan` from it, load plans by `load_plan`, and check that a machine has what a plan
needs. What callers ask for travels as values, such as `StorageOptions`.
"""

from typing import TYPE_CHECKING

from hpcio.machine import lazily
from hpcio.planning.options import (
    CallOptions,
    Chunks,
    LayoutOptions,
    ReadingOptions,
    Reducing,
    RunPolicy,
    StorageOptions,
    WriterAbilities,
)
from hpcio.planning.plan import Former, Plan
from hpcio.planning.planfile import (
    load_for_worker,
    load_plan,
    open_plan_file,
    replace_plan,
    write_plan,
)

if TYPE_CHECKING:
    from hpcio.planning.describing import Description, describe, probe
    from hpcio.planning.digest import Difference, difference, digest_of
    from hpcio.planning.extending import extended
    from hpcio.planning.limits import block_memory, check_disk, check_memory, plan_memory
    from hpcio.planning.making import check_new_output, check_trial_table, make_plan, renewed
    from hpcio.planning.single import call_block, find_block, read_block

__all__ = [
    "CallOptions",
    "Chunks",
    "Description",
    "Difference",
    "Former",
    "LayoutOptions",
    "Plan",
    "ReadingOptions",
    "Reducing",
    "RunPolicy",
    "StorageOptions",
    "WriterAbilities",
    "block_memory",
    "call_block",
    "check_disk",
    "check_memory",
    "check_new_output",
    "check_trial_table",
    "describe",
    "difference",
    "digest_of",
    "extended",
    "find_block",
    "load_for_worker",
    "load_plan",
    "make_plan",
    "open_plan_file",
    "plan_memory",
    "probe",
    "read_block",
    "renewed",
    "replace_plan",
    "write_plan",
]

# Imported when they are asked for: workers load a plan, and make none.
__getattr__ = lazily(
    __name__,
    {
        "Description": "describing",
        "block_memory": "limits",
        "call_block": "single",
        "find_block": "single",
        "read_block": "single",
        "check_disk": "limits",
        "check_memory": "limits",
        "plan_memory": "limits",
        "check_new_output": "making",
        "check_trial_table": "making",
        "describe": "describing",
        "make_plan": "making",
        "probe": "describing",
        "renewed": "making",
        "Difference": "digest",
        "difference": "digest",
        "digest_of": "digest",
        "extended": "extending",
    },
)
