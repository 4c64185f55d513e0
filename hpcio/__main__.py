"""``python -m hpcio``, and ``hpcio``: the command, of this Python."""

import os
import signal
import sys


def main() -> None:
    """Run the command."""
    # Until it can say what Ctrl-C leaves behind, Ctrl-C ends it without a word: imports take a
    # moment, and nothing is begun.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hpcio.cli import main as command

    signal.signal(signal.SIGINT, handler)
    command()


if __name__ == "__main__":
    # Python has put the folder at hand in front, whatever lies there; `hpcio` does not.
    if sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    main()
