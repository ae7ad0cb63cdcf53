"""Does bfloat16 pay, and channels-last? Milliseconds a training step of dense networks in a plain loop.

    python -m benchmarks.precision

The four combinations in turns, the best of several steps each.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from ersparse import models

CASES = [("resnet20", 1, 16, 64), ("resnet20", 3, 32, 128), ("resnet18", 3, 32, 128), ("vgg16", 3, 32, 128)]
ROUNDS = 6


def stepper(name: str, channels: int, side: int, batch: int, bf16: bool, layout: torch.memory_format):
    network = getattr(models, name)(10, channels=channels).to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, 0.9, fused=True)
    x = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    y = torch.randint(0, 10, (batch,))

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return 1000 * (time.perf_counter() - start)

    return step


def main() -> None:
    kinds = [(b, f) for b in (False, True) for f in (torch.contiguous_format, torch.channels_last)]
    print("float32 | float32, channels-last | bfloat16 | bfloat16, channels-last (ms)")
    for name, channels, side, batch in CASES:
        steps = [stepper(name, channels, side, batch, bf16, layout) for bf16, layout in kinds]
        rounds = [[step() for step in steps] for _ in range(ROUNDS)]
        best = [min(times) for times in zip(*rounds, strict=True)]
        print(f"{name}, {side}x{side}, batch {batch}: " + " | ".join(f"{ms:.0f}" for ms in best), flush=True)


if __name__ == "__main__":
    main()
