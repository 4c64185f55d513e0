"""The finished file: published, opened, verified, repacked."""
