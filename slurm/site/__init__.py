"""What the site offers: SLURM's commands, partitions, and defaults of the user."""
