"""A W&B report that shows accuracy over sparsity, by density and method: python docs/wandb_report.py ENTITY [PROJECT].

It needs an account and `pip install wandb-workspaces`. Without them, `ersparse status --json` and the run folders have
the same figures.
"""

from __future__ import annotations

import sys
from typing import Any


def report(entity: str, project: str) -> Any:
    """The report, not yet saved: a scatter of accuracy over sparsity, the curves, the layers, the mask changes."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity=entity, project=project, name="finished runs", groupby=["config.sparsity.name"])
    panels = [
        wr.ScatterPlot(
            title="accuracy over sparsity", x=wr.SummaryMetric("sparsity/realised"), y=wr.SummaryMetric("test/acc")
        ),
        wr.LinePlot(title="test accuracy", x="epoch", y=["test/acc"]),
        wr.LinePlot(title="weights that were grown in the epoch", x="epoch", y=["mask/grown"]),
        wr.WeavePanelSummaryTable(table_name="layers"),
    ]
    return wr.Report(
        entity=entity,
        project=project,
        title="Accuracy over sparsity",
        description="One point for each run; sparsity is what the masks have, accuracy that of the last epoch.",
        blocks=[wr.PanelGrid(runsets=[runs], panels=panels)],
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    saved = report(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "ersparse")
    saved.save()
    print(saved.url)
