"""Types and ranges of keys."""

import math
from typing import Annotated

import pytest

from ersparse.config.groups import SettingsGroup, build
from ersparse.config.schema import SeedSettings
from ersparse.config.types import In, spelled
from ersparse.errors import UserError
from ersparse.locate import locate


class Some(SettingsGroup):
    half_open: Annotated[float, In("[0, 1)")]


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1 - 1e-16, "0.5"])
def test_inside(value):
    assert build(Some, {"half_open": value}).half_open == float(value)


@pytest.mark.parametrize("value", [1, -1e-9, math.nan, math.inf, "abc", None, [0.5], True, "1", "nan"])
def test_outside(value):
    with pytest.raises(UserError, match=r"^g\.half_open=.*: must lie in \[0, 1\)$"):
        build(Some, {"half_open": value}, "g.")


@pytest.mark.parametrize("annotation, text, value", [
    (int, "3", 3), (int | None, "-3", -3), (int, "3.0", "3.0"), (float, "1e-3", 1e-3), (bool, "True", True),
    (bool, "yes", "yes"), (str, "3", "3"), (int | str, "3", "3"), (float | None, "abc", "abc"),
])  # fmt: skip
def test_a_text_is_read_as_the_type_of_its_key(annotation, text, value):
    assert spelled(text, annotation) == value and type(spelled(text, annotation)) is type(value)


def test_missing_and_unknown():
    with pytest.raises(UserError, match="^half_open: is missing"):
        build(Some, {})
    with pytest.raises(UserError, match="^other=3: no such key"):
        build(Some, {"half_open": 0.5, "other": 3})


def test_a_seed_is_a_whole_number():
    assert build(SeedSettings, {"mask": 3, "init": None, "data": 0}).mask == 3
    for wrong in (1.5, -1, "x", True):
        with pytest.raises(UserError, match="mask=.* must lie in"):
            build(SeedSettings, {"mask": wrong, "init": None, "data": None})


def test_locate():
    assert locate("math.pi") == math.pi
    for wrong in ("nowhere.at.all", "math.nothing", "plain"):
        with pytest.raises(UserError, match="cannot be imported|must name an object of a module"):
            locate(wrong)
