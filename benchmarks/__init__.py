"""What hpcio costs, each figure beside the limit that it is held against.

Run it by ``python -m benchmarks``; ``README.md`` says how to read it.
"""
