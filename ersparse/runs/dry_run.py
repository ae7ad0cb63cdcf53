"""`dry_run=true`: prints what a run would do, and creates nothing."""

from __future__ import annotations

from pathlib import Path

from ersparse.config.command_line import command
from ersparse.runs import console as screen
from ersparse.runs.plan import Plan
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.sources.pruner import PrunerSource
from ersparse.storage.run_folder import RunFolder


def dry_run(plan: Plan) -> Path:
    """Print title, state, layer densities, and what would have to be computed first; return the run folder."""
    console, plan = screen.make_console(), plan.resolved()
    before = RunFolder(plan.folder).read()
    state = before["state"] if before else "new"
    epochs = f", {plan.epochs} epochs" if plan.method.trains else ""
    console.print(f"{screen.title(plan)}\nstate: {state}{epochs}", markup=False)
    if isinstance(plan.source, PrunerSource):
        console.print(f"densities are computed first, and kept in {plan.source.path}", markup=False)
    elif isinstance(plan.source, IterativeRunSource) and plan.prerequisite:
        console.print(f"first {command(plan.prerequisite.settings)}", markup=False)
    else:
        for layer, density in zip(plan.layers, plan.source.densities, strict=True):
            console.print(f"  {layer.name:40} {layer.size:>10,}  density {density:.6g}", markup=False)
        console.print(f"nominal density {plan.nominal:.6g}, expected {plan.expected:.6g}", markup=False)
    return plan.folder
