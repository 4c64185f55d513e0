"""``python -m hpcio``: the command, of this Python."""

from hpcio.cli import main

if __name__ == "__main__":
    main()
