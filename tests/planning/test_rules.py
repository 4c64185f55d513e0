"""A rule that says shapes it has not seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcio.planning.rules import Rule

RULES = [
    lambda t: t,
    lambda t: (t[1], t[0]),
    lambda t: (5, t[1]),
    lambda t: (t[0] // 2 + 1, t[1]),
    lambda t: (-(-t[0] // 8), t[1] - 1),
    lambda t: (4 * t[0], t[1]),
    lambda t: (),
    lambda t: (t[0] + 12,),
]


@pytest.mark.parametrize("rule", RULES)
@given(rows=st.lists(st.integers(20, 5000), min_size=6, unique=True), channels=st.integers(2, 30))
def test_it_says_what_it_has_seen(rule, rows, channels):
    known = [((n, channels), tuple(rule((n, channels)))) for n in rows]
    found = Rule.fit(known)
    assert found is not None
    assert [found.apply(trial) for trial, _ in known] == [result for _, result in known]


@pytest.mark.parametrize("rule", RULES)
def test_neighbours_tell_rules_apart(rule):
    some = [100, 101, 102, 300, 500, 700, 900, 1000]
    found = Rule.fit([((n, 4), tuple(rule((n, 4)))) for n in some])
    for n in range(100, 1001):
        assert found.apply((n, 4)) == tuple(rule((n, 4)))


@pytest.mark.parametrize(
    "known",
    [
        [],
        [((3,), (1,)), ((4,), (1, 1))],
        [((n,), (n * n,)) for n in range(5, 10)],
    ],
)
def test_there_may_be_none(known):
    assert Rule.fit(known) is None
