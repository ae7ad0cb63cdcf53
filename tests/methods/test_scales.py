"""Scales: of a run's length and intervals, and of the weights that a method draws."""

from types import SimpleNamespace

import pytest
import torch
from conftest import planned

from ersparse.config.schema import Settings
from ersparse.methods.base import Method
from ersparse.methods.levels import scaled_epochs
from ersparse.methods.rewiring import at_scale
from ersparse.runs.network import build_network

SCALES = {"full": 1.0, "short": 0.1, "smoke": 0.1}


@pytest.mark.parametrize("function, value, expected", [
    (at_scale, 1000, [1000, 100, 10]), (at_scale, 4, [4, 1, 4]), (at_scale, 14, [14, 1, 10]),
    (scaled_epochs, 100, [100, 10, 1]), (scaled_epochs, 3, [3, 1, 1]),
])  # fmt: skip
def test_lengths_keep_their_proportions_and_are_never_zero(function, value, expected):
    scales = [SimpleNamespace(scale=SimpleNamespace(name=name, epochs=epochs)) for name, epochs in SCALES.items()]
    assert [function(value, settings) for settings in scales] == expected


def test_a_method_without_callbacks_has_none():
    class Plain(Method):
        def epochs(self, settings: Settings) -> int:
            return 1

    assert Plain(name="plain", _target_="x").callbacks(None) == []


def test_weights_of_a_search_may_be_scaled_by_the_kept_fan_in():
    """A layer of density p has weights that are larger by the square root of 1/p."""
    weights = []
    for scaled in (False, True):
        plan = planned("method=edge_popup", "sparsity=erk", f"method.scale_weights={scaled}").resolved()
        network = build_network(plan.settings, None)
        plan.method.module(plan, network, ["test"])
        weights.append([network.get_parameter(layer.name).detach() for layer in plan.layers])
    for plain, larger, density in zip(*weights, plan.source.densities, strict=True):
        torch.testing.assert_close(larger, plain / density**0.5)


@pytest.mark.parametrize("level, final, each, whole", [(2, 5, 2, 5), (5, 2, 2, 2), (3, 3, 3, 3)])
def test_the_learning_rate_falls_within_each_training_or_in_the_final_one(level, final, each, whole):
    lengths = (f"method.epochs_per_level={level}", f"method.final_epochs={final}")
    for schedule, expected in (("each", each), ("final", whole)):
        plan = planned("method=imp", *lengths, f"method.schedule={schedule}")
        assert plan.method.schedule_epochs(plan.settings) == expected
