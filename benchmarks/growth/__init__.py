"""What hpcio takes as a run grows: trials, array tasks, files, plans. What is linear is level."""
