"""What is read: the recording, its trials, and the stand-in for a trial in a dry run."""
