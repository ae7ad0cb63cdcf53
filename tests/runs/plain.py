"""Small networks for `model._target_`: one without normalisation, to compare numbers of ranks, and a residual one."""

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


class Residual(nn.Module):
    """A stem, one residual block with a strided shortcut, and a classifier, with BatchNorm after each convolution."""

    def __init__(self, num_classes, channels, hidden):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.branch = nn.Sequential(
            nn.Conv2d(hidden, 2 * hidden, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * hidden)
        )
        self.shortcut = nn.Conv2d(hidden, 2 * hidden, 1, stride=2, bias=False)
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * hidden, num_classes))

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.branch(x) + self.shortcut(x))


def residual(num_classes, channels=3, width=1.0):
    return Residual(num_classes, channels, round(16 * width))
