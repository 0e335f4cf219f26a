"""The networks ``torchbp train`` trains; each builder takes the namespace its layers come from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType

from torch.nn import Module


def lenet(nn: ModuleType, image_size: int, classes: int) -> Module:
    """Two convolutions and three linear layers (LeCun et al., 1998), with batch norm, ReLU and max pooling.

    ``nn`` is ``torch.nn`` or ``torchbp.nn``. Input: ``(N, 1, image_size, image_size)``, a size of at least 4;
    output: logits ``(N, classes)``. The convolutions have no bias, since batch norm subtracts any.
    """
    pooled = image_size // 4
    layers = OrderedDict(
        conv1=nn.Conv2d(1, 6, 5, padding=2, bias=False),
        norm1=nn.BatchNorm2d(6),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5, padding=2, bias=False),
        norm2=nn.BatchNorm2d(16),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        linear1=nn.Linear(16 * pooled * pooled, 120),
        relu3=nn.ReLU(),
        linear2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        linear3=nn.Linear(84, classes),
    )
    return nn.Sequential(layers)


def mlp(nn: ModuleType, image_size: int, classes: int) -> Module:
    """Two hidden linear layers of 256 and 128 units with batch norm and GELU; shapes as in :func:`lenet`."""
    layers = OrderedDict(
        flatten=nn.Flatten(),
        linear1=nn.Linear(image_size * image_size, 256),
        norm1=nn.BatchNorm1d(256),
        gelu1=nn.GELU(),
        linear2=nn.Linear(256, 128),
        norm2=nn.BatchNorm1d(128),
        gelu2=nn.GELU(),
        linear3=nn.Linear(128, classes),
    )
    return nn.Sequential(layers)


MODELS: dict[str, Callable[[ModuleType, int, int], Module]] = {"lenet": lenet, "mlp": mlp}
