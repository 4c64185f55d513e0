"""The results of ``--peers`` as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.page import Seconds
from benchmarks.peers.rows import SIZES
from benchmarks.peers.systems import LOOP, SYSTEMS
from benchmarks.show import number
from hpcio.bench import Spread
from hpcio.reporting import COLOURS, canvas


def draw(path: Path, found: Seconds, machine: Mapping[str, object]) -> None:
    """Save a picture: seconds of each system, a panel for each row, by the suffix of `path`."""
    names = list(dict.fromkeys(name for each in found.values() for name in each))
    width, height = 450 + 410 * len(found), 240 + 45 * len(names)
    with canvas(path, width, height) as figure:
        panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
        for ax, (row, spreads) in zip(panels, found.items(), strict=True):
            _panel(ax, row, spreads, names)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        figure.supxlabel(_below(machine), x=0.01, ha="left", fontsize=7.5)


def _panel(ax: Any, row: str, spreads: Mapping[str, Spread], names: list[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    colours = {system.name: COLOURS[system.colour] for system in SYSTEMS}
    for place, name in enumerate(names):
        if name not in spreads:
            continue
        one = spreads[name]
        ax.barh(place, one.median, 0.72, color=colours[name], zorder=2)
        ax.plot([one.lower, one.upper], [place] * 2, "|-", color=COLOURS["ink"],
                linewidth=1, markersize=6, zorder=4)  # fmt: skip
        ax.annotate(number(one.median), (max(one.median, one.upper), place), xytext=(5, 0),
                    textcoords="offset points", va="center", fontsize=8.5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
                    zorder=5)  # fmt: skip
    if LOOP in spreads:
        ax.axvline(spreads[LOOP].median, color=COLOURS["ink"], linestyle=(0, (4, 3)),
                   linewidth=1, zorder=3)  # fmt: skip
    ends = [value for one in spreads.values() for value in (one.lower, one.upper)]
    # Beside the longest bar there is room for its number.
    ax.set_xscale("log")
    ax.set_xlim(min(ends) / 2.5, max(ends) * (max(ends) / min(ends) * 2.5) ** 0.22)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=99))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(axis="x", color=COLOURS["pale"], zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title(str(SIZES[row]) if row in SIZES else row)
    ax.set_xlabel("seconds")


def _below(machine: Mapping[str, object]) -> str:
    facts = [
        f"{machine['cores']} cores, {machine['processor']}, tmpfs; hpcio {machine['hpcio']}",
        f"Python {machine['python']}", f"numpy {machine['numpy']}", f"h5py {machine['h5py']}",
        str(machine["date"])[:10],
    ]  # fmt: skip
    return (
        "Median and quartiles of the time from the call to the result on disk, workers warm; "
        "dashed: the plain loop.\n" + ", ".join(facts)
    )
