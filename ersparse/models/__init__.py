"""Network architectures as plain modules without masks.

Each is a function (num_classes, channels=..., width=1.0, ...) -> nn.Module. Those that need to know the size of their
images take `image_size` as well. A module may have an attribute `shrinks_by`: the factor by which strides and poolings
divide the image side, which is also the smallest image side it accepts. `torchvision_network` and `timm_network` build
networks of these packages by name.
"""

from ersparse.models.libraries import timm_network, torchvision_network
from ersparse.models.mlp import mlp
from ersparse.models.resnet import resnet18, resnet20, resnet50, resnet50_imagenet, resnet110
from ersparse.models.vgg import vgg16, vgg19
from ersparse.models.vit import deit_small, vit_tiny
from ersparse.models.wide_resnet import wrn28

__all__ = [
    "deit_small",
    "mlp",
    "resnet18",
    "resnet20",
    "resnet50",
    "resnet50_imagenet",
    "resnet110",
    "timm_network",
    "torchvision_network",
    "vgg16",
    "vgg19",
    "vit_tiny",
    "wrn28",
]
