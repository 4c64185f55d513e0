"""Plans of a small recording."""

from tests.rigs.plans import plan, rich

__all__ = ["plan", "rich"]
