"""What is done: the run directory, journals, and what they say together."""
