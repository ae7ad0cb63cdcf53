"""Checkpoints of earlier versions: the state of callbacks whose classes had other names.

Lightning finds a callback's state by the name of its class, and leaves out state that it finds no callback for: the
run would resume, without what the callback had recorded.
"""

from __future__ import annotations

from typing import Any

RENAMED = {  # in 0.2.0; their states have the same keys
    "History": "MetricsHistory",
    "Recorder": "ProgressRecorder",
    "Levels": "PruneAndRewind",
    "RewiringMeasures": "RewiringMetrics",
}


def rename_callbacks(checkpoint: dict[str, Any]) -> None:
    """Rename the state of callbacks in a checkpoint of an earlier version, in place."""
    states = checkpoint.get("callbacks", {})
    for old, new in RENAMED.items():
        if old in states:
            states.setdefault(new, states.pop(old))
