"""The networks ``torchbp train`` trains; each builder takes the namespace its layers come from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType

from torch.nn import Module

from torchbp.bench.models import lenet


def mlp(nn: ModuleType, image_size: int, classes: int) -> Module:
    """Two hidden linear layers of 256 and 128 units with batch norm and GELU.

    Input: ``(N, 1, image_size, image_size)``; output: logits ``(N, classes)``.
    """
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
