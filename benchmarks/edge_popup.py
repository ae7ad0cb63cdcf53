"""A training step of edge-popup beside the same network's dense step, and beside edge-popup with a full sort.

    python -m benchmarks.edge_popup [--model resnet18] [--batch 128] [--rounds 10]

All three in this process, in turns (A B C A B C ...), on one random batch in the shape of CIFAR-10, in the precision
that trainer=auto chooses here; the figures are ratios within each round. The ticket keeps a tenth of the weights of a
source at density one half.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.training import composed
from ersparse.lightning.hardware import memory_format, resolve
from ersparse.lightning.search import TicketSearch
from ersparse.methods.edge_popup import EdgePopup
from ersparse.runs.plan import plan
from ersparse.settings import Settings, build
from ersparse.sparse import supermask
from ersparse.sparse.mask import attach

Step = Callable[[], None]


class FullSort(TicketSearch):
    """The same search with every layer's scores sorted in every step, as the published implementations do."""

    def _choose(self) -> list[torch.Tensor]:
        tickets = []
        for scores, (_, outside), count in zip(self.scores, self._source(), self.counts, strict=True):
            values = supermask.rank(scores, outside, self.search.signed).flatten()
            ticket = torch.zeros_like(values, dtype=torch.bool)
            ticket[values.argsort(descending=True)[:count]] = True
            tickets.append(ticket.reshape(scores.shape))
        return tickets


def step_of(forward: Callable[[torch.Tensor], torch.Tensor], trained: list, settings: Settings) -> Step:
    o, d = settings.optimizer, settings.dataset
    optimizer = torch.optim.SGD(trained, o.lr, o.momentum, weight_decay=o.weight_decay, fused=True)
    x = torch.randn(d.batch_size, d.channels, d.image_size, d.image_size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, d.num_classes, (d.batch_size,))
    bf16 = resolve(settings.trainer)["precision"] == "bf16-mixed"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def searching(kind: type[TicketSearch], settings: Settings) -> Step:
    planned = plan(settings)
    method = planned.method
    assert isinstance(method, EdgePopup) and planned.source
    module = kind(planned.network(), 10, settings.optimizer, 100, ["test"], method.search(), 0)
    attach(module.network, planned.source.draw())
    module.set_density(0.1)
    module.train()
    return step_of(module, list(module.trained()), settings)


def dense(settings: Settings) -> Step:
    network = plan(settings).network()
    network = network.to(memory_format=memory_format(network)).train()
    return step_of(network, list(network.parameters()), settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    words = [f"model={arguments.model}", "dataset=cifar10", "sparsity=uniform", "sparsity.level=0.5"]
    words += ["method=edge_popup", "method.final_sparsity=0.9", f"dataset.batch_size={arguments.batch}"]
    settings = build(Settings, composed(words))
    steps = {"dense": dense(settings), "edge_popup": searching(TicketSearch, settings)}
    steps["full sort"] = searching(FullSort, settings)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 1):  # the first round warms up
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number:
                seconds[name].append(time.perf_counter() - start)
    for name, found in seconds.items():
        ratios = [a / b for a, b in zip(found, seconds["dense"], strict=True)]
        print(
            f"{name:12}{1e3 * statistics.median(found):8.0f} ms   / dense {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
