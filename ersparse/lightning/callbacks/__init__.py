"""Thin Lightning callbacks: each decides when to act, and calls a function of `ersparse.sparse` or writes a record."""

from ersparse.lightning.callbacks.best_weights import BestWeights
from ersparse.lightning.callbacks.checkpoints import Checkpoints
from ersparse.lightning.callbacks.epoch_seed import EpochSeed
from ersparse.lightning.callbacks.equal_average import EqualAverage
from ersparse.lightning.callbacks.mask_statistics import MaskStatistics
from ersparse.lightning.callbacks.masks import ERInit, FixedMask, FlowRepair, SparseInit
from ersparse.lightning.callbacks.metrics import MetricsHistory, ProgressRecorder
from ersparse.lightning.callbacks.progress_bar import EpochProgressBar
from ersparse.lightning.callbacks.rank_consistency import RankConsistency
from ersparse.lightning.callbacks.step_trace import StepTrace
from ersparse.lightning.callbacks.weight_average import WeightAverage

__all__ = [
    "BestWeights", "Checkpoints", "ERInit", "EpochProgressBar", "EpochSeed", "EqualAverage", "FixedMask", "FlowRepair",
    "MaskStatistics", "MetricsHistory", "ProgressRecorder", "RankConsistency", "SparseInit", "StepTrace",
    "WeightAverage",
]  # fmt: skip
