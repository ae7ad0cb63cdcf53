"""Create a W&B report of accuracy over sparsity: python docs/wandb_report.py ENTITY [PROJECT].

This needs a W&B account and `pip install wandb-workspaces`. `ersparse status --json` and the run folders hold the same
numbers without them.
"""

from __future__ import annotations

import sys
from typing import Any


def report(entity: str, project: str) -> Any:
    """Return the unsaved report: accuracy over sparsity, learning curves, mask updates, and a table of layers."""
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(entity=entity, project=project, name="finished runs", groupby=["config.sparsity.name"])
    panels = [
        wr.ScatterPlot(
            title="accuracy over sparsity", x=wr.SummaryMetric("sparsity/realised"), y=wr.SummaryMetric("test/acc")
        ),
        wr.LinePlot(title="test accuracy", x="epoch", y=["test/acc"]),
        wr.LinePlot(title="weights grown in the epoch", x="epoch", y=["mask/grown"]),
        wr.WeavePanelSummaryTable(table_name="layers"),
    ]
    return wr.Report(
        entity=entity,
        project=project,
        title="Accuracy over sparsity",
        description="One point per run: realised sparsity of the masks, and test accuracy of the last epoch.",
        blocks=[wr.PanelGrid(runsets=[runs], panels=panels)],
    )


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    saved = report(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "ersparse")
    saved.save()
    print(saved.url)
