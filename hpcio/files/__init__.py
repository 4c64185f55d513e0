"""Bytes on disk: HDF5 files at the speed of plain files, locks, chunks and their filters."""
