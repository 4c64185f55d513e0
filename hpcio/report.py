"""Pictures and the page of a run, for scripts; see `hpcio.watching`."""

from hpcio.watching import picture, write_page

__all__ = ["picture", "write_page"]
