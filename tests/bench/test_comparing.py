"""What is compared is measured in turn, each side beside its limit."""

from __future__ import annotations

import time

from hpcio.bench.comparing import Rates, compare
from hpcio.bench.figures import LeftOut
from hpcio.bench.team import Round


def test_what_is_compared_is_of_the_same_number_of_things():
    """Of few things the fsync is the larger part: a limit of many would be another."""
    done: list[tuple[str, int]] = []

    def side(name: str, slowness: float):
        def measured(count: int) -> Round:
            done.append((name, count))
            return Round(0.004 + slowness * count, count)

        return measured

    sides = {"limit": side("limit", 1e-4), "fast": side("fast", 2e-4),
             "slow": side("slow", 1e-2), "alone": side("alone", 1e-3)}  # fmt: skip
    held = {"fast": "limit", "slow": "limit", "refused": "limit"}
    rates = compare(
        sides, held=held, most=dict.fromkeys(sides, 1000), seconds=0.01, repetitions=2,
        share=600.0, what="these",
    )  # fmt: skip
    assert [*rates] == [*sides]
    turn = done[-5:]
    assert [name for name, _ in turn] == ["limit", "fast", "limit", "slow", "alone"]
    assert turn[0][1] == turn[1][1] > turn[3][1] == turn[2][1]
    for name in ("fast", "slow"):
        assert len(rates[name].values) == len(rates[name].limits) == 2
    assert rates["limit"].values == rates["fast"].limits
    assert not rates["alone"].limits


def dear(done: list[int], seconds: float):
    """A side of which making ready takes its time, which is in no rate."""

    def measured(count: int) -> Round:
        done.append(count)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return Round(1e-6 * count, count)

    return measured


def compared(seconds: float, share: float, most: int):
    done: list[int] = []
    found = compare(
        {"dear": dear(done, seconds)}, held={}, most={"dear": most}, seconds=0.01, repetitions=2,
        share=share, what="these",
    )  # fmt: skip
    return found, done


def test_what_takes_too_long_though_it_does_less_is_left_out():
    found, _ = compared(0.05, 0.006, 1000)
    assert isinstance(found, LeftOut)
    assert found.what == "these"
    assert "it would take" in found.why


def test_what_would_take_longer_than_its_share_does_less():
    found, done = compared(0.05, 0.04, 1000)
    assert isinstance(found, dict)
    assert isinstance(found["dear"], Rates)
    assert len({*done[-2:]}) == 1
    assert 1 <= done[-1] < 1000


def test_rounds_of_which_most_is_an_fsync_are_left_out():
    found, done = compared(0.0, 1e-3, 1000)
    assert isinstance(found, LeftOut)
    assert "each round would be little but an fsync" in found.why
    assert not done


def test_a_single_thing_cannot_be_less():
    found, _ = compared(0.05, 0.04, 1)
    assert isinstance(found, LeftOut)
