"""Terminal output of a run: messages, the layer table, the title and the outcome."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ersparse.runs.plan import Plan

log = logging.getLogger("ersparse")
ROWS = 60  # most rows of a table on a terminal; run.json has every layer


def make_console() -> Console:
    """Return a console that neither highlights numbers nor breaks long lines."""
    return Console(highlight=False, soft_wrap=True)


def layer_table(record: dict[str, Any]) -> Table:
    """Return a table of the layers: size, density asked for, kept weights, and what flow repair did."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("layer", "shape", "size", "density", "non-zeros", "kept", "no edge in/out", "moved", "added"):
        table.add_column(column, justify="left" if column in ("layer", "shape") else "right", no_wrap=True)
    layers = record["layers"]
    hidden = len(layers) - ROWS
    for number, layer in enumerate(layers):
        if hidden > 0 and ROWS // 2 <= number < ROWS // 2 + hidden:
            if number == ROWS // 2:
                table.add_row(f"… {hidden} more, all in run.json")
            continue
        zero, moved, added = layer["zero_degree"], layer["edges_moved"], layer["edges_added"]
        table.add_row(
            layer["name"].removesuffix(".weight"),
            "×".join(map(str, layer["shape"])),
            f"{layer['size']:,}",
            f"{layer['density']:.4g}",
            f"{layer['nonzero']:,}",
            f"{layer['nonzero'] / layer['size']:.4f}",
            f"{zero['in']}/{zero['out']}",
            str(moved["in"] + moved["out"]),
            str(added["in"] + added["out"]),
        )
    size, kept = sum(layer["size"] for layer in layers), sum(layer["nonzero"] for layer in layers)
    total = sum(layer["size"] * layer["density"] for layer in layers) / size
    table.add_section()
    table.add_row("all", "", f"{size:,}", f"{total:.4g}", f"{kept:,}", f"{kept / size:.4f}", style="bold")
    return table


def title(plan: Plan) -> str:
    """Return a description of the run in one line."""
    s = plan.settings
    return (
        f"{s.model.name} on {s.dataset.name}, method {plan.method.name}, {s.sparsity.name} sparsity "
        f"{1 - plan.nominal:.6g}, seed {s.seed}: {plan.folder}"
    )


def outcome(record: dict[str, Any], folder: Path) -> str:
    """Return the last line of a run: accuracies and realised sparsity."""
    sparsity, metrics = record["sparsity"], record["metrics"]
    figures = [f"test accuracy {metrics['test/acc']:.4f}"] if metrics.get("test/acc") is not None else []
    if metrics.get("val/acc") is not None:
        figures.append(f"validation accuracy {metrics['val/acc']:.4f}")
    figures.append(f"realised sparsity {sparsity['realised']:.4f}")
    if sparsity["effective"] is not None and round(sparsity["effective"], 4) != round(sparsity["realised"], 4):
        figures.append(f"effective {sparsity['effective']:.4f}")
    return f"{', '.join(figures)}: {folder}"


def quiet_lightning() -> None:
    """Silence Lightning's advice (more workers, other loggers); its errors are exceptions in any case."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\.")


@contextmanager
def logging_to(path: Path | None, console: Console | None) -> Iterator[None]:
    """Send log messages to the console, and with time stamps to the file `path`; None leaves out either."""
    log.setLevel(logging.DEBUG)
    handlers: list[logging.Handler] = [_ToConsole(console)] if console else []
    if path:
        file = _ToFile(path, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(file)
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


class _ToFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Ignore a line that cannot be written, for example to a full disk: logging must not end a run."""


class _ToConsole(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = {"WARNING": "yellow", "ERROR": "red"}.get(record.levelname)
        with suppress(OSError):  # a terminal or pipe that has been closed must not end a run
            self.console.print(record.getMessage(), style=style, markup=False)
