"""The space of a search: what is fixed, and the dimensions, written in Hydra's override grammar.

optimizer.lr=interval(0.01,0.2)              numbers of an interval, both ends included
optimizer.lr=tag(log,interval(1e-3,1))       the same, evenly on a logarithmic scale
model.widen=range(2,11,2)                    2, 4, 6, 8, 10, as numbers in their order
optimizer=sgd,adamw                          choices, also written choice(sgd,adamw)
model,dataset=[vgg16,cifar10],[vgg19,cifar100]   choices of several keys together
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ersparse.errors import UserError
from ersparse.sweep.grids import Axis, parse_axis, parse_params, product, replace_axes
from ersparse.sweep.override_syntax import OR, ZIPPED_AXIS

Number = int | float


@dataclass(frozen=True)
class Interval:
    """Numbers of one key, as the override grammar writes them.

    Attributes:
        key: the key.
        low: the smallest number.
        high: the largest number.
        text: the override.
        log: whether they are drawn evenly on a logarithmic scale.
        step: distance of neighbours; None is any number in between.
    """

    key: str
    low: Number
    high: Number
    text: str
    log: bool = False
    step: Number | None = None

    def without(self, removed: Any) -> Interval | None:
        """Return the interval, or None if its key is among `removed`."""
        return None if self.key in removed else self

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)


@dataclass(frozen=True)
class Space:
    """The overrides that all trials share, and the dimensions in which they differ."""

    fixed: tuple[str, ...]
    dimensions: tuple[Axis | Interval, ...]

    def corner(self, name: str = "", place: int = 0) -> list[str]:
        """Return the overrides of the trial with the first choice, or the lower end, in every dimension but `name`.

        Args:
            name: name of the dimension that has its choice number `place`, or its upper end, instead.
            place: number of the choice; 1 is the upper end of an interval.
        """
        texts = [_ends(dim)[place if name_of(dim) == name else 0] for dim in self.dimensions]
        return [*self.fixed, *(text for override in texts for text in override)]

    def corners(self) -> list[list[str]]:
        """Return the overrides of trials that have, together, each choice and both ends of each interval."""
        others = [(name_of(dim), place) for dim in self.dimensions for place in range(1, len(_ends(dim)))]
        return [self.corner(), *(self.corner(name, place) for name, place in others)]

    def distributions(self, settings: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of each dimension.

        Args:
            settings: settings of a trial, nested, which tell whether the number of an interval is an integer.

        Raises:
            UserError: an interval is empty, or its key takes no numbers, or integers only.
        """
        return {name_of(dim): _distribution(dim, settings) for dim in self.dimensions}

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of the trial with these values of the dimensions."""
        return [*self.fixed, *self.varied(params)]

    def varied(self, params: Mapping[str, Any]) -> list[str]:
        """Return those of the overrides that are not fixed."""
        found: list[str] = []
        for dim in self.dimensions:
            value = params[name_of(dim)]
            found += [f"{dim.key}={_text(value)}"] if isinstance(dim, Interval) else _choices(dim)[value]
        return found


def name_of(dimension: Axis | Interval) -> str:
    """Return the name of a dimension, which is its key, or its keys."""
    return ",".join(dimension.keys)


def described(dimension: Axis | Interval) -> str:
    """Return a dimension as the command line has it."""
    if isinstance(dimension, Interval):
        return dimension.text
    return f"{name_of(dimension)}={','.join(_choices(dimension))}"


def parse_space(arguments: Sequence[str], params: Any, parser: OverridesParser) -> Space:
    """Return the space of a command line and a preset. The command line replaces the preset's dimensions of its keys.

    Args:
        arguments: the overrides of the command line.
        params: `hydra.sweeper.params` of the preset.
        parser: Hydra's parser.

    Raises:
        UserError: there is a union of grids, a sweep over seeds or presets, an override that cannot be parsed, or no
            dimension.
    """
    if OR in arguments:
        raise UserError(
            "or: must be left out with hydra/sweeper=optuna, which searches one space, not a union of grids"
        )
    if not isinstance(params, Mapping | None):
        raise UserError("hydra.sweeper.params: must be one mapping of keys to values with hydra/sweeper=optuna")
    given = [_parse(argument, parser) for argument in arguments]
    preset = [item for key, value in (params or {}).items() for item in _parse_yaml(str(key), value, parser)]
    items = replace_axes(preset, given)  # type: ignore[arg-type] # both have keys and `without`
    fixed = [item for item in items if isinstance(item, Axis) and len(item.values) == 1]
    dimensions = tuple(item for item in items if item not in fixed)
    for key in (key for dim in dimensions for key in dim.keys if key in ("seed", "experiment")):
        raise UserError(f"{key}: must have one value with hydra/sweeper=optuna, which would choose the luckiest")
    if not dimensions:
        raise UserError("hydra/sweeper=optuna: must have something to search, as in optimizer.lr=interval(0.01,0.2)")
    return Space(tuple(text for texts in product(fixed) for text in texts), dimensions)


def _parse(override: str, parser: OverridesParser) -> Axis | Interval:
    if ZIPPED_AXIS.fullmatch(override):
        return parse_axis(override, parser)
    parsed = parser.parse_overrides([override])[0]
    key, value = parsed.get_key_element(), parsed.value()
    if not isinstance(value, IntervalSweep | RangeSweep):
        return parse_axis(override, parser)
    if extra := set(value.tags) - {"log"}:
        raise UserError(f"{override}: must have no tag but log, has {', '.join(sorted(extra))}")
    log = "log" in value.tags
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        return Interval(key, value.start, value.end, override, log)
    if log:
        raise UserError(f"{override}: log must be a tag of an interval, not of a range")
    numbers = list(value.range())
    if not numbers or value.shuffle:
        raise UserError(f"{override}: must be a range of at least one number, in its order")
    low, high = min(numbers), max(numbers)
    return Interval(key, low, high, override, False, abs(value.step))


def _parse_yaml(key: str, value: Any, parser: OverridesParser) -> list[Axis | Interval]:
    if isinstance(value, str):
        return [_parse(f"{key}={value}", parser)]
    return [*parse_params({key: value}, parser)[0]]


def _ends(dimension: Axis | Interval) -> list[list[str]]:
    if isinstance(dimension, Interval):
        return [[f"{dimension.key}={_text(value)}"] for value in (dimension.low, dimension.high)]
    return list(_choices(dimension).values())


def _choices(axis: Axis) -> dict[str, list[str]]:
    """Return the overrides of each choice, by its text."""
    texts = [value[0] if len(value) == 1 else f"[{','.join(value)}]" for value in axis.values]
    return dict(zip(texts, product([axis]), strict=True))


def _distribution(dimension: Axis | Interval, settings: Mapping[str, Any]) -> BaseDistribution:
    if isinstance(dimension, Axis):
        return CategoricalDistribution(list(_choices(dimension)))
    low, high, step, log = dimension.low, dimension.high, dimension.step, dimension.log
    whole = all(float(number).is_integer() for number in (low, high, step or 1))
    present = _value(settings, dimension.key)
    if isinstance(present, bool | str | Mapping | list):
        raise UserError(
            f"{dimension.text}: must be choices, as in {dimension.key}=choice(a,b); the key takes no number"
        )
    if isinstance(present, int) and not whole:
        raise UserError(f"{dimension.text}: must have whole numbers, as the key has")
    asked = isinstance(low, int) and isinstance(high, int) and not isinstance(step, float)
    try:
        if isinstance(present, int) or (asked and not isinstance(present, float)):
            return IntDistribution(int(low), int(high), log, int(step or 1))
        return FloatDistribution(float(low), float(high), log, None if step is None else float(step))
    except ValueError as error:
        raise UserError(f"{dimension.text}: {' '.join(str(error).split())}") from None


def _value(settings: Mapping[str, Any], key: str) -> Any:
    value: Any = settings
    for part in key.lstrip("+").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _text(value: Number) -> str:
    """Return a number as an override has it. Integers take no 8.0, and sums of 0.1 have false last digits."""
    number = float(f"{value:.15g}")
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
