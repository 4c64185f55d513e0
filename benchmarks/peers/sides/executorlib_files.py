"""executorlib: a call for each trial, which writes a file; one virtual dataset at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from executorlib import SingleNodeExecutor
from executorlib.standalone.interactive.communication import SocketInterface

from benchmarks.peers.serving import Side
from benchmarks.peers.work import WORKERS, Work, join, read, write_trial


def _loopback(interface: SocketInterface) -> int:
    port: int = interface._socket.bind_to_random_port("tcp://127.0.0.1")
    return port


@contextmanager
def side(work: Work) -> Iterator[Side]:
    # It listens on all addresses of the machine, and has no option for another.
    SocketInterface.bind_to_random_port = _loopback
    with SingleNodeExecutor(
        max_workers=WORKERS, block_allocation=True, hostname_localhost=True
    ) as executor:

        def run(folder: Path) -> Path:
            calls = [executor.submit(write_trial, work, folder, i) for i in range(work.trials)]
            for call in calls:
                call.result()
            return join(work, folder)

        yield Side(run, read)
