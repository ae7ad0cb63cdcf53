"""What rewiring did to a run: `python -m ersparse rewiring <run folder> [out=FILE]`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

from ersparse.errors import UserError

PANELS: tuple[tuple[str, str, Callable[[dict[str, str]], float]], ...] = (
    ("grown", "weights grown, % of the layer's", lambda row: 100 * int(row["grown"]) / max(1, int(row["nonzero"]))),
    ("overlap", "still there of the source, %", lambda row: 100 * float(row["overlap"])),
    ("explored", "ever active, % of the layer", lambda row: 100 * float(row["explored"])),
    ("no_input", "channels without input", lambda row: int(row["no_input"])),
)


def main(words: Sequence[str]) -> int:
    """Writes the picture, into the run folder unless `out` is given.

    Raises:
        UserError: the folder holds no rewiring.csv, or a word is not understood.
    """
    options = dict(word.split("=", 1) for word in words if "=" in word)
    folders = [word for word in words if "=" not in word]
    if len(folders) != 1 or set(options) - {"out"}:
        raise UserError("ersparse rewiring: needs one run folder, and takes out=FILE")
    file = Path(folders[0]) / "rewiring.csv"
    try:
        rows = list(csv.DictReader(file.read_text().splitlines()))
    except OSError:
        raise UserError(f"{folders[0]}: has no rewiring.csv; must be the folder of a run that rewires") from None
    out = Path(options.get("out", file.with_suffix(".png")))
    draw(rows, out)
    print(out)
    return 0


def draw(rows: list[dict[str, str]], out: Path) -> None:
    """Four panels over the steps of updates, a line for each layer, from first (dark) to last (light)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    layers = list(dict.fromkeys(row["layer"] for row in rows))
    colours = plt.get_cmap("viridis")
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
    for place, (key, title, value) in zip(axes.flat, PANELS, strict=True):
        for number, layer in enumerate(layers):
            own = [row for row in rows if row["layer"] == layer and not (key == "grown" and row["step"] == "0")]
            colour = colours(0.92 * number / max(1, len(layers) - 1))
            place.plot([int(row["step"]) for row in own], [value(row) for row in own], color=colour, lw=1)
        place.set_title(title, fontsize=10)
        place.set_ylim(bottom=0)
        place.spines[["top", "right"]].set_visible(False)
    for place in axes[1]:
        place.set_xlabel("step")
    bar = figure.colorbar(plt.cm.ScalarMappable(cmap=colours), ax=axes, ticks=[0, 0.92], shrink=0.5)
    bar.ax.set_yticklabels(["first layer", "last layer"])
    figure.savefig(out, dpi=130)
    plt.close(figure)
