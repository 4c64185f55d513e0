"""Whatever is done to runs and results in whatever order, a model of them says what must be there.

The model holds no bytes of the disk: it knows which values a plan gives, which trials are done, and
what each result shows. After each step every result must show that, or be refused if parts of it
are gone or may not be read.
"""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import hpcio
from hpcio.errors import BlocksFailed, HpcioError, HpcioWarning, Interrupted
from hpcio.files import RunDirectory, mark_of
from hpcio.report import write_page
from hpcio.status import status
from tests.rigs.capabilities import held_to_permissions
from tests.rigs.forks import forked
from tests.rigs.model import How, Place, Refused, Result, Run, may_be_read
from tests.rigs.opened import sources_of
from tests.rigs.resuming import finished
from tests.rigs.support import group, names
from tests.rigs.versions import ALL, FUNCTIONS, TRIALS, Key, Recording, Versions, die_at
from tests.rigs.waiting import until

WAYS: dict[str, dict[str, Any]] = {
    "a file a batch": {"sources": "task"},
    "a file a trial": {"sources": "trial"},
    "packed": {"sources": "task", "compression": "gzip", "join": "stack"},
    "packed trials": {"sources": "trial", "compression": "gzip+shuffle"},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex", "join": "stack"},
    "mean": {"keeptrials": False},
    "sum by direct": {"keeptrials": False, "reduce": "sum", "writer": "direct"},
}
PLACES = "abc"
wheres = st.integers(0, len(PLACES) - 1)
# How many sequences of how many steps the long test has.
SEQUENCES = int(os.environ.get("HPCIO_SEQUENCES", "200"))
STEPS = int(os.environ.get("HPCIO_STEPS", "75"))


