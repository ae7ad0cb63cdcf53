"""One rewiring update beside a training step of the same network, and beside an update that sorts.

    python -m benchmarks.rewiring [--model resnet18] [--batch 128] [--level 0.9] [--rounds 8]

In this process, in turns (step, update, sorted update, ...), in the shape of CIFAR-10 and the precision that
trainer=auto chooses here. The figures are ratios within each round; at delta_t = 100 an update costs a hundredth of its
ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.edge_popup import step_of
from benchmarks.training import composed
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.hardware import memory_format
from ersparse.runs.plan import plan
from ersparse.settings import Settings, build
from ersparse.sparse.mask import attach, enforce, masks_of


def by_sorting(network: torch.nn.Module, share: float) -> None:
    """Finds what an update changes, with two full sorts a layer, as published implementations do; changes nothing."""
    for name, mask in masks_of(network).items():
        weight = network.get_parameter(name)
        count = int(share * int(mask.sum()))
        order = torch.where(mask, weight.detach().abs(), -1.0).flatten().argsort(descending=True)
        kept = torch.zeros(mask.numel(), dtype=torch.bool)
        kept[order[: int(mask.sum()) - count]] = True
        gradient = torch.where(kept.reshape(mask.shape), -1.0, weight.grad.abs())
        kept[gradient.flatten().argsort(descending=True)[:count]] = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    words = [f"model={arguments.model}", "dataset=cifar10", "sparsity=erk", f"sparsity.level={arguments.level}"]
    settings = build(Settings, composed([*words, "method=rigl", f"dataset.batch_size={arguments.batch}"]))
    planned = plan(settings)
    assert planned.source
    network = planned.network()
    network = network.to(memory_format=memory_format(network)).train()
    attach(network, planned.source.draw())
    enforce(network)
    rewiring = next(callback for callback in planned.method.callbacks(planned) if isinstance(callback, Rewiring))
    rewiring.listeners, rewiring.last_rewiring = [], 1e9
    optimizer = torch.optim.SGD(network.parameters(), 0.0, 0.9, fused=True)
    step = step_of(network, list(network.parameters()), settings)
    parts: dict[str, Callable[[], object]] = {
        "step": step,
        "update": lambda: rewiring._maybe_update(rewiring.rules.delta_t, network, optimizer),
        "sorted update": lambda: by_sorting(network, 0.3),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(arguments.rounds + 1):  # the first round warms up
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if number:
                seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(found, seconds["step"], strict=True)]
        print(
            f"{name:15}{1e3 * statistics.median(found):8.0f} ms   / step {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
