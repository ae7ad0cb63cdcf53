"""Metrics that `trainer.metrics` adds to accuracy and loss of the evaluated images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassStatScores

BINS = 15  # of the calibration error, as in Guo et al. 2017


def extra_metrics(names: Iterable[str], num_classes: int) -> dict[str, Metric]:
    """Return the metrics by name, each of which takes (class probabilities [B, num_classes], labels int64 [B]).

    Args:
        names: "top5", the accuracy of the five most probable classes; "ece", the expected calibration error, the mean
            difference of confidence and accuracy over `BINS` bins of confidence (Guo et al. 2017, equation 3);
            "per_class", from which `per_class_accuracy` follows.
        num_classes: number of classes.
    """
    made: dict[str, Metric] = {
        "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro", validate_args=False),
        "ece": MulticlassCalibrationError(num_classes, n_bins=BINS, norm="l1", validate_args=False),
        "per_class": MulticlassStatScores(num_classes, average=None, validate_args=False),
    }
    return {name: made[name] for name in names}


def per_class_accuracy(scores: Tensor) -> list[float | None]:
    """Return the accuracy of each class from the values of "per_class"; None for a class without images."""
    correct, images = scores[:, 0].double(), scores[:, 4].double()
    return [None if n == 0 else float(c / n) for c, n in zip(correct, images, strict=True)]


def probabilities(logits: Tensor) -> Tensor:
    """Return class probabilities in single precision; torchmetrics would guess whether values are logits."""
    return torch.softmax(logits.float(), dim=1)
