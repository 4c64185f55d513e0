"""What the jobs of a submission run: array tasks, the ranks of an MPI job, the finalizer.

This room uses `slurm.submissions` and those below, and hpcio. Nobody takes anything from it: job
scripts call it as ``python -m slurm.tasks``.
"""
