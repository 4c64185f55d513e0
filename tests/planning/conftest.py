"""Plans of a small recording, and a folder full of things that are wrong."""

from tests.rigs.bad import folder, template
from tests.rigs.plans import plan, rich

__all__ = ["folder", "plan", "rich", "template"]
