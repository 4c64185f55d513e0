"""unwrap_cfg: one dict of keywords, in every order that people write it."""

from __future__ import annotations

import inspect
from types import MappingProxyType

import pytest

from hpcio.errors import ConfigError
from hpcio.function.cfg import unwrap_cfg


@unwrap_cfg
def smooth(data, *more, width=3, detrend=False):
    """Smooth the data."""
    return (data, *more), width, detrend


@pytest.mark.parametrize(
    "result",
    [
        smooth("x", width=5, detrend=True),
        smooth({"width": 5, "detrend": True}, "x"),
        smooth("x", {"width": 5, "detrend": True}),
        smooth("x", cfg={"width": 5, "detrend": True}),
        smooth(cfg={"width": 5, "detrend": True}, data="x"),
        smooth({"data": "x", "width": 5, "detrend": True}),
        smooth({"dataset": "x", "width": 5, "detrend": True}),
        smooth({"width": 5}, "x", detrend=True),
        smooth({"width": 5, "detrend": "yes"}, "x"),
        smooth("x", cfg=MappingProxyType({"width": 5, "detrend": "Yes"})),
    ],
)
def test_forms_of_a_call(result):
    assert result == (("x",), 5, True)


def test_switches_become_booleans():
    assert smooth("x", {"detrend": "YES"})[2] is True
    assert smooth("x", {"detrend": "nO"})[2] is False
    assert smooth("x", {}, detrend="no")[2] is False
    assert smooth("x", {"detrend": "maybe"})[2] == "maybe"


def test_without_a_cfg_the_call_is_untouched():
    assert smooth("yes", "no", detrend="yes") == (("yes", "no"), 3, "yes")
    with pytest.raises(TypeError, match="wdth") as raised:
        smooth("x", wdth=5)
    assert not isinstance(raised.value, ConfigError)


def test_data_named_yes_stay_data():
    assert smooth({"data": "yes", "width": 5})[0] == ("yes",)


def test_several_data_keep_their_order():
    assert smooth("x", {"width": 5}, "y")[0] == ("x", "y")


def test_a_parameter_named_dataset_is_a_keyword_like_any_other():
    @unwrap_cfg
    def read(file, *, dataset="/lfp"):
        return file, dataset

    assert read("rec.h5", {"dataset": "/spikes"}) == ("rec.h5", "/spikes")
    assert read({"data": "rec.h5", "dataset": "/spikes"}) == ("rec.h5", "/spikes")


def test_the_cfg_is_not_changed():
    cfg = {"data": "x", "detrend": "yes"}
    smooth(cfg)
    assert cfg == {"data": "x", "detrend": "yes"}


def test_methods_can_be_decorated():
    class Filter:
        @unwrap_cfg
        def apply(self, data, *, width):
            return data, width

    assert Filter().apply("x", {"width": 5}) == ("x", 5)


def test_keeps_name_docstring_and_signature():
    assert smooth.__name__ == "smooth"
    assert smooth.__doc__ == "Smooth the data."
    assert str(inspect.signature(smooth)) == "(data, *more, width=3, detrend=False)"


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: smooth("x", {"width": 5}, width=7), "'width' twice"),
        (lambda: smooth({"data": "x"}, data="y"), "'data' twice"),
        (lambda: smooth("x", {"data": "y"}), "'data'.*once"),
        (lambda: smooth("x", {"dataset": "y"}), "data twice.*'dataset'"),
        (lambda: smooth({"data": "x", "dataset": "y"}), "'data' and 'dataset'"),
        (lambda: smooth({"data": "x"}, {"width": 5}), "2 cfgs"),
        (lambda: smooth({"data": "x"}, cfg={"width": 5}), "2 cfgs"),
        (lambda: smooth("x", {"cfg": {"width": 5}}), "another 'cfg'"),
        (lambda: smooth("x", cfg=["width"]), "list"),
        (lambda: smooth("x", cfg=None), "NoneType"),
        (lambda: smooth("x", {5: "width"}), "key 5"),
        (lambda: smooth("x", {"wdth": 5}), "'wdth'.*width=3"),
        (lambda: smooth({"width": 5}), "missing.*'data'"),
    ],
)
def test_mistakes_are_named(call, named):
    with pytest.raises(ConfigError, match=named):
        call()


def test_decorator_refuses_what_it_cannot_serve():
    with pytest.raises(ConfigError, match="parameter 'cfg'"):
        unwrap_cfg(lambda data, cfg=None: data)
    with pytest.raises(ConfigError, match="no signature"):
        unwrap_cfg("smooth")
