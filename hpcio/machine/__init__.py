"""What this computer is: its file systems, and whether an MPI launcher has started this process."""
