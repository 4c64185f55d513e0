"""``python -m hpcio``: the command, of this Python."""

import os
import sys

if __name__ == "__main__":
    # Python has put the folder at hand in front, whatever lies there; `hpcio` does not.
    if sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    from hpcio.cli import main

    main()
