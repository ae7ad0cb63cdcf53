"""Our number beside the printed one: does it reproduce, and if it cannot be said, why not."""

from __future__ import annotations

from dataclasses import dataclass

from ersparse.report.analysis.groups import Group
from ersparse.report.analysis.stats import Summary, welch
from ersparse.report.paper import Cell, Printed, everything, paper

ROUNDING = 0.05  # points: what printing to one decimal hides
AGREES, DIFFERS, UNKNOWN, OTHER = "agrees", "differs", "cannot say", "other recipe"


@dataclass(frozen=True)
class Verdict:
    """What a comparison comes to.

    Attributes:
        word: agrees, differs, cannot say, other recipe.
        why: in a few words.
    """

    word: str
    why: str


def printed_for(group: Group) -> Printed | None:
    """The paper's number for this network, data set, method and sparsities."""
    level, final = round(group.level, 6), round(group.final, 6)
    return everything().get(Cell(group.model, group.dataset, group.method, group.sparsity, level, final))


def deviations(group: Group, number: Printed) -> list[str]:
    """Where a group's settings are not those of the paper's recipe: "epochs 16 instead of 160"."""
    recipe = paper()["recipes"][paper()["tables"][number.table]["recipe"]]
    ours = group.config | {"epochs": group.runs[0].progress.get("epochs")}
    return [f"{key} {ours[key]} instead of {value}" for key, value in recipe.items() if ours.get(key, value) != value]


def judge(group: Group, ours: Summary, number: Printed) -> Verdict:
    """Whether the difference of two means could be chance: Welch's 95 % interval, the ± read as a deviation of seeds.

    Args:
        ours: per cent.
    """
    if apart := deviations(group, number):
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
