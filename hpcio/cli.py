"""The command ``hpcio``.

Exit status: 0 for success, 1 for a run that failed, 2 for misuse or bad input, 130 after
Ctrl-C. Further subcommands come from other packages by the entry-point group
``hpcio.commands``.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import TextIO

import click

import hpcio
from hpcio.errors import (
    BlocksFailed,
    HpcioError,
    HpcioWarning,
    Interrupted,
    OutputError,
    ResultError,
    WorkerError,
)
from hpcio.words import say

__all__ = ["cli", "main"]

FAILED, MISUSE, INTERRUPTED = 1, 2, 130
_STDERR = 2

# Our subcommands, in the order of ``hpcio --help``, and where they are: each is imported when used.
COMMANDS = {
    "run": "hpcio.command.running",
    "plan": "hpcio.command.running",
    "extend": "hpcio.command.running",
    "resume": "hpcio.command.running",
    "status": "hpcio.command.looking",
    "report": "hpcio.command.looking",
    "call": "hpcio.command.calling",
    "verify": "hpcio.command.finished",
    "repack": "hpcio.command.finished",
    "bench": "hpcio.command.benching",
    "demo": "hpcio.command.demonstrating",
}


class Commands(click.Group):
    """The command's own subcommands, and those that other packages bring."""

    def _brought(self) -> dict[str, metadata.EntryPoint]:
        return {e.name: e for e in metadata.entry_points(group="hpcio.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self._brought().keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        # What is brought may know more than the command of the same name here.
        brought = self._brought().get(name)
        if brought is not None:
            found: click.Command = brought.load()
        elif name in COMMANDS:
            found = getattr(importlib.import_module(COMMANDS[name]), name)
        else:
            return None
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hpcio.__version__, "--version", prog_name="hpcio")
def cli() -> None:
    """Run a Python function over every trial of a large HDF5 recording.

    \b
    hpcio run spectrum.py:power rec.h5::/lfp --trials rec.h5::/trials --out out.h5
    """  # noqa: D301  (click reads the backspace)


def main() -> None:
    """Run the command; errors of hpcio become one message and an exit status."""
    _open_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Output(
            sys.stdout.buffer, sys.stdout.encoding, sys.stdout.errors,
            line_buffering=sys.stdout.line_buffering, write_through=sys.stdout.write_through,
        )  # fmt: skip
    warnings.showwarning = _note
    for number in (signal.SIGTERM, signal.SIGHUP):  # as of a terminal that is closed
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)
    status = _told(_status())
    if not _holds_up_the_end():
        sys.exit(status)
    # Python would wait for what a function has left running.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _stop(*_: object) -> None:
    """Stop as after Ctrl-C: what is done stays, and people hear how to go on."""
    raise KeyboardInterrupt


def _open_streams() -> None:
    """Lead standard streams that are closed, as under cron, to nowhere.

    Otherwise the next file to be opened, perhaps the result, takes the place of one, and gets
    whatever a library writes there.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(fd, True)  # noqa: FBT003  (Python has no keyword for it)
    os.close(fd)
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            stream = open(fd, mode, closefd=False)  # noqa: SIM115  (as long as Python)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class _Output(io.TextIOWrapper):
    """The standard output, by whose errors it is known what could not be written."""

    def write(self, text: str) -> int:
        with _naming_the_output():
            return super().write(text)

    def flush(self) -> None:
        with _naming_the_output():
            super().flush()


@contextmanager
def _naming_the_output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # who reads it has seen enough, as `head`: click ends us, silently
        raise
    except OSError as error:
        raise OutputError(
            error.errno,
            f"Cannot write the standard output: {error.strerror}. Lead it elsewhere.",
        ) from error


def _told(status: int) -> int:
    """The exit status, once what was printed has gone out, or cannot."""
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # or Python would try once more, and complain
        os.close(nowhere)
        if not status and isinstance(error, OutputError):
            _complain(str(error))
        return status or FAILED
    return status


def _status() -> int:
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort as abort:  # click's name for Ctrl-C
        told = isinstance(abort.__cause__, Interrupted)
        _complain(str(abort.__cause__) if told else "Stopped.")
        return INTERRUPTED
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue(), err=True, end="")
        return MISUSE
    except HpcioError as error:
        _complain(str(error))
        return FAILED if isinstance(error, BlocksFailed | WorkerError | ResultError) else MISUSE
    return 0


def _holds_up_the_end() -> bool:
    """Whether there are threads or children that Python waits for; MPI ends by itself, though."""
    if "mpi4py.MPI" in sys.modules:
        return False
    main_thread = threading.main_thread()
    pools = sys.modules.get("multiprocessing")
    children = pools.active_children() if pools is not None else []
    return bool(children) or any(
        not t.daemon and t is not main_thread for t in threading.enumerate()
    )


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of ours as a line, and those of others as Python does."""
    if issubclass(category, HpcioWarning):
        click.secho("hpcio: note: ", fg="yellow", err=True, nl=False)
        say(str(message), err=True)
    else:
        say(warnings.formatwarning(message, category, filename, lineno, line), err=True, end="")


def _complain(message: str) -> None:
    click.secho("hpcio: ", fg="red", bold=True, err=True, nl=False)
    say(message, err=True)
