"""A folder for runs on ranks."""

from tests.rigs.ranks import place

__all__ = ["place"]
