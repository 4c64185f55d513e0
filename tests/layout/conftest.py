"""Plans of a small recording."""

from tests.rigs.plans import plan

__all__ = ["plan"]
