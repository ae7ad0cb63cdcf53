"""Network architectures of the paper, as plain modules without masks.

Each is a function (num_classes, channels=3, width=1.0) -> nn.Module. The module has an attribute `shrinks_by`: the
factor by which strides and poolings divide the image side, which is also the smallest image side it accepts.
"""

from ersparse.models.resnet import resnet18, resnet20, resnet50, resnet110
from ersparse.models.vgg import vgg16, vgg19

__all__ = ["resnet18", "resnet20", "resnet50", "resnet110", "vgg16", "vgg19"]
