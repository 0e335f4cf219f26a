"""The networks that are trained and timed; each builder takes the namespace its layers come from.

``nn`` is ``torch.nn`` or ``torchbp.nn``. Input: ``(N, channels, image_size, image_size)``; output: logits
``(N, classes)``, of :func:`unet` ``(N, classes, image_size, image_size)``. No convolution that batch norm follows has
a bias, since batch norm subtracts any.
"""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import Module


def lenet(nn: ModuleType, image_size: int, classes: int) -> Module:
    """Two convolutions and three linear layers (LeCun et al., 1998), with batch norm, ReLU and max pooling.

    One channel, an image size of at least 4.
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


def vgg11(nn: ModuleType, image_size: int, classes: int) -> Module:
    """Configuration A of Simonyan and Zisserman (2015) with batch norm and one linear layer, as for small images.

    Three channels, an image size that 32 divides.
    """
    layers: list[Module] = []
    channels = 3
    for width in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += _convolution(nn, channels, width, 3)
            channels = width
    pooled = image_size // 32
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * pooled * pooled, classes))


def resnet18(nn: ModuleType, image_size: int, classes: int) -> Module:
    """ResNet-18 (He et al., 2016). Three channels."""
    stem = [*_convolution(nn, 3, 64, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)]
    blocks = []
    channels = 64
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        blocks.append(_residual_block(nn, channels, width, stride))
        channels = width
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def mobilenet_v2(nn: ModuleType, image_size: int, classes: int) -> Module:
    """MobileNetV2 (Sandler et al., 2018), width 1. Three channels."""
    layers = _convolution(nn, 3, 32, 3, stride=2, activation=nn.ReLU6)
    channels = 32
    # Expansion, channels, repetitions and stride: table 2 of the paper.
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, repetitions, stride in stages:
        for index in range(repetitions):
            layers.append(_inverted_residual(nn, channels, width, stride if index == 0 else 1, expansion))
            channels = width
    layers += _convolution(nn, channels, 1280, 1, activation=nn.ReLU6)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes))


def unet(nn: ModuleType, image_size: int, classes: int) -> Module:
    """U-Net (Ronneberger et al., 2015) of three levels and 16 channels on the first, with padding and batch norm.

    Three channels, an image size that 4 divides; a logit per class and pixel.
    """
    inner = _around(nn, 32, 64, _double_convolution(nn, 32, 64))
    outer = _around(nn, 16, 32, nn.Sequential(_double_convolution(nn, 16, 32), inner, _double_convolution(nn, 64, 32)))
    return nn.Sequential(
        _double_convolution(nn, 3, 16), outer, _double_convolution(nn, 32, 16), nn.Conv2d(16, classes, 1)
    )


class _Residual(Module):
    """``after(branch(x) + shortcut(x))``."""

    def __init__(self, branch: Module, shortcut: Module, after: Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut, after

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.after(self.branch(input) + self.shortcut(input))
        return output


class _Beside(Module):
    """The channels of ``x`` followed by those of ``branch(x)``."""

    def __init__(self, branch: Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([input, self.branch(input)], 1)


def _convolution(
    nn: ModuleType,
    channels: int,
    width: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[Module] | None = None,
) -> list[Module]:
    convolution = nn.Conv2d(
        channels, width, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return [convolution, nn.BatchNorm2d(width), (activation or nn.ReLU)()]


def _residual_block(nn: ModuleType, channels: int, width: int, stride: int) -> Module:
    branch = nn.Sequential(*_convolution(nn, channels, width, 3, stride), *_convolution(nn, width, width, 3)[:2])
    shortcut = nn.Identity()
    if channels != width or stride != 1:
        shortcut = nn.Sequential(*_convolution(nn, channels, width, 1, stride)[:2])
    return _Residual(branch, shortcut, nn.ReLU())


def _inverted_residual(nn: ModuleType, channels: int, width: int, stride: int, expansion: int) -> Module:
    hidden = channels * expansion
    layers = _convolution(nn, channels, hidden, 1, activation=nn.ReLU6) if expansion != 1 else []
    layers += _convolution(nn, hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6)
    layers += _convolution(nn, hidden, width, 1)[:2]
    branch = nn.Sequential(*layers)
    return _Residual(branch, nn.Identity(), nn.Identity()) if stride == 1 and channels == width else branch


def _double_convolution(nn: ModuleType, channels: int, width: int) -> Module:
    return nn.Sequential(*_convolution(nn, channels, width, 3), *_convolution(nn, width, width, 3))


def _around(nn: ModuleType, channels: int, width: int, below: Module) -> Module:
    return _Beside(nn.Sequential(nn.MaxPool2d(2), below, nn.ConvTranspose2d(width, channels, 2, stride=2)))
