"""One program for each way to do the work; `benchmarks.peers.serving` says how they are asked."""
