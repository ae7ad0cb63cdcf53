"""Grids of a sweep, expanded into one list of overrides for each job.

    seed=0,1,2                              a grid: every combination of the values of its axes
    seed,trainer.devices=[0,1],[1,2]        a zipped axis: its keys take their values together
    sparsity=er,erk or sparsity=dense       a union of grids: each takes the axes of the first that it does not set

A preset has the same as YAML under hydra.sweeper.params: a grid is a mapping of keys to values, and a union a list of
such mappings. An axis on the command line replaces the preset's axis of the same key, in each of the preset's grids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Transformer

from ersparse.config.options import options_of
from ersparse.errors import UserError
from ersparse.sweep.override_syntax import OR, ZIPPED_AXIS


@dataclass(frozen=True)
class Axis:
    """An axis of a grid.

    Attributes:
        keys: one key, or several that are zipped.
        values: the values, each a tuple with one text for each key, as written on the command line.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def without(self, removed: Iterable[str]) -> Axis | None:
        """Return the axis of the keys that are not among `removed`, or None if there are none."""
        kept = [place for place, key in enumerate(self.keys) if _bare_key(key) not in removed]
        if not kept:
            return None
        return Axis(
            tuple(self.keys[place] for place in kept),
            tuple(dict.fromkeys(tuple(value[place] for place in kept) for value in self.values)),
        )


Grid = list[Axis]


def split_union(overrides: Sequence[str]) -> list[list[str]]:
    """Split the overrides of a command line at each `or`, and return those of each grid.

    Every grid but the first also gets the overrides of the first whose keys it does not set.

    Raises:
        UserError: there is no override on one side of an `or`.
    """
    grids: list[list[str]] = [[]]
    for override in overrides:
        if override == OR:
            grids.append([])
        else:
            grids[-1].append(override)
    if len(grids) > 1 and not all(grids):
        raise UserError("or: stands between two grids, as in sparsity=er,erk or sparsity=dense")
    first, *others = grids
    return [first, *(_inherit(first, grid) for grid in others)]


def _inherit(first: list[str], grid: list[str]) -> list[str]:
    own = {key for override in grid for key in _keys_of(override)}
    return [override for override in first if not own & set(_keys_of(override))] + grid


def parse_axis(override: str, parser: OverridesParser) -> Axis:
    """Parse an override of the command line. A plain key=value is an axis with a single value.

    Raises:
        UserError: the values are not a list, or do not match the number of keys.
    """
    if ZIPPED_AXIS.fullmatch(override):
        keys, text = override.split("=", 1)
        return _zipped_axis(keys, _parse_values(text, parser))
    parsed = parser.parse_overrides([override])[0]
    key = parsed.get_key_element()
    if not parsed.is_sweep_override():
        return Axis((key,), ((override.partition("=")[2],),))
    return Axis((key,), tuple((text,) for text in swept_values(parsed)))


def swept_values(override: Override) -> list[str]:
    """Return the values of an override that is a sweep, as written on the command line.

    Raises:
        UserError: they cannot be listed, or there are none.
    """
    key, value = override.get_key_element(), override.value()
    if isinstance(value, Glob):
        if not (matching := value.filter(options_of(key))):
            raise UserError(f"{override.input_line}: must match an option of {key}")
        return matching
    if not override.is_discrete_sweep():
        raise UserError(f"{override.input_line}: must list its values, as in {key}=1,2,3")
    return list(override.sweep_string_iterator())


def parse_params(params: Any, parser: OverridesParser) -> list[Grid]:
    """Parse hydra.sweeper.params of a preset. None gives one grid without axes.

    Raises:
        UserError: `params` is neither a mapping nor a list of mappings, or an axis cannot be parsed.
    """
    grids = params if isinstance(params, list) else [params or {}]
    if not all(isinstance(grid, Mapping) for grid in grids):
        raise UserError("hydra.sweeper.params: must be a mapping of keys to values, or a list of such mappings")
    return [[_parse_yaml_axis(str(key), value, parser) for key, value in grid.items()] for grid in grids]


def replace_axes(grid: Grid, given: Sequence[Axis]) -> Grid:
    """Return `grid` with the axes `given` in place of its own. A zipped axis keeps its other keys."""
    removed = {_bare_key(key) for axis in given for key in axis.keys}
    return [kept for axis in grid if (kept := axis.without(removed))] + list(given)


def shorten(grid: Grid) -> Grid:
    """Return the grid of a preset for scale=smoke: the first seed, every method, both ends of every other axis."""
    return [replace(axis, values=_shortened_values(axis)) for axis in grid]


def _shortened_values(axis: Axis) -> tuple[tuple[str, ...], ...]:
    if "seed" in axis.keys:
        return axis.values[:1]
    return axis.values if "method" in axis.keys else tuple(dict.fromkeys((axis.values[0], axis.values[-1])))


def product(grid: Grid) -> list[list[str]]:
    """Return the overrides of each combination of values. The last axis varies fastest."""
    return [
        [override for axis, value in zip(grid, values, strict=True) for override in _overrides(axis, value)]
        for values in itertools.product(*(axis.values for axis in grid))
    ]


def _overrides(axis: Axis, value: tuple[str, ...]) -> list[str]:
    return [f"{key}={text}" if text or key[0] != "~" else key for key, text in zip(axis.keys, value, strict=True)]


def _parse_yaml_axis(key: str, value: Any, parser: OverridesParser) -> Axis:
    if isinstance(value, str):
        return parse_axis(f"{key}={value}", parser)
    values = value if isinstance(value, list) else [value]
    if "," not in key:
        return _not_empty(Axis((key,), tuple((_text(item),) for item in values)))
    return _zipped_axis(key, values)


def _parse_values(text: str, parser: OverridesParser) -> list[Any]:
    parsed = parser.parse_overrides([f"zipped={text}"])[0]
    return list(parsed.sweep_iterator()) if parsed.is_discrete_sweep() else [parsed.value()]


def _zipped_axis(keys: str, values: Sequence[Any]) -> Axis:
    names = tuple(key.strip() for key in keys.split(","))
    for value in values:
        if not isinstance(value, list) or len(value) != len(names):
            shown = _text(value)
            raise UserError(f"{keys}={shown}: must list {len(names)} values in brackets, one for each of its keys")
    return _not_empty(Axis(names, tuple(tuple(map(_text, value)) for value in values)))


def _not_empty(axis: Axis) -> Axis:
    if not axis.values:
        raise UserError(f"{','.join(axis.keys)}: must have at least one value to sweep over")
    return axis


def _text(value: Any) -> str:
    """Return a value as written on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(Transformer.str(value))


def _keys_of(override: str) -> list[str]:
    keys = override.split("=", 1)[0]
    return [_bare_key(key.strip()) for key in keys.split(",")]


def _bare_key(key: str) -> str:
    """Return a key without Hydra's prefixes (+ and ~) and package (@)."""
    return key.lstrip("+~").split("@")[0]
