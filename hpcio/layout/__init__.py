"""Where results lie in the one dataset: their regions, axes, and averages."""
