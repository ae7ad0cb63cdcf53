"""The networks of the paper. Plain modules: they know nothing of masks.

Each is a function (num_classes, channels=3, width=1.0) -> nn.Module with an attribute `shrinks_by`: the factor by which
its strides and pools divide the image side, which is the smallest side that it takes.
"""

from ersparse.models.resnet import resnet18, resnet20, resnet50, resnet110
from ersparse.models.vgg import vgg16, vgg19

__all__ = ["resnet18", "resnet20", "resnet50", "resnet110", "vgg16", "vgg19"]
