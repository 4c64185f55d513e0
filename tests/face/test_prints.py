"""How things print: in few lines, in notebooks as small tables, without bytes and foreign HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nbclient
import nbformat
import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, Done, Failure
from hpcio.planning import Description
from hpcio.words import html_table
from tests.rigs.waiting import PATIENCE

BAD = "<script>alert('$x$')</script>"
TRIALS, ROWS = 12, 5


def cells(shown: str) -> list[list[str]]:
    """The texts of a table, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", shown)
    return [[html.unescape(c) for c in re.findall(r"<t[hd] [^>]*>(.*?)</t", r)] for r in rows]


def beside(shown: str) -> list[str]:
    """What stands above and below a table."""
    return [html.unescape(text) for text in re.findall(r"<div>(.*?)</div>", shown)]


def pairs(thing: Any) -> dict[str, str]:
    """The names and values of a table; what is printed has the same."""
    rows = cells(thing._repr_html_())
    assert [line.split("  ") for line in map(str.strip, repr(thing).splitlines())] == rows
    return {row[0]: row[1] for row in rows}


def trials() -> hpcio.Trials:
    found = hpcio.Trials.from_array(np.arange(TRIALS)[:, None] * ROWS + [0, ROWS, 2])
    columns = {BAD: [f"a\n{BAD}"] * TRIALS, "rt": np.arange(TRIALS) / 3}
    return found.with_columns(**columns)


def mean_below(trial: Any, limit: float = np.inf) -> Any:
    if trial[0, 0] >= limit:
        raise ValueError(f"{BAD}\nis no value")
    return trial.mean(axis=0)


mean_below.__module__ = "__main__"  # it travels as a pickle


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., hpcio.Plan]:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.arange(TRIALS * ROWS * 3.0).reshape(-1, 3)

    def make(func: Any = mean_below, **options: Any) -> hpcio.Plan:
        said = {
            "trials": trials(), "out": tmp_path / f"{BAD[:8]}.h5", "join": "stack",
            "axes": {"trial": None, "channel": None}, **options,
        }  # fmt: skip
        return hpcio.Plan.create(func, f"{tmp_path}/rec.h5::/lfp", **said)

    return make


def test_trials_are_a_table_of_the_first_ones_with_their_columns():
    shown = trials()._repr_html_()
    assert cells(shown) == [
        ["trial", "start", "stop", "offset", BAD, "rt"],
        *(
            [str(k), str(5 * k), str(5 * k + 5), str(5 * k + 2), f"a {BAD}", f"{k / 3:.6g}"]
            for k in range(8)
        ),
    ]
    assert beside(shown) == ["12 trials of 5 rows along axis 0", "4 more trials"]
    few = trials().select(trials=[3, 1], time=slice(1, 3))._repr_html_()
    assert [row[0] for row in cells(few)] == ["trial", "3", "1"]
    assert beside(few) == ["2 trials of 5 rows along axis 0, time 1:3"]


def test_a_million_trials_with_many_columns_are_a_small_table():
    class Watched(np.ndarray):
        """An array that says which of its values were asked for."""

        asked: list[Any] = []  # noqa: RUF012

        def __getitem__(self, key: Any) -> Any:
            self.asked.append(key)
            return super().__getitem__(key)

    million = hpcio.Trials.equal(2, rows=2_000_000)
    names = [f"c{k}" + "x" * 100 for k in range(20)]
    made = million.with_columns(**dict.fromkeys(names, million.start))
    object.__setattr__(made, "columns", {n: v.view(Watched) for n, v in made.columns.items()})
    shown = made._repr_html_()
    assert len(cells(shown)) == 9
    assert cells(shown)[0][4:] == [f"{name[:37]}..." for name in names[:6]]
    assert beside(shown)[1] == "999,992 more trials, 14 more columns"
    assert {key.stop for key in Watched.asked if isinstance(key, slice)} == {8}
    assert len(shown) < 8_000
    assert repr(made).startswith("Trials(1,000,000 trials of 2 rows along axis 0, columns c0xxx")
    assert len(repr(made)) < 500
    assert "\n" not in repr(made)


def test_a_plan(plan):
    made = plan(keeptrials=False, by="rt", join="concatenate", axes=None)
    assert pairs(made) == {
        "plan": made.digest[:8],
        "function": "__main__:mean_below (pickled)",
        "recording": f"{made.source.path}::/lfp",
        "trials": f"12 trials of 5 rows along axis 0, columns {BAD}, rt",
        "result": "12 rt x 3, float64, 288 B",
        "average": "the mean of all trials by rt",
        "into": f"{made.out} (writer virtual)",
    }


def test_a_description_has_the_rows_of_the_command(plan):
    described = plan().describe(workers=1)
    assert isinstance(described, Description)
    assert pairs(described) == dict(described.rows())
    assert dict(described.rows())["one trial"] == "120 B"


def test_what_a_run_has_done(plan):
    done = plan().run(workers=0, progress=False)
    said = pairs(done)
    assert said.pop("computed").startswith("12 trials in ")
    assert said == {
        "into": done.out, "done": "12 trials", "by": "1 worker", "read": "1.44 kB",
        "written": "288 B",
    }  # fmt: skip
    again = plan().run(workers=0, progress=False)
    assert pairs(again) == {
        "into": done.out, "done": "12 trials", "of earlier runs": "12", "computed": "nothing",
    }  # fmt: skip


