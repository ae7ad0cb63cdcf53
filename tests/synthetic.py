"""Run folders that nothing ran: what a report reads, without the hours."""

import hashlib
import json
from pathlib import Path

LAYERS = [
    {"name": "a.weight", "shape": [4, 3, 3, 3], "size": 108, "positions": 64},
    {"name": "b.weight", "shape": [10, 4], "size": 40, "positions": 1},
]
RECIPE = {  # the paper's, of fixed masks
    "sampling": "bernoulli", "flow": "add", "redistribute": "none", "budget": None, "floor": 0, "file": None,
}  # fmt: skip


def record(
    sparsity="erk", level=0.9, seed=0, accuracy=0.9, state="done", method="fixed", experiment="table2", **config
) -> dict:
    """run.json of a run of vgg16 on CIFAR-10 by the paper's recipe; `config` adds to it, by group."""
    named = f"{sparsity}{level}{method}{sorted(config.items())}"
    trained = state == "done" and method != "draw"
    counters = {
        "density": 1 - level, "drawn": 20, "zero_degree": {"in": 1, "out": 0}, "edges_added": {"in": 1, "out": 0},
        "edges_moved": {"in": 0, "out": 0}, "nonzero": 21,
    }  # fmt: skip
    return {
        "schema": 1, "state": state, "hash": hashlib.sha256(named.encode()).hexdigest(), "seed": seed,
        "command": f"python launch.py experiment={experiment} sparsity={sparsity} seed={seed}", "host": "somewhere",
        "config": {
            "model": {"_target_": "ersparse.models.vgg16", "name": "vgg16", "width": 1.0} | config.get("model", {}),
            "dataset": {"name": "cifar10", "root": "/data", "batch_size": 128, "validation": 0.0},
            "sparsity": {"name": sparsity, "level": level} | RECIPE | config.get("sparsity", {}),
            "method": {"name": method} | config.get("method", {}),
            "trainer": {"max_epochs": 160, "devices": 1, "precision": "32-true"},
            "logger": {"name": "csv"},
            "optimizer": {
                "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "milestones": [0.5, 0.75],
                "gamma": 0.1,
            } | config.get("optimizer", {}),
            "scale": {"name": "full", "epochs": 1.0}, "variant": "paper", "experiment": experiment, "seed": seed,
            "seeds": {"mask": None}, "paths": {"root": "/outputs"}, "fresh": False, "dry_run": False,
        },
        "progress": {"epoch": 160 if trained else 3, "epochs": config.get("epochs", 160)},
        "updated": "2026-11-25T10:00:00Z", "wandb_id": None,
        "sparsity": {"nominal": level, "expected": level, "realised": level + 0.001, "effective": level + 0.002},
        "layers": [layer | counters for layer in LAYERS],
        "metrics": {"test/acc": accuracy, "test/acc_best": accuracy + 0.01, "test/acc_at_best_val": None}
        if trained
        else {},
        "timing": {"fit_s": 100.0, "epochs": 160, "images_per_s": 1000.0} if trained else {},
        "versions": {"torch": "2.15.0"}, "git": {"sha": "0123456789abcdef", "dirty": False},
        "error": "RuntimeError: it broke" if state == "failed" else None,
    }  # fmt: skip


def write(root: Path, lines: int = 4, **words) -> Path:
    """A run folder, at the place where a run would leave it."""
    made = record(**words)
    config = made["config"]
    name = f"vgg16-cifar10-{config['sparsity']['name']}{config['sparsity']['level']}-{config['method']['name']}"
    folder = root / (config["experiment"] or "runs") / f"{name}-{made['hash'][:8]}" / f"s{made['seed']}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(made, indent=1))
    if made["metrics"]:
        rows = [f"{epoch},{made['metrics']['test/acc'] * (1 - 0.5 ** (epoch + 1))},1.0" for epoch in range(lines)]
        (folder / "metrics.csv").write_text("\n".join(["epoch,test/acc,train/loss", *rows]) + "\n")
    return folder
