"""Milliseconds per training step of dense networks in float32 and bfloat16, contiguous and channels-last.

    python -m benchmarks.precision

The four combinations are interleaved; the output is the minimum over several steps of a plain training loop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from benchmarks.hardware_limits import DEVICE
from benchmarks.interleaved import interleave
from ersparse import models

CASES = [("resnet20", 1, 16, 64), ("resnet20", 3, 32, 128), ("resnet18", 3, 32, 128), ("vgg16", 3, 32, 128)]
ROUNDS = 6


def training_step(
    name: str, channels: int, side: int, batch: int, bfloat16: bool, layout: torch.memory_format
) -> Callable[[], None]:
    """Return a training step on one random batch."""
    network = getattr(models, name)(10, channels=channels).to(DEVICE, memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, fused=True)
    x = torch.randn(batch, channels, side, side, device=DEVICE).contiguous(memory_format=layout)
    y = torch.arange(batch, device=DEVICE) % 10

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    combinations = [
        (bfloat16, layout) for bfloat16 in (False, True) for layout in (torch.contiguous_format, torch.channels_last)
    ]
    print("float32 | float32, channels-last | bfloat16 | bfloat16, channels-last (ms)")
    for name, channels, side, batch in CASES:
        steps = {str(kind): training_step(name, channels, side, batch, *kind) for kind in combinations}
        best = [1000 * min(seconds) for seconds in interleave(steps, ROUNDS).values()]
        print(f"{name}, {side}x{side}, batch {batch}: " + " | ".join(f"{ms:.0f}" for ms in best), flush=True)


if __name__ == "__main__":
    main()