def test_of_a_thousand_failures_some_are_shown(plan):
    failing = plan(kwargs={"limit": 150.0}, out_shape=(3,), out_dtype="f8")
    with pytest.raises(BlocksFailed) as raised:
        failing.run(workers=0, progress=False)
    done = raised.value.done
    assert repr(done.failed[0]) == "Failure(trial 10: is no value)"
    said = pairs(done)
    assert (said["failed"], said["trial 10"], said["trial 11"]) == ("2", *["is no value"] * 2)
    many = tuple(Failure(k, k, f"Traceback\n  x\nValueError: {BAD}") for k in range(1000))
    said = pairs(Done("out.h5", failed=many))
    assert [*said] == [
        "into",
        "done",
        "computed",
        "failed",
        *(many[k].name for k in range(5)),
        "...",
    ]
    assert said["block 0 (trial 0)"] == f"ValueError: {BAD}"


def test_a_result(plan, tmp_path):
    first = plan(trials=trials().with_columns(good=np.arange(TRIALS) < 9))
    first.run(workers=0, progress=False)
    with hpcio.open(first.out) as f:
        said = pairs(f)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said.pop("created"))
        assert said == {
            "result": first.out,
            "data": "12 trial x 3 channel, float64, 288 B",
            "trials": "12",
            "columns": f"{BAD}, rt, good",
            "function": "__main__:mean_below",
            "recording": f"{first.source.path}::/lfp",
        }
    closed = "<Closed HDF5 file>"
    assert (repr(f), beside(f._repr_html_())) == (closed, [closed])

    second = hpcio.Plan.create(
        np.negative, first.out, trials=first.out, keeptrials=False, by="good",
        out=tmp_path / "second.h5",
    )  # fmt: skip
    second.run(workers=0, progress=False)
    with hpcio.open(second.out) as f:
        said = pairs(f)
        assert said["data"].startswith("2 good x 1")
        assert said["average"] == "mean of 12 trials"
        assert said["steps before"] == "__main__:mean_below"


def test_a_result_with_gaps(plan):
    made = plan(kwargs={"limit": 150.0}, out_shape=(3,), out_dtype="f8", writer="direct")
    assert pairs(made.run(workers=0, progress=False, gaps=True))["gaps"] == "2"
    with hpcio.open(made.out) as f:
        assert (pairs(f)["trials"], pairs(f)["gaps"]) == ("12", "2")


def test_a_result_whose_details_are_damaged_shows_as_the_file_that_it_is(plan):
    made = plan()
    made.run(workers=0, progress=False)
    with h5py.File(made.out, "r+") as f:
        del f["trials"]
    with hpcio.open(made.out) as f:
        plain = f'<HDF5 file "{Path(made.out).name}" (mode r)>'
        assert (repr(f), beside(f._repr_html_())) == (plain, [plain])


def test_nothing_shows_bytes_or_html_of_others(plan):
    gain, text = hpcio.per_trial([1.0] * TRIALS), [b"left", b"right", b"\x80"]
    made = plan(
        lambda trial, gain, table: trial.mean(axis=0) * gain,
        args=(gain,), kwargs={"table": np.ones(10_000)}, axes={BAD[:8]: None, "side": text},
    )  # fmt: skip
    done = made.run(workers=0, progress=False)
    things = [made, made.trials, made.describe(workers=1), done]
    parts = [
        made.function, made.source, made.blocks, made.blocks.input_kinds[0], made.target, made.axes,
        made.given, made.arguments(), made.function.fingerprint, gain,
    ]  # fmt: skip
    with hpcio.open(made.out) as f:
        for shown in (f._repr_html_(), *(thing._repr_html_() for thing in things)):
            assert "<table>" in shown
            assert "<script" not in shown
            assert "b&#x27;" not in shown
    for shown in (*map(repr, things), *map(repr, parts), *map(str, parts)):
        assert "b'" not in shown
        assert 'b"' not in shown
        assert "\\x" not in shown
        assert len(shown) < 1_500
        assert shown.count("\n") < 12
    assert repr(made.arguments()).startswith("Arguments(per_trial(12 values), table=array([1., 1")
    assert repr(made.axes) == f"(Axis({BAD[:8]!r}, 12 coordinates), Axis('side', 3 coordinates))"
    # What a result says of its arguments is all of it.
    assert made.described["args"] == repr(({"per_trial": [1.0] * TRIALS},))


def test_every_text_of_a_table_is_escaped():
    shown = html_table(BAD, [[BAD, f"\x1b{BAD}"]], header=[BAD, '"'], below=BAD)
    assert "<script" not in shown
    assert cells(shown) == [[BAD, '"'], [BAD, f"\\x1b{BAD}"]]
    assert beside(shown) == [BAD, BAD]
    assert "<script" not in html_table(BAD, [(BAD, BAD)])
    assert "mathjax_ignore" in shown  # dollars in a name


def test_a_notebook_shows_them(plan, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    made = plan(np.negative, axes=None)
    begin = f"import hpcio\nout = {made.out!r}\nplan = hpcio.Plan.load(out)\nplan"
    made.run(workers=0, progress=False)
    code = [begin, "plan.trials", "plan.describe(workers=1)", "plan.run()", "hpcio.open(out)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in code])
    nbclient.NotebookClient(notebook, timeout=int(PATIENCE), kernel_name="python3").execute()
    shown = [cell.outputs[0]["data"]["text/html"] for cell in notebook.cells]
    assert shown[:2] == [made._repr_html_(), made.trials._repr_html_()]
    assert [cells(table)[0][0] for table in shown] == [
        "plan",
        "trial",
        "function",
        "into",
        "result",
    ]
