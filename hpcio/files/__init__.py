"""Bytes on disk: HDF5 files at the speed of plain files, locks, chunks and their filters.

This room uses `hpcio.machine`; it knows files and arrays, but neither trials nor plans. Others open
HDF5 files through it, and have it lay out, fill and lock them. The names in a run directory come
from its `RunDirectory`.
"""

from hpcio.files.access import ACCESS, READABLE, READABLE_FOLDER, Access, Modes
from hpcio.files.behind import (
    FileState,
    Place,
    check_links,
    check_place,
    check_whole,
    follow,
    sample_of,
    where_hdf5_finds,
)
from hpcio.files.bytes import (
    NewNames,
    StreamedChecksum,
    allocate,
    checksum,
    fill_of,
    in_pieces,
    read_at,
    sync,
    sync_file_system,
    write_at,
)
from hpcio.files.compression import (
    CHUNK,
    Chunking,
    Compression,
    Packer,
    good_chunk,
    load_filter,
    load_filters,
)
from hpcio.files.images import (
    in_memory_file,
    sparse_file,
    write_arrays,
    write_image,
    write_under_name,
)
from hpcio.files.indexing import Rows, entries_of
from hpcio.files.locks import (
    check_locks,
    copy_out_of_reach,
    holder_of,
    locked,
    open_to_write,
    try_lock,
    unlock,
)
from hpcio.files.marks import Mark, mark_of
from hpcio.files.names import give_name, rename_new
from hpcio.files.opening import (
    find_dataset,
    has_sound_scales,
    keep_rows,
    keep_table,
    locking,
    open_file,
    parts_of,
    plain_offset,
    read_table,
    read_text,
    read_values,
    reading,
    room_for,
    split_spec,
)
from hpcio.files.own import check_run_folder, open_own, own_run_folder, read_own
from hpcio.files.rundir import RunDirectory, lies_in_result, result_of
from hpcio.files.slab import Layout, Slab, layout, layout_of, write_file
from hpcio.files.typed import check_types
from hpcio.files.virtual import VirtualReader

__all__ = [
    "ACCESS",
    "CHUNK",
    "READABLE",
    "READABLE_FOLDER",
    "Access",
    "Chunking",
    "Compression",
    "FileState",
    "Layout",
    "Mark",
    "Modes",
    "NewNames",
    "Packer",
    "Place",
    "Rows",
    "RunDirectory",
    "Slab",
    "StreamedChecksum",
    "VirtualReader",
    "allocate",
    "check_links",
    "check_locks",
    "check_place",
    "check_run_folder",
    "check_types",
    "check_whole",
    "checksum",
    "copy_out_of_reach",
    "entries_of",
    "fill_of",
    "find_dataset",
    "follow",
    "give_name",
    "good_chunk",
    "has_sound_scales",
    "holder_of",
    "in_memory_file",
    "in_pieces",
    "keep_rows",
    "keep_table",
    "layout",
    "layout_of",
    "lies_in_result",
    "load_filter",
    "load_filters",
    "locked",
    "locking",
    "mark_of",
    "open_file",
    "open_own",
    "open_to_write",
    "own_run_folder",
    "parts_of",
    "plain_offset",
    "read_at",
    "read_own",
    "read_table",
    "read_text",
    "read_values",
    "reading",
    "rename_new",
    "result_of",
    "room_for",
    "sample_of",
    "sparse_file",
    "split_spec",
    "sync",
    "sync_file_system",
    "try_lock",
    "unlock",
    "where_hdf5_finds",
    "write_arrays",
    "write_at",
    "write_file",
    "write_image",
    "write_under_name",
]
