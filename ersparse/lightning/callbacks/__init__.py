"""Thin callbacks: each decides when, and calls one thing of the core to do it."""

from ersparse.lightning.callbacks.changes import MaskChanges
from ersparse.lightning.callbacks.masks import ERInit, FixedMask, FlowRepair, SparseInit
from ersparse.lightning.callbacks.progress import EpochBar
from ersparse.lightning.callbacks.ranks import InStep
from ersparse.lightning.callbacks.records import Checkpoints, History, Recorder

__all__ = [
    "Checkpoints", "ERInit", "EpochBar", "FixedMask", "FlowRepair", "History", "InStep", "MaskChanges", "Recorder",
    "SparseInit",
]  # fmt: skip
