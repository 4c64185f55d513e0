"""The digest of a plan: two plans with the same digest give the same bytes, block by block."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from hpcio.planning.plan import Plan
from hpcio.planning.planfile import FORMAT, plain_average, plain_input_kind

__all__ = ["digest_of"]


def digest_of(plan: Plan) -> str:
    """The digest of a plan, hexadecimal.

    Parameters
    ----------
    plan : Plan
        Its own field `digest` is ignored.
    """
    source, target = plan.source, plan.target
    spec = {
        "format": FORMAT, "function": [plan.function.name, plan.function.digest],
        "source": [source.kind, source.dataset, source.shape, source.dtype.str, source.size,
                   source.mtime_ns, source.sample, [(f.size, f.mtime_ns) for f in source.behind]],
        "arguments": plan.given.digest, "dtype": target.dtype.str, "shape": target.shape,
        "writer": plan.writer, "sources": plan.sources, "join": plan.join,
        "casting": plan.casting, "average": plain_average(plan.average),
        "axes": [axis.name for axis in plan.axes],
        "input_kinds": [plain_input_kind(kind) for kind in plan.blocks.input_kinds],
        "shapes": target.shapes, "join_axis": target.axis,
        "channel_axis": target.channel_axis,
    }  # fmt: skip
    if plan.chunks is not None:
        spec |= {"chunks": plan.chunks, "compression": plan.compression}
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    values = [axis.values for axis in plan.axes if axis.values is not None]
    placed = (target.shape_index, target.start, target.channel)
    for array in (*plan.arrays().values(), *placed, *values):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
