"""Pictures and the page of a run, for scripts; see `hpcio.watching`."""

from hpcio.watching.page import write_page
from hpcio.watching.pictures import picture

__all__ = ["picture", "write_page"]
