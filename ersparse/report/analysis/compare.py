"""Comparison of a group's accuracy with the paper's number: whether it reproduces, or why that cannot be decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ersparse.report.analysis.groups import OUTCOMES, SeedGroup
from ersparse.report.analysis.stats import Summary, welch
from ersparse.report.paper import Printed, PrintedCell, assumption, number_of, recipe_of
from ersparse.storage.tables import Row

ROUNDING = 0.05  # percentage points: the largest rounding error of a number with one decimal
AGREES, DIFFERS, UNKNOWN, OTHER = "agrees", "differs", "cannot say", "other recipe"


@dataclass(frozen=True)
class Verdict:
    """Result of a comparison with the paper.

    Attributes:
        word: "agrees", "differs", "cannot say", "other recipe", or "" without a number to compare with.
        why: the reason, as a phrase.
    """

    word: str
    why: str


def paper_number(group: SeedGroup) -> Printed | None:
    """Return the paper's number for the group's network, data set, method, sparsity option and sparsities."""
    level, final = round(group.level, 6), round(group.final, 6)
    place = (group.model, group.dataset, group.method, group.sparsity, level, final)
    return number_of(PrintedCell(*place, group.variant), group.experiment, group.method in OUTCOMES)


def assumptions(rows: Sequence[Row]) -> list[str]:
    """Return what is assumed for the papers' numbers in these rows, one sentence for each paper's table."""
    shown = dict.fromkeys(row["table"] for row in rows if row.get("table"))
    return [sentence for table in shown if (sentence := assumption(table))]


def recipe_differences(group: SeedGroup, number: Printed) -> list[str]:
    """Return the settings that differ from the paper's recipe, each as "epochs 16 instead of 160"."""
    recipe = recipe_of(number.table)
    ours = group.config | {"epochs": group.runs[0].progress.get("epochs")}
    return [f"{key} {ours[key]} instead of {value}" for key, value in recipe.items() if ours.get(key, value) != value]


def judge(group: SeedGroup, ours: Summary, number: Printed) -> Verdict:
    """Compare two means by Welch's 95 % interval of their difference; the paper's ± is read as a standard deviation.

    Args:
        group: whose settings are compared with the paper's recipe.
        ours: test accuracy of the group over seeds, per cent.
        number: the paper's, per cent.

    Returns:
        "agrees" if the interval, widened by the rounding of the printed number, contains 0.
    """
    if apart := recipe_differences(group, number):
        return Verdict(OTHER, "; ".join(apart))
    if ours.sd is None or ours.mean is None:
        return Verdict(UNKNOWN, f"{ours.n} finished seed{'s' * (ours.n != 1)}: no spread of ours")
    if number.pm is None:
        return Verdict(UNKNOWN, "no spread is printed")
    interval = welch(ours, number.value, number.pm, number.seeds)
    if interval is None:
        return Verdict(UNKNOWN, "the paper has one seed")
    low, high = interval
    shown = f"ours less the paper's: {low:+.2f} to {high:+.2f} points".replace("-", "−")
    agrees = low <= ROUNDING and high >= -ROUNDING
    return Verdict(AGREES if agrees else DIFFERS, shown)