class Runs(RuleBasedStateMachine):
    """Steps of users and of what befalls them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.places = {name: Place(self.folder / name) for name in PLACES}
        for place in self.places.values():
            place.folder.mkdir()
        self.digests: dict[str, Key] = {}
        self.locked: dict[Path, int] = {}

    @initialize(
        way=st.sampled_from([*WAYS]),
        event=st.sampled_from([None, "kill", "stop"]),
        trial=st.integers(0, TRIALS - 1),
    )
    def begin(self, way: str, event: str | None, trial: int) -> None:
        """A first run, perhaps one that is stopped."""
        self.way = way
        self.work = Versions(self.folder, **WAYS[way])
        self.one_file = "writer" in WAYS[way] and "keeptrials" not in WAYS[way]
        # What a writer gathers in memory dies with the process.
        self.holds_back = way == "packed"
        self._run(self.places["a"], How(event=event, trial=trial))

    def teardown(self) -> None:
        self.unlock()
        self.work.close()
        shutil.rmtree(self.folder)

    def _at(self, where: int) -> Place:
        """One of the places where something is; the first of all if nothing is anywhere."""
        there = [p for p in self.places.values() if p.result or p.run_folder.exists()]
        return there[where % len(there)] if there else self.places[PLACES[0]]

    # ------------------------------------------------------------------ runs

    @rule(
        where=wheres,
        fresh=st.sampled_from([False, False, True]),
        gaps=st.booleans(),
        loaded=st.booleans(),
        workers=st.sampled_from([0] * 11 + [1, 2]),
        event=st.sampled_from([None, None, "kill", "kill", "stop", "orphan", "raise"]),
        trial=st.integers(0, TRIALS - 1),
    )
    def run(
        self,
        where: int,
        fresh: bool,
        gaps: bool,
        loaded: bool,
        workers: int,
        event: str | None,
        trial: int,
    ) -> None:
        """Run a plan made now or loaded; perhaps something happens when a trial is computed."""
        self.unlock()
        if event == "orphan" and not workers:
            event = "kill"
        if event == "stop" and workers:
            event = None
        place = self._at(where)
        if event == "raise":
            self.work.mark("sick", trial)
        try:
            self._run(place, How(fresh, gaps, loaded, workers, event, trial))
        finally:
            for what in ("kill", "stop", "orphan"):
                self.work.clear(what)
            if event == "raise":
                self.work.clear("sick")
                for number in self.marked:
                    self.work.mark("sick", number)

    @rule(
        where=st.sampled_from(PLACES),
        fresh=st.sampled_from([False, False, True]),
        gaps=st.booleans(),
        loaded=st.booleans(),
    )
    def run_on(self, where: str, fresh: bool, gaps: bool, loaded: bool) -> None:
        """Run a plan of any place, or begin one there."""
        self.unlock()
        self._run(self.places[where], How(fresh, gaps, loaded))

    marked: frozenset[int] = frozenset()

    def _run(self, place: Place, how: How) -> None:
        event, trial = how.event, how.trial
        self.work.forget_calls()
        try:
            missing = self._missing(place, how)
        except Refused:
            with pytest.raises(HpcioError):
                self._start(place, how)
            assert self.work.calls == []
            self._is_as_before(place)
            return
        if missing is None:  # it is done and published
            done = self._start(place, how)
            assert (done.computed, self.work.calls) == (0, [])
            return
        happens = event in ("kill", "stop", "orphan") and trial in missing
        if happens:  # and else not, or a mistake of ours would end the test without a word
            self.work.mark(event, trial)
        if happens and (event == "orphan" or not how.workers) and event != "stop":
            self._killed(place, how)
            self._resync(place, how.fresh, self._sure(event, trial), gaps=how.gaps)
            return
        sick = self.work.sick & missing
        run = self._begun(place, how)
        try:
            self._start(place, how)
        except Interrupted:
            assert happens
            assert event == "stop"
            self._adopt(place, run)
            place.run.done = run.done | self._sure(event, trial)
        except BlocksFailed as error:
            assert sick
            assert not (how.gaps and len(run.done | missing - sick))
            self._adopt(place, run)
            failed = {failure.block for failure in error.done.failed}
            assert failed == sick
            place.run.done = run.done | (missing - sick)
        else:
            assert not sick or how.gaps
            self._adopt(place, run)
            place.run.done = run.done | (missing - sick)
            self._publish(place)
            assert self._is_tidy(place)
        if not (happens and event == "stop"):
            again = [trial] if happens else []
            assert Counter(self.work.calls) == Counter([*missing, *again])
        assert finished(place.out) == self._done(place)

    def _is_as_before(self, place: Place) -> None:
        """What was refused has touched nothing."""
        assert (place.run is None) == (not (place.run_folder / "plan.h5").exists())
        if place.run:
            assert hpcio.Plan.load(place.out).run_id == place.run.run_id
            if not place.published:
                assert finished(place.out) == self._done(place)

    def _start(self, place: Place, how: How) -> Any:
        self.work.forget_modules()
        plan = hpcio.Plan.load(place.out) if how.loaded else self._plan(place)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", HpcioWarning)
            done = plan.run(progress=False, fresh=how.fresh, gaps=how.gaps, workers=how.workers)
        # A result that is done may tell of an edit since, and starting over what it throws away.
        told = how.fresh or (place.published and place.run.key != self.work.key)
        assert not said or told, said[0].message
        return done

    def _plan(self, place: Place) -> hpcio.Plan:
        plan = self.work.plan(place.out)
        assert self.digests.setdefault(plan.digest, self.work.key) == self.work.key
        assert len({*self.digests.values()}) == len(self.digests)
        return plan

    def _missing(self, place: Place, how: How) -> frozenset[int] | None:
        """The trials that a run computes; None if it is published."""
        run = place.run
        if how.loaded and run is None:
            raise Refused
        key = run.key if how.loaded else self.work.key
        if not how.fresh and place.published:
            if place.result.key != key or not place.is_whole:
                raise Refused
            return None
        if how.loaded and key.recording != self.work.recording:
            raise Refused
        if not how.fresh and run and run.key != key:
            raise Refused
        missing = ALL if how.fresh or run is None else ALL - self._done(place)
        if how.loaded and missing and key.function != self.work.function:
            raise Refused
        return missing

    def _begun(self, place: Place, how: How) -> Run:
        """The run directory as it will be when nothing is computed yet."""
        if place.run and not how.fresh:
            return Run(place.run.key, place.run.run_id, place.run.replaces, self._done(place))
        key = place.run.key if how.loaded else self.work.key
        replaces = place.result.run_id if how.fresh and place.result else ""
        return Run(key, "", replaces)

    def _adopt(self, place: Place, run: Run) -> None:
        place.run = run
        run.run_id = hpcio.Plan.load(place.out).run_id

    def _done(self, place: Place) -> frozenset[int]:
        """The trials that need not be computed."""
        run = place.run
        if run.given_away and not (place.result and place.published):
            return frozenset()
        return run.done

    def _sure(self, event: str | None, trial: int) -> frozenset[int]:
        """The trials that were computed, but for one that was at hand."""
        calls = self.work.calls
        assert max(Counter(calls).values(), default=1) == 1
        if event == "kill" and self.holds_back:
            return frozenset()
        lost = {trial} if event in ("kill", "stop") else set()
        return frozenset(calls) - self.work.sick - lost

    def _publish(self, place: Place) -> None:
        """The result of the run that is there has appeared."""
        run = place.run
        with h5py.File(place.out) as f:
            paths = sources_of(place.out) if "hpcio/sources" in f else []
        parts = {os.path.relpath(path, place.folder): path.read_bytes() for path in paths}
        place.result = Result(run.key, run.run_id, run.done, parts)
        run.given_away = self.one_file
        assert mark_of(place.out).run_id == run.run_id

    def _is_tidy(self, place: Place) -> bool:
        """Whether nothing is left of what processes had half made."""
        kept = [path.name for path in place.run_folder.iterdir()]
        kept += names(place.folder, f".out.h5.{place.run.run_id}*")
        return not [name for name in kept if name.endswith((".part", ".old"))]

    def _killed(self, place: Place, how: How) -> None:
        """Run in a child, which dies; nothing of it is left."""
        if not how.loaded:
            self._plan(place)  # so that its digest is known here

        def child() -> str:
            os.setsid()
            (self.folder / "session").write_text(str(os.getpid()))
            self._start(place, how)
            return "fine"

        assert forked(child) == "signal 9"
        leader = int((self.folder / "session").read_text())
        until(lambda: not group(leader), "the end of the orphans")

    def _resync(
        self, place: Place, fresh: bool, survived: frozenset[int], *, gaps: bool = False
    ) -> None:
        """After a kill, learn how far it came; nothing that was there before is lost."""
        before = copy.deepcopy(place)
        place.run = self._run_that_is_there(before, fresh)
        assert place.out.exists() or before.result is None
        mark = mark_of(place.out) if place.out.exists() else None
        if mark and (before.result is None or mark.run_id != before.result.run_id):
            with h5py.File(place.out) as f:
                place.run.done = frozenset(np.flatnonzero(f["trials"]["done"]).tolist())
            assert gaps or place.run.done == ALL
            self._publish(place)
        if place.run is None:
            return
        lost = place.run.given_away and not place.published
        place.run.done = frozenset() if lost else frozenset(finished(place.out))
        if before.run and before.run.run_id == place.run.run_id and not fresh:
            assert place.run.done >= self._done(before)
        assert place.run.done >= survived

    def _run_that_is_there(self, before: Place, fresh: bool) -> Run | None:
        """The run directory after a kill: that of before, a new one, or none yet."""
        if not (before.run_folder / "plan.h5").exists():
            assert fresh or before.run is None
            return None
        plan = hpcio.Plan.load(before.out)
        run = Run(self.digests[plan.digest], plan.run_id, plan.replaces or "")
        if before.run and run.run_id == before.run.run_id:
            assert (run.key, run.replaces) == (before.run.key, before.run.replaces)
            rundir = RunDirectory(before.run_folder)
            made_anew = rundir.data.exists() or rundir.closed.exists()
            run.given_away = before.run.given_away and not made_anew
        else:
            assert fresh or before.run is None
            assert run.replaces == (before.result.run_id if fresh and before.result else "")
        return run

    @rule(
        where=wheres,
        fresh=st.booleans(),
        gaps=st.booleans(),
        loaded=st.booleans(),
        moment=st.integers(0, 150),
    )
    def run_until_a_call(
        self, where: int, fresh: bool, gaps: bool, loaded: bool, moment: int
    ) -> None:
        """Run a plan in a process that is killed at some call to the system."""
        self.unlock()
        place, how = self._at(where), How(fresh, gaps, loaded)
        self.work.forget_calls()
        try:
            missing = self._missing(place, how)
        except Refused:
            return
        if not how.loaded:
            self._plan(place)  # so that its digest is known here

        def child() -> str:
            self.work.forget_modules()
            plan = hpcio.Plan.load(place.out) if loaded else self._plan(place)
            die_at(moment)
            plan.run(workers=0, progress=False, fresh=fresh, gaps=gaps)
            return "fine"

        said = forked(child)
        assert said in ("fine", "signal 9") or said.startswith("BlocksFailed ")
        if missing is None:
            assert self.work.calls == []
            return
        calls = self.work.calls
        assert len({*calls}) == len(calls)
        assert missing.issuperset(calls)
        self._resync(place, fresh, self._all_but_the_last(calls), gaps=gaps)

    def _all_but_the_last(self, calls: list[int]) -> frozenset[int]:
        """Trials that were done for sure when a process ended."""
        return frozenset() if self.holds_back else frozenset(calls[:-1]) - self.work.sick

    # ------------------------------------------------------------------ what is edited

    @rule(version=st.sampled_from(range(len(FUNCTIONS))))
    def edit_function(self, version: int) -> None:
        self.work.edit_function(version)

    @rule(values=st.integers(0, 1), time=st.integers(0, 1))
    def edit_recording(self, values: int, time: int) -> None:
        """Other values, another time, both, or what it was before."""
        self.work.edit_recording(Recording(values, time))

    @rule(numbers=st.sets(st.integers(0, TRIALS - 1), max_size=2))
    def sicken_or_cure(self, numbers: set[int]) -> None:
        self.work.clear("sick")
        for number in numbers:
            self.work.mark("sick", number)
        self.marked = frozenset(numbers)

    # ------------------------------------------------------------------ moved and removed

    @rule(
        here=wheres,
        to=st.sampled_from(PLACES),
        what=st.sampled_from(["both", "both", "result", "run"]),
        copied=st.booleans(),
    )
    def move(self, here: int, to: str, what: str, copied: bool) -> None:
        """Move or copy a result, its run directory, or both."""
        self.unlock()
        old, new = self._at(here), self.places[to]
        if new.run_folder.exists() or new.out.exists():
            return
        do: Callable[..., object] = shutil.copy2 if copied else os.rename
        if what != "run" and old.result:
            do(old.out, new.out)
            new.result = copy.deepcopy(old.result)
            old.result = old.result if copied else None
        do = shutil.copytree if copied else os.rename
        if what != "result" and old.run_folder.exists():
            do(old.run_folder, new.run_folder)
            new.run = copy.deepcopy(old.run)
            old.run = old.run if copied else None

    @rule(where=wheres)
    def remove_result(self, where: int) -> None:
        self.unlock()
        place = self._at(where)
        place.out.unlink(missing_ok=True)
        place.result = None

    @rule(where=wheres)
    def remove_run(self, where: int) -> None:
        self.unlock()
        place = self._at(where)
        shutil.rmtree(place.run_folder, ignore_errors=True)
        place.run = None

    @rule(where=wheres, which=st.integers(0, 99))
    def remove_part(self, where: int, which: int) -> None:
        """Remove a file that an attempt has written; what was in it is to be computed again."""
        self.unlock()
        place = self._at(where)
        parts = self._parts(place)
        if not parts:
            return
        part = parts[which % len(parts)]
        part.unlink()
        if place.run is None:
            return
        before = place.run.done
        if place.published and self.one_file:
            return
        place.run.done = frozenset(finished(place.out))
        assert place.run.done <= before
        if self.work.options.get("sources") == "trial":
            assert len(before - place.run.done) <= 1

    def _parts(self, place: Place) -> list[Path]:
        return sorted(p for p in place.run_folder.glob("sources/**/*") if p.is_file())

    # ------------------------------------------------------------------ permissions

    @rule(where=wheres, which=st.integers(0, 99), mode=st.sampled_from([0, 0, 0o400]))
    def lock(self, where: int, which: int, mode: int) -> None:
        """Nobody may read a file of a result or of its run, or write into one of its folders."""
        place = self._at(where)
        if mode:
            paths = [place.folder, *(p for p in place.run_folder.rglob("*") if p.is_dir())]
            mode = 0o500
        else:
            paths = [p for p in (place.out, *place.run_folder.rglob("*")) if p.is_file()]
        paths = sorted(p for p in paths if p not in self.locked)
        if paths:
            path = paths[which % len(paths)]
            self.locked[path] = path.stat().st_mode
            path.chmod(mode)

    @rule()
    def unlock(self) -> None:
        for path, mode in self.locked.items():
            if path.exists():
                path.chmod(mode & 0o7777)
        self.locked.clear()

    @rule(where=wheres, fresh=st.booleans(), gaps=st.booleans(), loaded=st.booleans())
    def run_locked(self, where: int, fresh: bool, gaps: bool, loaded: bool) -> None:
        """Run where something may not be read or written: it does what it should, or refuses."""
        place, how = self._at(where), How(fresh, gaps, loaded)
        self.work.forget_calls()
        try:
            missing = self._missing_if_open(place, how)
        except Refused:
            with pytest.raises(HpcioError):
                self._start(place, how)
            assert self.work.calls == []
            return
        try:
            self._start(place, how)
        except HpcioError:
            pass
        calls = self.work.calls
        self.unlock()
        assert (missing or frozenset()).issuperset(calls)
        if missing is not None:
            self._resync(place, fresh, self._all_but_the_last(calls), gaps=gaps)

    def _missing_if_open(self, place: Place, how: How) -> frozenset[int] | None:
        """What would be missing if everything could be read."""
        locked = {**self.locked}
        self.unlock()
        try:
            return self._missing(place, how)
        finally:
            self.locked = locked
            for path in locked:
                path.chmod(0o500 if path.is_dir() else 0)

    # ------------------------------------------------------------------ what is done to results

    @rule(
        where=wheres,
        into=st.sampled_from([None, *PLACES]),
        compression=st.sampled_from([None, None, "gzip"]),
        moment=st.sampled_from([None, *range(0, 40, 3)]),
    )
    def repack(
        self, where: int, into: str | None, compression: str | None, moment: int | None
    ) -> None:
        """Make one file of a result, in place or elsewhere; perhaps it is killed meanwhile."""
        place = self._at(where)
        self.unlock()
        target = place if into is None else self.places[into]
        name = None if into is None else target.out
        options = {"compression": compression, "workers": 1}
        if place.result is None or not place.is_whole or (name and target.result):
            with pytest.raises(HpcioError):
                hpcio.repack(place.out, name, **options)
            return
        # Another run has begun there, or was killed before it had a plan.
        others = place.run is None or place.run.run_id != place.result.run_id
        foreign = into is None and others and place.run_folder.exists()

        def child() -> str:
            warnings.simplefilter("ignore", HpcioWarning)  # the folder stays
            die_at(10**6 if moment is None else moment)
            hpcio.repack(place.out, name, **options)
            return "fine"

        said = forked(child)
        if moment is None:
            assert said == "fine", said
            assert into is not None or place.run_folder.exists() == foreign
            assert names(target.folder, ".out.h5*.repack") == []
        else:
            assert said in ("fine", "signal 9"), said
        if not target.out.exists():
            assert said == "signal 9"
            return
        target.result = copy.deepcopy(place.result)
        with h5py.File(target.out) as f:
            if "hpcio/sources" not in f:
                target.result.parts = {}
        if not place.run_folder.exists():  # it was not there, or has been removed with the parts
            place.run = None
        for left in place.folder.glob("out.h5.run.*.old"):
            assert said == "signal 9"
            shutil.rmtree(left)

    @rule(where=wheres)
    def verify(self, where: int) -> None:
        place = self._at(where)
        if place.result and place.is_whole:
            assert hpcio.verify(place.out).path == str(place.out)
        else:
            with pytest.raises(HpcioError):
                hpcio.verify(place.out)

    @rule(where=wheres)
    def status(self, where: int) -> None:
        place = self._at(where)
        try:
            said = status(str(place.out))
        except HpcioError:
            assert self.locked or (place.run is None)
            assert place.result is None or not place.is_whole or place.run_folder.exists()
            return
        assert not said.session
        if not self.locked:
            assert said.published == place.published
        assert said.blocks == TRIALS or "keeptrials" in self.work.options

    @rule(where=wheres, rarely=st.integers(0, 5))
    def report(self, where: int, rarely: int) -> None:
        place = self._at(where)
        if rarely < 5:
            return
        try:
            write_page(self.folder / "page.html", place.out)
        except HpcioError:
            assert self.locked or place.run is None or not place.published or not place.is_whole
        else:
            assert (self.folder / "page.html").stat().st_size > 1000

    # ------------------------------------------------------------------ what holds after each step

    @invariant()
    def shows_what_the_model_says(self) -> None:
        for place in self.places.values():
            self._look(place)

    def _look(self, place: Place) -> None:
        result = place.result
        if result is None:
            with pytest.raises(HpcioError):
                hpcio.open(place.out)
            assert not place.out.exists()
            return
        assert place.out.exists()
        if not place.is_whole:
            with pytest.raises(HpcioError):
                hpcio.open(place.out)
            return
        right = self.work.expected(result.key, result.done)
        for opened in (hpcio.open(place.out), h5py.File(place.out)):
            with opened as f:
                assert f["data"].dtype == right.dtype
                assert f["data"][...].tobytes() == right.tobytes()
                done = np.flatnonzero(f["trials"]["done"]).tolist()
                assert done == sorted(result.done)

    @invariant()
    def nothing_is_left_open(self) -> None:
        inside = str(self.folder)
        for name in os.listdir("/proc/self/fd"):
            try:
                path = os.readlink(f"/proc/self/fd/{name}")
            except OSError:
                continue  # that of the list itself
            assert not path.startswith(inside)

    @invariant()
    def nobody_is_at_work(self) -> None:
        for place in self.places.values():
            lock = place.run_folder / "lock"
            if place.run and lock.exists() and may_be_read(lock):
                with lock.open("rb") as f:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)


def settings(sequences: int, steps: int, **more: Any) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=sequences, stateful_step_count=steps, deadline=None, database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck), print_blob=True, **more,
    )  # fmt: skip


def test_some_sequences_of_steps(tmp_path):
    with held_to_permissions():
        run_state_machine_as_test(
            lambda: Runs(tmp_path), settings=settings(5, 15, derandomize=True)
        )


@pytest.mark.torture
def test_many_long_sequences_of_steps(tmp_path):
    with held_to_permissions():
        run_state_machine_as_test(lambda: Runs(tmp_path), settings=settings(SEQUENCES, STEPS))
