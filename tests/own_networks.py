"""Networks as users write them, for `model._target_=own_networks.<name>`; all take grey images."""

import random
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune


class Plain(nn.Module):
    """Takes the number of classes and nothing else."""

    def __init__(self, num_classes, channels=1, hidden=6):
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, hidden, 3, padding=1), nn.Linear(hidden, num_classes)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class OnlyClasses(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)


class NClasses(Plain):
    def __init__(self, in_channels, n_classes):
        super().__init__(n_classes, in_channels)


class NumLabels(Plain):
    def __init__(self, num_labels=1000, in_chans=3, width=32):  # channels, not a factor
        super().__init__(num_labels, in_chans, width)


class Keywords(Plain):
    def __init__(self, **kwargs):
        super().__init__(kwargs["num_classes"], hidden=kwargs.get("hidden", 6))


def factory(**kwargs) -> NumLabels:
    return NumLabels(**kwargs)


def by_position(outputs, channels=3, width=1.0):
    return Plain(outputs, channels, int(6 * width))


partly = partial(Plain, hidden=4)
already = Plain(10)


class Sized(nn.Module):
    """Fully connected: it needs to know the size of its images."""

    def __init__(self, num_classes, channels, img_size):
        super().__init__()
        self.head = nn.Linear(channels * img_size**2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class Unusual(nn.Module):
    """Lazy layers, tied weights, a frozen layer, boolean buffers, values of tensors in the constructor."""

    def __init__(self, num_classes):
        super().__init__()
        hidden = int(torch.tensor([2.0, 6.0]).sum())  # impossible on the meta device
        self.conv, self.norm = nn.LazyConv2d(hidden, 3, padding=1), nn.LazyBatchNorm2d()
        self.first, self.second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(hidden, hidden).requires_grad_(False)
        self.head = nn.LazyLinear(num_classes)
        self.register_buffer("used_mask", torch.tensor([True] * 7 + [False]))
        self.register_buffer("scratch", torch.ones(hidden), persistent=False)
        self.scale = torch.tensor([2.0])  # neither a parameter nor a buffer

    def forward(self, x):
        x = self.norm(torch.relu(self.conv(x))).mean((2, 3)) * self.used_mask * self.scale
        x = self.frozen(torch.relu(self.second(torch.relu(self.first(x))))) * self.scratch
        return self.head(x)


class NeedsMore(Plain):
    def __init__(self, num_classes, hidden, depth):
        super().__init__(num_classes, hidden=hidden)


class NoClasses(Plain):
    def __init__(self, hidden=3):
        super().__init__(10)


class Raises(Plain):
    def __init__(self, num_classes):
        raise KeyError("hidden\nis missing")


class Strict(Plain):
    """Takes images of one size only."""

    def forward(self, x):
        assert x.shape[-1] == 224, f"image of {x.shape[-1]} pixels, not 224"
        return super().forward(x)


class Pair(Plain):
    """As GoogLeNet: a second output in training mode."""

    def forward(self, x):
        return (super().forward(x),) * (2 if self.training else 1) if self.training else super().forward(x)


class Double(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.double()


class Complex(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.head = nn.Linear(6, num_classes, dtype=torch.complex64)


class PerPixel(Plain):
    def forward(self, x):
        return super().forward(x)[:, :, None]


def no_network(num_classes):
    return [num_classes]


class Stochastic(Plain):
    """Dropout of PyTorch, in a recurrent layer and in attention, and layers that Python and NumPy leave out."""

    def __init__(self, num_classes):
        super().__init__(num_classes, hidden=8)
        self.lstm, self.dropout = nn.LSTM(8, 8, num_layers=2, dropout=0.5, batch_first=True), nn.Dropout2d(0.3)
        self.attention = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.4, batch_first=True)

    def forward(self, x):
        x = self.dropout(torch.relu(self.conv(x)))[:, :, ::4, ::4].flatten(2).transpose(1, 2)
        if not (self.training and random.random() < 0.4):
            x = x + self.lstm(x)[0]
        if not (self.training and np.random.rand() < 0.4):
            x = x + self.attention(x)
        return self.head(x.mean(1))


class LoRALinear(nn.Module):
    """A frozen linear layer and a trained update of low rank beside it (Hu et al. 2021), as adapters wrap layers."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class MergedLoRA(nn.Linear):
    """A linear layer that adds its update to the weight: what the mask removes is not zero there."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.down, self.up = nn.Parameter(torch.ones(2, sizes[0])), nn.Parameter(torch.ones(sizes[1], 2))

    def forward(self, x):
        return nn.functional.linear(x, self.weight + self.up @ self.down, self.bias)


class Adapted(Plain):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.head = LoRALinear(self.head)


class Changed(Plain):
    """A network whose last layer is `change`d: parametrised, or pruned by PyTorch's own masks."""

    def __init__(self, num_classes, change):
        super().__init__(num_classes)
        if change == "merged":
            self.head = MergedLoRA(6, num_classes)
        elif change == "prune":
            prune.l1_unstructured(self.head, "weight", 0.5)
        elif change == "removed":
            prune.remove(prune.l1_unstructured(self.head, "weight", 0.5), "weight")
        elif change == "bias":
            nn.utils.parametrize.register_parametrization(self.head, "bias", nn.Tanh())
        else:
            getattr(nn.utils.parametrizations, change)(self.head)


def images(root, download):
    """A data set that no test reads."""
    raise NotImplementedError
