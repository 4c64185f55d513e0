"""A folder full of things that are wrong, and one for runs on ranks."""

from tests.rigs.bad import folder, template
from tests.rigs.ranks import place

__all__ = ["folder", "place", "template"]
