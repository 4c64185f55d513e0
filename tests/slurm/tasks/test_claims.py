"""Who works on which batch, and who is alive."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.tasks.claims import Claim, Claims
from slurm.tasks.heartbeats import HeartbeatMonitor


@pytest.fixture
def claims(plan):
    plan.run_directory.mkdir()
    for name in ("claims", "beats"):
        (plan.run_directory / name).mkdir()

    def of(attempt: str) -> Claims:
        found = Claims(plan, 1, attempt)
        found.look()
        return found

    return of


def test_one_of_two_gets_a_batch(claims):
    a, b = claims("a"), claims("b")
    claim = a.take(3, 17)
    assert claim == Claim(3, 1, 17, "a")
    assert b.take(3, 17) is None  # it had looked before
    b.look()
    assert b.latest(3) == claim
    assert b.take(3, 20) == Claim(3, 2, 20, "b")
    assert b.latest(4) is None


def test_a_claim_whose_owner_is_not_known_is_a_claim(claims, plan):
    (plan.run_directory / "claims" / "1-5.g1").touch()
    (plan.run_directory / "claims" / "2-5.g7@0@other").touch()  # of another submission
    seen = claims("a")
    assert seen.latest(5) == Claim(5, 1)


def test_a_batch_that_was_lost_is_taken_whatever_a_list_says(claims, monkeypatch):
    """A network file system may list a name later than it refuses to make it anew."""
    a, b = claims("a"), claims("b")
    claim = a.take(3, 17)
    monkeypatch.setattr("hpcio.journals.ClaimFolder.names", lambda _: [])
    assert b.take(3, 17) is None
    b.look()
    assert b.latest(3) == Claim(3, 1)
    monkeypatch.undo()
    b.look()
    assert b.latest(3) == claim


def test_a_takeover_is_found_whenever_its_owner_gives_its_name(claims, plan):
    """Which is a moment after it took it, when others may have looked."""
    a = claims("a")
    claim = a.take(0, 0)
    assert not a.is_taken_over(claim)
    for generation, start in ((2, 8), (3, 4)):
        name = plan.run_directory / "claims" / f"1-0.g{generation}"
        name.touch()
        assert a.is_taken_over(claim)
        a.look()
        assert a.is_taken_over(claim)
        name.with_name(f"{name.name}@{start}@b").touch()
        a.look()
        assert not a.is_taken_over(claim)
        assert a.until(claim, end=10) == start


def test_all_names_are_known_to_who_removes_a_run(claims, plan):
    attempt = "1-0-01234567"
    a = claims(attempt)
    for batch in range(3):
        claim = a.take(batch, 4 * batch)
    a.leave(claim)
    a.leave(claim, again=True)
    a.note_death(claim, 9)
    a.tell_done()
    a.tell_failed(2)
    a.stop()
    made = sorted(path.name for path in plan.rundir.claims.iterdir())
    assert len(made) == 12
    assert [name for name in made if not plan.rundir.is_ours(f"claims/{name}")] == []


def test_who_has_left_and_who_has_stopped_all(claims):
    a = claims("a")
    claim = a.take(0, 0)
    a.leave(claim)
    seen = claims("b")
    assert seen.latest(0).left
    assert not seen.stopped
    a.stop()
    seen.look()
    assert seen.stopped


@hypothesis.settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_the_parts_of_a_batch_cover_it_once(starts):
    """However often it is taken over: from its first block on, each belongs to one claim."""
    seen = Claims.__new__(Claims)
    starts = [0, *starts]
    seen.of = {0: {g + 1: Claim(0, g + 1, s, f"a{g}") for g, s in enumerate(starts)}}
    parts = [range(c.start, seen.until(c, end=31)) for c in seen.of[0].values()]
    assert sorted(block for part in parts for block in part) == list(range(31))


def test_life_is_told_by_a_change_alone(plan, claims, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    claims("a")
    beat = plan.run_directory / "beats" / "x"
    beat.write_text("1")
    pulses = HeartbeatMonitor(plan, stale=10)
    pulses.look("x")
    assert not pulses.lives("x")
    assert not pulses.dead("x")
    now[0] = 105.0
    beat.write_text("2")
    pulses.look("x")
    assert pulses.lives("x")
    now[0] = 114.0
    pulses.look("x")
    assert pulses.lives("x")
    assert not pulses.dead("x")
    now[0] = 115.0
    pulses.look("x")
    assert pulses.dead("x")
    assert not pulses.lives("x")


def test_deaths_count_in_all_passes_and_no_earlier_submission(claims, plan):
    a = claims("a")
    claim = a.take(0, 0)
    for name in ("2-0.g1@dead@7", "3-4.g1@dead@7"):  # of another submission, and of a pass
        (plan.run_directory / "claims" / name).touch()
    assert a.note_death(claim, 7) == 3
    assert a.note_death(claim, 7) == 3  # the same one, seen by another
    later = Claims(plan, 4, "b", first=3)
    later.look()
    assert later.deaths == {7: 1}
    assert not later.of


def test_who_goes_on_when_it_is_started_again_has_not_left(claims):
    a = claims("a")
    a.leave(a.take(0, 0), again=True)
    seen = claims("b").latest(0)
    assert (seen.left, seen.in_order) == (False, True)
