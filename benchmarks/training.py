"""A training step of ersparse beside the same model and optimizer in a bare PyTorch loop, in one run.

    ERSPARSE_DATA=... python -m benchmarks.training [--model vgg16] [--steps 100] [--rounds 4]

The bare loop trains on one prepared random batch: no data pipeline, no metrics, no masks. Both run in this process in
turns (A B A B ...), in the same precision and memory layout, and the figure is the ratio of each pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.nn import functional as F

from ersparse import run
from ersparse.keys import CONF
from ersparse.lightning.hardware import memory_format, resolve
from ersparse.runs import run as run_module
from ersparse.runs.plan import plan
from ersparse.settings import Settings, build


def composed(words: list[str]) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", words), resolve=True)


def bare(words: list[str], steps: int) -> float:
    """Images per second of the bare loop, the first fifth of its steps left out."""
    settings = build(Settings, composed(words))
    network = plan(settings).network()
    network = network.to(memory_format=memory_format(network))
    o, d = settings.optimizer, settings.dataset
    optimizer = torch.optim.SGD(network.parameters(), o.lr, o.momentum, weight_decay=o.weight_decay, fused=True)
    x = torch.randn(d.batch_size, d.channels, d.image_size, d.image_size).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, d.num_classes, (d.batch_size,))
    bf16 = resolve(settings.trainer)["precision"] == "bf16-mixed"
    warm = steps // 5
    for step in range(warm + steps):
        if step == warm:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * d.batch_size / (time.perf_counter() - start)


def ours(words: list[str], steps: int, root: str) -> tuple[float, list[float]]:
    """Images per second as run.json states them, of two short epochs of which it counts the second; training losses."""
    config = composed([*words, "trainer.max_epochs=2", f"paths.root={root}", "fresh=true"])
    whole = run_module.load_arrays

    def first_images(settings):
        arrays, count = whole(settings), steps * settings.dataset.batch_size
        return type(arrays)(arrays.x_train[:count], arrays.y_train[:count], arrays.x_test[:500], arrays.y_test[:500])

    run_module.load_arrays = first_images
    try:
        folder = run(config)
    finally:
        run_module.load_arrays = whole
    rows = (folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    return json.loads((folder / "run.json").read_text())["timing"]["images_per_s"], losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vgg16")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    words = [f"model={arguments.model}", f"dataset={arguments.dataset}", "sparsity=balanced", "sparsity.level=0.9"]
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(arguments.rounds):
            a = bare(words, arguments.steps)
            b, losses = ours(words, arguments.steps, str(Path(root) / str(number)))
            ratios.append(b / a)
            print(f"bare {a:.1f} images/s, ersparse {b:.1f}, ratio {b / a:.3f}, training loss {losses}", flush=True)
    print(
        f"{arguments.model}: ersparse / bare {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
