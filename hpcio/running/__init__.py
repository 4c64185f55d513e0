"""The loop over blocks, and who calls it."""
