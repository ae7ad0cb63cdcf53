"""What a sweep consists of: grids of axes, multiplied out into one list of command-line words for each job.

    seed=0,1,2                              a grid: every combination of its axes
    seed,trainer.devices=[0,1],[1,2]        a zipped axis: its keys take their values together
    sparsity=er,erk or sparsity=dense       a union: a later grid takes from the first what it does not give itself

A preset writes the same as YAML under hydra.sweeper.params: a mapping of keys to values is a grid, a list of such
mappings a union. What the command line gives replaces the preset's axis of that key, in each of its grids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer

from ersparse.errors import UserError
from ersparse.sweep.override_syntax import OR, ZIPPED


@dataclass(frozen=True)
class Axis:
    """Keys, and the values that they take together, as the command line writes them."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def without(self, gone: Iterable[str]) -> Axis | None:
        """The axis of the other keys; None where there are none."""
        kept = [place for place, key in enumerate(self.keys) if _bare(key) not in gone]
        if not kept:
            return None
        return Axis(
            tuple(self.keys[place] for place in kept),
            tuple(dict.fromkeys(tuple(value[place] for place in kept) for value in self.values)),
        )


Grid = list[Axis]


def alternatives(words: Sequence[str]) -> list[list[str]]:
    """The grids of a command line, each of them complete: `or` starts another.

    Raises:
        UserError: there is nothing on one side of an `or`.
    """
    grids: list[list[str]] = [[]]
    for word in words:
        if word == OR:
            grids.append([])
        else:
            grids[-1].append(word)
    if len(grids) > 1 and not all(grids):
        raise UserError("or: stands between two grids, as in sparsity=er,erk or sparsity=dense")
    first = grids[0]
    given = [{key for word in later for key in _keys_of(word)} for later in grids[1:]]
    return [first] + [
        [word for word in first if not keys & set(_keys_of(word))] + later
        for keys, later in zip(given, grids[1:], strict=True)
    ]


def axis_of(word: str, parser: OverridesParser) -> Axis:
    """The axis that one word of the command line gives; a plain key=value has a single value.

    Raises:
        UserError: the values cannot be counted, or do not fit the keys.
    """
    if ZIPPED.fullmatch(word):
        keys, text = word.split("=", 1)
        return _pairs(keys, _listed(text, parser))
    override = parser.parse_override(word)
    key = override.get_key_element()
    if not override.is_sweep_override():
        return Axis((key,), ((word.partition("=")[2],),))
    if not override.is_discrete_sweep():
        raise UserError(f"{word}: must list its values, as in {key}=1,2,3")
    return Axis((key,), tuple((text,) for text in override.sweep_string_iterator()))


def grids_of(params: Any, parser: OverridesParser) -> list[Grid]:
    """The grids of a preset: of its hydra.sweeper.params, a mapping or a list of them; one without axes for None."""
    each = params if isinstance(params, list) else [params or {}]
    if not all(isinstance(grid, Mapping) for grid in each):
        raise UserError("hydra.sweeper.params: must be a mapping of keys to values, or a list of such mappings")
    return [[_axis_of_yaml(str(key), value, parser) for key, value in grid.items()] for grid in each]


def replaced(grid: Grid, given: Sequence[Axis]) -> Grid:
    """`grid` with the axes that are given in place of its own; a zipped axis keeps its other keys."""
    gone = {_bare(key) for axis in given for key in axis.keys}
    return [kept for axis in grid if (kept := axis.without(gone))] + list(given)


def smoke(grid: Grid) -> Grid:
    """A preset's grid in seconds: the first seed, every method, the two ends of every other axis."""
    return [replace(axis, values=_shortened(axis)) for axis in grid]


def _shortened(axis: Axis) -> tuple[tuple[str, ...], ...]:
    if "seed" in axis.keys:
        return axis.values[:1]
    return axis.values if "method" in axis.keys else tuple(dict.fromkeys((axis.values[0], axis.values[-1])))


def product(grid: Grid) -> list[list[str]]:
    """One list of words for each combination; the last axis turns fastest."""
    return [
        [word for axis, value in zip(grid, values, strict=True) for word in _words(axis, value)]
        for values in itertools.product(*(axis.values for axis in grid))
    ]


def _words(axis: Axis, value: tuple[str, ...]) -> list[str]:
    return [f"{key}={text}" if text or key[0] != "~" else key for key, text in zip(axis.keys, value, strict=True)]


def _axis_of_yaml(key: str, value: Any, parser: OverridesParser) -> Axis:
    if isinstance(value, str):
        return axis_of(f"{key}={value}", parser)
    values = value if isinstance(value, list) else [value]
    if "," not in key:
        return _checked(Axis((key,), tuple((_text(item),) for item in values)))
    return _pairs(key, values)


def _listed(text: str, parser: OverridesParser) -> list[Any]:
    override = parser.parse_override(f"zipped={text}")
    return list(override.sweep_iterator()) if override.is_discrete_sweep() else [override.value()]


def _pairs(keys: str, values: Sequence[Any]) -> Axis:
    names = tuple(key.strip() for key in keys.split(","))
    for value in values:
        if not isinstance(value, list) or len(value) != len(names):
            shown = _text(value)
            raise UserError(f"{keys}={shown}: must list {len(names)} values in brackets, one for each of its keys")
    return _checked(Axis(names, tuple(tuple(map(_text, value)) for value in values)))


def _checked(axis: Axis) -> Axis:
    if not axis.values:
        raise UserError(f"{','.join(axis.keys)}: must have at least one value to sweep over")
    return axis


def _text(value: Any) -> str:
    """A value as the command line writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(Transformer.str(value))


def _keys_of(word: str) -> list[str]:
    keys = word.split("=", 1)[0]
    return [_bare(key.strip()) for key in keys.split(",")]


def _bare(key: str) -> str:
    return key.lstrip("+~").split("@")[0]
