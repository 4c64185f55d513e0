"""Numbers, sizes, times, tables and foreign texts as people read them; names in good order."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

__all__ = [
    "KEEPING",
    "START_OVER",
    "after_failures",
    "brief",
    "column",
    "count",
    "duration",
    "earlier_words",
    "html_table",
    "in_lines",
    "memory",
    "natural",
    "number",
    "plain",
    "print_traceback",
    "say",
    "say_json",
    "shape_words",
    "size",
    "when",
]


# What to do where what a plan was made of is another by now: such a plan cannot start over itself.
START_OVER = (
    "plan anew and start over (run(fresh=True), in the shell: hpcio run FUNCTION SOURCE ... "
    "--fresh)"
)
# Where an edited function or other arguments are all that has changed.
KEEPING = "Keep what is done with keep_done=True (in the shell: --keep-done). "


def after_failures(
    out: str, counted: str, *, allow: int = 0, too_long: bool = False, by_name: bool = True
) -> list[str]:
    r"""What can be done about trials that have failed, in lines.

    Parameters
    ----------
    out : str
        The result, which is not published yet.
    counted : str
        What people count, ``trial`` or ``block``.
    allow : int
        How many must be allowed to fail so that all are tried; 0 if all were.
    too_long : bool
        Whether some have taken longer than they may.
    by_name : bool
        Whether the function is found by its name, so that an edit of it is seen by other processes.

    Examples
    --------
    >>> print("\n".join(after_failures("out.h5", "trial")))
    What now:
      try one of them by itself, in a debugger: hpcio call out.h5 TRIAL --pdb
      publish without them (they are tried once more): hpcio resume out.h5 --gaps
      try them again, once the cause is gone (memory, a missing file): hpcio resume out.h5
      mend the function and keep what is done; once it is edited: hpcio resume out.h5 --keep-done
      mend the function and compute all anew: edit it, then plan and run again with --fresh
    """
    resume = f"hpcio resume {shlex.quote(out)}"
    all_tried = f" --max-failed {allow}" if allow else ""
    limit = " --trial-time TIME" if too_long else ""
    keep = f"{resume} --keep-done{limit}"
    if not by_name:  # it is kept in the plan as it was
        keep = "plan again, and plan.run(keep_done=True)"
    time = "  (TIME is what a trial may take; without it, what hung hangs again)"
    return [
        "What now:",
        f"  try one of them by itself, in a debugger: hpcio call {shlex.quote(out)} TRIAL --pdb",
        f"  publish without them (they are tried once more): {resume} --gaps{all_tried}{limit}",
        f"  try them again, once the cause is gone (memory, a missing file): {resume}{limit}",
        *[time] * too_long,
        f"  mend the function and keep what is done; once it is edited: {keep}",
        "  mend the function and compute all anew: edit it, then plan and run again with --fresh",
    ]


def size(nbytes: float) -> str:
    """Bytes, in powers of ten.

    Examples
    --------
    >>> size(4096), size(2.5e6)
    ('4.1 kB', '2.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def memory(nbytes: int) -> str:
    """Bytes as options of memory take them.

    Examples
    --------
    >>> memory(400_000_000), memory(4_000_000_000)
    ('400MB', '4GB')
    """
    return f"{nbytes // 10**9}GB" if nbytes % 10**9 == 0 else f"{nbytes // 10**6}MB"


def duration(seconds: float) -> str:
    """A time in seconds; from a minute on in two units.

    Examples
    --------
    >>> duration(0.0123), duration(0.9999), duration(203), duration(3600), duration(1e5)
    ('12.3 ms', '1 s', '3 min 23 s', '1 h', '1 d 4 h')
    """
    for large, small, names in ((86400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if seconds >= large:
            whole, rest = divmod(round(seconds / small), large // small)
            one, other = names.split()
            return f"{whole} {one}" + (f" {rest} {other}" if rest else "")
    # By what is shown: 0.9999 s are "1 s".
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{seconds * 1e3:.3g} ms"


def when(seconds: float, pattern: str = "%Y-%m-%d %H:%M:%S %Z") -> str:
    """A time in seconds since 1970, in the time zone of this machine."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime(pattern)


def count(number: int, what: str, several: str = "") -> str:
    """A number of things.

    Examples
    --------
    >>> count(1, "trial"), count(1200, "trial"), count(2, "is", "are")
    ('1 trial', '1,200 trials', '2 are')
    """
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def listed(lines: Sequence[str], most: int = 10) -> list[str]:
    """The first lines of a list, to stand below a sentence, and how many more there are."""
    more = len(lines) - most
    return [f"  {line}" for line in lines[:most]] + [f"  ... and {more:,} more"] * (more > 0)


def earlier_words(number: int) -> str:
    """That results are kept from before the function changed.

    Examples
    --------
    >>> earlier_words(589)
    '589 trials kept from an earlier function or other arguments'
    """
    return f"{count(number, 'trial')} kept from an earlier function or other arguments"


def shape_words(shape: Sequence[int], names: Sequence[str]) -> str:
    """The shape of an array, with the names of its axes where they have some.

    Examples
    --------
    >>> shape_words((400, 16), ("trial", "")), shape_words((), ())
    ('400 trial x 16', 'one number')
    """
    axes = zip(shape, names, strict=True)
    return " x ".join(f"{length:,} {name}".rstrip() for length, name in axes) or "one number"


def number(value: float) -> str:
    """A number with three significant digits, never as a power of ten.

    Examples
    --------
    >>> number(12345.6), number(1.0), number(0.0000123456)
    ('12,346', '1', '0.0000123')
    """
    if value >= 100:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def column(values: Sequence[float]) -> list[str]:
    """Numbers of a column, all with the decimals that show three digits of the largest one.

    Examples
    --------
    >>> column([1.2345, 0.5, 0.0001]), column([1234.5, 2.0]), column([0.0])
    (['1.23', '0.50', '0.00'], ['1,234', '2'], ['0'])
    """
    largest = max(values, default=0.0)
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 0
    return [f"{value:,.{decimals}f}" for value in values]


# What commands a terminal, turns the order of letters round, or cannot be encoded. Ends of lines
# and tabs are none of these.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain(text: str) -> str:
    r"""A text of others, such as the message of an exception, that only shows on a terminal.

    Examples
    --------
    >>> plain("\x1b[2J5 \u03bcV"), plain("one\r\n\ttwo\r")
    ('\\x1b[2J5 μV', 'one\n\ttwo\\x0d')
    """
    return _COMMANDS.sub(_escaped, text.replace("\r\n", "\n"))


def brief(text: str, most: int = 300) -> str:
    r"""A text of others in one line, with its beginning alone if it is long.

    Examples
    --------
    >>> brief("one\n\ttwo"), brief("a name without end", 10)
    ('one two', 'a name ...')
    """
    line = re.sub(r"\s*[\n\t]\s*", " ", plain(text[: most + 1]))
    return line if len(text) <= most and len(line) <= most else f"{line[: most - 3]}..."


def in_lines(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, a pair in each line.

    Examples
    --------
    >>> print(in_lines([("function", "numpy:negative"), ("trials", "4")]))
    function  numpy:negative
      trials  4
    """
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:>{width}}  {brief(value)}" for name, value in rows)


def html_table(
    title: str,
    rows: Sequence[Sequence[str]],
    *,
    header: Sequence[str] = (),
    below: str = "",
) -> str:
    """A table as notebooks show it, for ``_repr_html_``; all texts are escaped.

    Parameters
    ----------
    title : str
    rows : sequence of sequence of str
        Without a header, each begins with its name.
    header : sequence of str, optional
        Names of the columns.
    below : str, optional
        What is not shown, and how much of it there is.
    """
    import html

    side = "right" if header else "left"

    def line(kinds: Sequence[str], texts: Sequence[str]) -> str:
        cells = (
            f'<{kind} style="text-align:{side}">{html.escape(brief(text))}</{kind}>'
            for kind, text in zip(kinds, texts, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    head = line(["th"] * len(header), header) if header else ""
    body = "".join(line(["td"] * len(header) or ["th", "td"], row) for row in rows)
    beside = (f"<div>{html.escape(brief(text))}</div>" if text else "" for text in (title, below))
    above, under = beside
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    # In a notebook, dollars in a name would be mathematics.
    return f'<div class="tex2jax_ignore mathjax_ignore">{above}{table}{under}</div>'


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text as `plain` shows it: all that hpcio prints may hold names of others."""
    print(plain(text), end=end, file=sys.stderr if err else sys.stdout, flush=True)


def say_json(value: Any) -> None:
    """Print a value for programs, which terminals show all the same."""
    # JSON leaves one control character as it is.
    say(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def print_traceback(error: BaseException) -> None:
    """Tell standard error of an exception that nobody expected."""
    say("".join(traceback.format_exception(error)), err=True, end="")


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts w2 before w10.

    Examples
    --------
    >>> sorted(["1-10", "1-2", "here"], key=natural)
    ['1-2', '1-10', 'here']
    """
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", text)]
