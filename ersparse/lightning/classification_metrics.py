"""Accuracy, loss and further metrics of training and evaluated images, over the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ersparse.lightning.extra_metrics import extra_metrics, probabilities


class ClassificationMetrics(nn.ModuleDict):
    """Metrics by name, such as "train/acc" and "test/loss".

    Args:
        num_classes: number of classes of the data set.
        parts: names of the parts of the images: "train", "test", "val".
    """

    def __init__(self, num_classes: int, parts: Iterable[str]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.further: dict[str, dict[str, Metric]] = {}  # of `trainer.metrics`, by part of the images
        for part in parts:
            self.add_accuracy_and_loss(part)

    def add_accuracy_and_loss(self, part: str, suffix: str = "") -> None:
        """Add the metrics `part`/acc and `part`/loss; `suffix` names weights other than the network's own."""
        # checks of each batch would synchronise with the GPU; without them, MeanMetric must not have weights
        accuracy = MulticlassAccuracy(self.num_classes, average="micro", validate_args=False)
        self[f"{part}/acc{suffix}"] = accuracy
        self[f"{part}/loss{suffix}"] = MeanMetric(nan_strategy="disable")

    def add_further(self, part: str, names: Iterable[str]) -> None:
        """Add the metrics `names` of `ersparse.lightning.extra_metrics` to a part."""
        self.further[part] = extra_metrics(names, self.num_classes)
        self.update({f"{part}/{name}": metric for name, metric in self.further[part].items()})

    def update_accuracy_and_loss(self, part: str, logits: Tensor, loss: Tensor, y: Tensor, suffix: str = "") -> None:
        """Update accuracy and loss by a batch.

        Args:
            part: part of the images.
            logits: [B, num_classes].
            loss: mean loss of the batch.
            y: labels, int64 [B], or class probabilities, float [B, num_classes], of mixed images.
            suffix: as for `add_accuracy_and_loss`.
        """
        self.metric(f"{part}/loss{suffix}").update(loss.detach().expand(len(y)))
        labels = y.argmax(1) if y.is_floating_point() else y  # of mixed images: the label of the larger share
        self.metric(f"{part}/acc{suffix}").update(logits.detach(), labels)

    def update_further(self, part: str, logits: Tensor, labels: Tensor) -> None:
        """Update the further metrics of a part by a batch."""
        for metric in self.further.get(part, {}).values():
            metric.update(probabilities(logits.detach()), labels)

    def take(self) -> Iterator[tuple[str, Tensor]]:
        """Yield name and value of each metric over the epoch, and reset it."""
        for name in self:
            metric = self.metric(name)
            yield name, metric.compute()
            metric.reset()

    def metric(self, name: str) -> Metric:
        """Return a metric by its name."""
        metric = self[name]
        assert isinstance(metric, Metric)
        return metric
