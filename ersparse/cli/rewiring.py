"""`ersparse rewiring <run folder> [out=FILE]`: plot what rewiring did to each layer over a run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from ersparse.cli.arguments import CommandParser, out_as_option
from ersparse.errors import UserError


def main(words: Sequence[str]) -> int:
    """Write the figure, into the run folder unless `out` is given, and print where it is.

    Raises:
        UserError: the folder has no rewiring.csv, the command line is wrong, or the figure cannot be written.
    """
    parser = CommandParser("ersparse rewiring", description="Plot what rewiring did to each layer over a run.")
    parser.add_argument("folder", type=Path, help="folder of a run that rewires")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also written out=FILE; default: <folder>/rewiring.png"
    )
    asked = parser.parse_args(out_as_option(words))
    file = asked.folder / "rewiring.csv"
    out: Path = asked.out or file.with_suffix(".png")
    try:
        updates = list(csv.DictReader(file.read_text("utf-8").splitlines()))
        _plot(updates, out)
    except OSError:
        raise UserError(f"{asked.folder}: has no rewiring.csv; must be the folder of a run that rewires") from None
    except UserError:
        raise
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: damaged, or not written by a run ({error!r})") from None
    print(out)
    return 0


def _plot(updates: list[dict[str, str]], out: Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    from ersparse.report.figures.rewiring import plot_rewiring

    formats = FigureCanvasBase.get_supported_filetypes()
    if out.suffix and out.suffix[1:].lower() not in formats:
        raise UserError(f"out={out}: must end in .{', .'.join(sorted(formats))}")
    try:
        plot_rewiring(updates, out)
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from None
