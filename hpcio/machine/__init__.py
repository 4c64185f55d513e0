"""What this computer is: file systems, cores, memory, launchers, installed packages.

This room uses `hpcio.errors` and `hpcio.words` alone. Others ask it what is safe on a file system,
whether there is room, and whether this process is a rank of MPI, and have it start new Pythons or
call functions in them. They keep their kinds of things in its `Registry`.
"""

from hpcio.machine.apart import Death, call_apart
from hpcio.machine.children import Process, end_with_parent, how_it_ended
from hpcio.machine.filesystems import (
    in_memory,
    is_first,
    is_local,
    kind_of,
    look_again,
    on_one_mount,
    only_files,
    options_of,
    read_whole,
    write_whole,
    writes_exactly,
)
from hpcio.machine.freed import giving_back_freed, keep_freed
from hpcio.machine.launch import Launch, communicator, launched
from hpcio.machine.lazy import lazily
from hpcio.machine.plugins import Registry
from hpcio.machine.pythons import begin_pythons, new_python, start_python, with_threads
from hpcio.machine.resources import (
    available,
    check_room,
    cores,
    is_stopped,
    parse_bytes,
    parse_seconds,
    umask,
    user_name,
)
from hpcio.machine.settings import (
    bench_file,
    keep_bench,
    read_section,
    set_in_section,
    settings_file,
)
from hpcio.machine.striping import Striping, layout_in_words, new_file, striping_of

__all__ = [
    "Death",
    "Launch",
    "Process",
    "Registry",
    "Striping",
    "available",
    "begin_pythons",
    "bench_file",
    "call_apart",
    "check_room",
    "communicator",
    "cores",
    "end_with_parent",
    "giving_back_freed",
    "how_it_ended",
    "in_memory",
    "is_first",
    "is_local",
    "is_stopped",
    "keep_bench",
    "keep_freed",
    "kind_of",
    "launched",
    "layout_in_words",
    "lazily",
    "look_again",
    "new_file",
    "new_python",
    "on_one_mount",
    "only_files",
    "options_of",
    "parse_bytes",
    "parse_seconds",
    "read_section",
    "read_whole",
    "set_in_section",
    "settings_file",
    "start_python",
    "striping_of",
    "umask",
    "user_name",
    "with_threads",
    "write_whole",
    "writes_exactly",
]
