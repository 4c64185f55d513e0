"""Submissions: a plan on the shared file system, and what its array tasks run."""
