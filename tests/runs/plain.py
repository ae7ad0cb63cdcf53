"""A network without normalisation, for tests that compare numbers of ranks: `model._target_=plain.plain`."""

from torch import nn


def plain(num_classes, channels=3, width=1.0):
    hidden = round(16 * width)
    network = nn.Sequential(
        nn.Conv2d(channels, hidden, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(hidden, num_classes),
    )
    network.shrinks_by = 4
    return network
