"""What is measured: the layers of LeNet-5, VGG-11, ResNet-18 and -50, MobileNetV2 and a U-Net, and the networks.

A case is a layer, or a network, with the shape of its input. Shapes are chosen so that batches of 1, 16 and 64
cost about the same, and so that maps both fit the processor's cache and exceed it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from torchbp.bench import models

MODEL_FAMILY = "model"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One layer or network to be measured.

    Attributes:
        name: what results and ``--case`` call it.
        family: the cases whose ratios are averaged together.
        layer: the class in ``torchbp.nn``, or the name of the network.
        build: makes the module from ``torch.nn`` or ``torchbp.nn``.
        shape: of the input.
        classes: for losses and networks, how many classes the targets are drawn from.
        values: whether the layer compares its input with numbers between 0 and 1 of the same shape.
        passes: how often the input has to be read, and in backward whatever the size of the input: twice where
            statistics over more than a cache holds come first.
        quick: part of ``--quick``.
        resident: large enough for its peak resident size to be measured, in a process of its own.
    """

    name: str
    family: str
    layer: str
    build: Callable[[ModuleType], Module]
    shape: Shape
    classes: int | None = None
    values: bool = False
    passes: int = 1
    quick: bool = False
    resident: bool = False

    @property
    def is_model(self) -> bool:
        """Whether this is a network: with a loss, and an optimiser in its step."""
        return self.family == MODEL_FAMILY

    def targets(self, output_shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, ...]:
        """Draw what the layer compares an output of ``output_shape`` with: class indices, numbers or nothing."""
        if self.values:
            return (torch.rand(tuple(output_shape), generator=generator),)
        if self.classes is None:
            return ()
        return (torch.randint(self.classes, (output_shape[0], *output_shape[2:]), generator=generator),)


def cases() -> list[Case]:
    """Return every case whose layer has a backward of torchbp's, and every network."""
    explicit = _explicit_layers()
    return [case for case in _all_cases() if case.is_model or case.layer in explicit]


def left_out() -> list[str]:
    """Return the layers of the suite that ``torchbp.nn`` takes from torch.nn, so that there is nothing to compare."""
    explicit = _explicit_layers()
    return sorted({case.layer for case in _all_cases() if not case.is_model and case.layer not in explicit})


def select(
    chosen: Iterable[Case], *, families: Sequence[str] = (), patterns: Sequence[str] = (), quick: bool = False
) -> list[Case]:
    """Return the cases of ``families`` whose names match one of ``patterns`` (all where empty).

    A pattern is a shell pattern for the whole name, or a part of the name; case does not matter.
    """
    return [
        case
        for case in chosen
        if (not families or case.family in families)
        and (not patterns or any(_matches(case.name, pattern) for pattern in patterns))
        and (case.quick or not quick)
    ]


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return pattern in name or fnmatch.fnmatchcase(name, pattern)


def _explicit_layers() -> set[str]:
    from torchbp.nn.modules import __all__ as names

    return set(names)


def _all_cases() -> list[Case]:
    return [
        *_convolutions(),
        *_transposed_convolutions(),
        *_depthwise_convolutions(),
        *_pools("max-pooling", "MaxPool"),
        *_pools("average-pooling", "AvgPool"),
        *_global_pools(),
        *_normalizations(),
        *_activations(),
        *_softmaxes(),
        *_attentions(),
        *_losses(),
        *_linear_maps(),
        *_dropouts(),
        *_recurrent_layers(),
        *_embeddings(),
        *_models(),
    ]


class _Layer:
    """Builds ``nn.<name>(*arguments, **options)``."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        self.name, self.arguments, self.options = name, arguments, options

    def __call__(self, nn: ModuleType) -> Module:
        made: Module = getattr(nn, self.name)(*self.arguments, **self.options)
        return made


class _Outputs(Module):
    """The first result of a module that has several."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input: Tensor) -> Tensor:
        """Return the first result."""
        output: Tensor = self.module(input)[0]
        return output


class _Recurrent(_Layer):
    """A recurrent layer without its last states."""

    def __call__(self, nn: ModuleType) -> Module:
        return _Outputs(super().__call__(nn))


class _Lookups(Module):
    """The input, of the indices' size or less, plus what a table has at fixed indices."""

    index: Tensor

    def __init__(self, table: Module, shape: Shape, rows: int) -> None:
        super().__init__()
        self.table = table
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("index", torch.randint(rows, shape, generator=generator))

    def forward(self, input: Tensor) -> Tensor:
        """Return the sum."""
        here = tuple(slice(size) for size in input.shape[: self.index.dim()])
        output: Tensor = input + self.table(self.index[here] if input.dim() > 2 else self.index[here[0]])
        return output


class _Table(_Layer):
    """An embedding, looked up at indices of a shape."""

    def __init__(self, name: str, rows: int, size: int, indices: Shape) -> None:
        super().__init__(name, rows, size)
        self.indices = indices

    def __call__(self, nn: ModuleType) -> Module:
        return _Lookups(super().__call__(nn), self.indices, self.arguments[0])


def _case(family: str, label: str, layer: _Layer, shape: Shape, **facts: Any) -> Case:
    name = " ".join(filter(None, (layer.name, label)))
    return Case(f"{name}, {'x'.join(map(str, shape))}", family, layer.name, layer, shape, **facts)


def _convolutions() -> Iterator[Case]:
    def dense(channels: int, width: int, kernel: int, stride: int, sizes: Sequence[int], *quick: int) -> Iterator[Case]:
        label = f"{kernel}x{kernel} stride {stride} {channels}-{width}"
        layer = _Layer("Conv2d", channels, width, kernel, stride=stride, padding=kernel // 2)
        for batch, size in zip((1, 16, 64), sizes, strict=True):
            yield _case("convolution", label, layer, (batch, channels, size, size), quick=batch in quick)

    yield from dense(1, 6, 5, 1, (28, 28, 28), 64)  # LeNet-5
    yield from dense(6, 16, 5, 1, (14, 14, 14))
    yield from dense(3, 64, 3, 1, (64, 32, 32))  # VGG-11
    yield from dense(64, 128, 3, 1, (32, 16, 8))
    yield from dense(256, 256, 3, 1, (14, 8, 4))
    yield from dense(3, 64, 7, 2, (112, 64, 32))  # ResNet-18 and -50
    yield from dense(64, 64, 3, 1, (56, 16, 8), 16)
    yield from dense(64, 128, 3, 2, (56, 16, 8))
    yield from dense(256, 64, 1, 1, (56, 14, 14))
    yield from dense(64, 128, 1, 2, (56, 28, 14))
    yield from dense(32, 192, 1, 1, (56, 28, 14), 1)  # MobileNetV2
    yield from dense(16, 16, 3, 1, (128, 64, 32))  # U-Net
    yield from dense(32, 32, 5, 1, (56, 16, 8))
    yield from dense(16, 16, 7, 1, (56, 16, 8))
    others: tuple[tuple[str, _Layer, Shape], ...] = (
        ("3 stride 1 32-32", _Layer("Conv1d", 32, 32, 3, padding=1), (16, 32, 1024)),
        ("5 stride 2 32-64", _Layer("Conv1d", 32, 64, 5, stride=2, padding=2), (16, 32, 1024)),
        ("3x3x3 stride 1 8-8", _Layer("Conv3d", 8, 8, 3, padding=1), (4, 8, 16, 28, 28)),
        ("3x3x3 stride 2 16-32", _Layer("Conv3d", 16, 32, 3, stride=2, padding=1), (4, 16, 16, 16, 16)),
    )
    for label, layer, shape in others:
        yield _case("convolution", label, layer, shape)


def _transposed_convolutions() -> Iterator[Case]:
    family = "transposed-convolution"
    for batch, size in ((1, 64), (16, 32), (64, 16)):
        layer = _Layer("ConvTranspose2d", 32, 16, 2, stride=2)
        yield _case(family, "2x2 stride 2 32-16", layer, (batch, 32, size, size), quick=batch == 16)
    others: tuple[tuple[str, _Layer, Shape], ...] = (
        ("2 stride 2 32-16", _Layer("ConvTranspose1d", 32, 16, 2, stride=2), (16, 32, 1024)),
        ("2x2x2 stride 2 16-8", _Layer("ConvTranspose3d", 16, 8, 2, stride=2), (4, 16, 8, 16, 16)),
    )
    for label, layer, shape in others:
        yield _case(family, label, layer, shape)


def _depthwise_convolutions() -> Iterator[Case]:
    family = "depthwise-convolution"

    def depthwise(dimensions: int, kernel: int, stride: int, shape: Shape, **facts: Any) -> Case:
        channels = shape[1]
        label = f"{'x'.join([str(kernel)] * dimensions)} stride {stride} depthwise"
        options = {"stride": stride, "padding": kernel // 2, "groups": channels, "bias": False}
        layer = _Layer(f"Conv{dimensions}d", channels, channels, kernel, **options)
        return _case(family, label, layer, shape, **facts)

    for kernel in (3, 5, 7):
        for stride in (1, 2):
            yield depthwise(2, kernel, stride, (1, 32, 112, 112), quick=(kernel, stride) == (5, 2))
            large = (kernel, stride) == (3, 1)
            yield depthwise(2, kernel, stride, (16, 32, 112, 112), quick=large, resident=large)
            yield depthwise(2, kernel, stride, (64, 96, 14, 14), quick=(kernel, stride) == (3, 2))
    for kernel in (3, 7):
        yield depthwise(1, kernel, 1, (16, 64, 4096))
    for stride in (1, 2):
        yield depthwise(3, 3, stride, (4, 16, 16, 28, 28))


_WINDOWS = ((2, 2, 0), (3, 2, 1), (3, 1, 1))  # kernel, stride, padding


def _pools(family: str, name: str) -> Iterator[Case]:
    def pool(dimensions: int, window: tuple[int, int, int], shape: Shape, **facts: Any) -> Case:
        kernel, stride, padding = window
        label = f"{'x'.join([str(kernel)] * dimensions)} stride {stride}"
        layer = _Layer(f"{name}{dimensions}d", kernel, stride=stride, padding=padding)
        return _case(family, label, layer, shape, **facts)

    for window in _WINDOWS:
        yield pool(2, window, (1, 64, 28, 28))
        yield pool(2, window, (1, 64, 112, 112), quick=window == (3, 2, 1))
        yield pool(2, window, (16, 16, 28, 28), quick=window == (3, 1, 1))
        large = name == "MaxPool" and window == (2, 2, 0)
        yield pool(2, window, (16, 64, 112, 112), quick=large, resident=large)
        yield pool(2, window, (64, 64, 28, 28), quick=window == (2, 2, 0))
    for window in _WINDOWS:
        yield pool(1, window, (16, 64, 4096))
    if name == "MaxPool":
        yield _case(family, "7x7", _Layer("AdaptiveMaxPool2d", 7), (16, 64, 56, 56))
    for window in _WINDOWS:
        yield pool(3, window, (4, 16, 16, 28, 28))


def _global_pools() -> Iterator[Case]:
    shapes: tuple[tuple[int, Shape], ...] = (
        (2, (1, 512, 7, 7)),
        (2, (16, 512, 7, 7)),
        (2, (64, 1280, 4, 4)),
        (2, (16, 64, 112, 112)),
        (1, (16, 64, 4096)),
        (3, (4, 16, 16, 28, 28)),
    )
    for dimensions, shape in shapes:
        layer = _Layer(f"AdaptiveAvgPool{dimensions}d", 1)
        yield _case("average-pooling", "global", layer, shape, quick=shape == (16, 512, 7, 7))


_MAPS = ((1, 64, 56, 56), (16, 16, 28, 28), (16, 64, 112, 112), (64, 64, 14, 14))


def _normalizations() -> Iterator[Case]:
    for shape in _MAPS:
        quick = shape in (_MAPS[1], _MAPS[3])
        yield _case("batch-norm", "", _Layer("BatchNorm2d", shape[1]), shape, passes=2, quick=quick)
    yield _case("batch-norm", "", _Layer("BatchNorm1d", 256), (64, 256), passes=2)
    yield _case("batch-norm", "", _Layer("BatchNorm3d", 16), (4, 16, 16, 28, 28), passes=2)
    for rows in ((1, 128, 768), (16, 128, 256), (64, 256, 768)):
        yield _case("layer-norm", "", _Layer("LayerNorm", rows[-1]), rows, quick=rows[0] == 16)
    for shape in _MAPS:
        yield _case("group-norm", "8 groups", _Layer("GroupNorm", 8, shape[1]), shape, quick=shape == _MAPS[1])
    yield _case("group-norm", "", _Layer("InstanceNorm2d", 16), _MAPS[1])
    yield _case("layer-norm", "", _Layer("RMSNorm", 256), (16, 128, 256))
    yield _case("local-response-norm", "5 channels", _Layer("LocalResponseNorm", 5), _MAPS[1], quick=True)


def _activations() -> Iterator[Case]:
    for name in ("ReLU", "GELU", "SiLU", "Tanh", "Sigmoid"):
        for shape in ((1, 64, 56, 56), (16, 64 if name == "ReLU" else 32, 112, 112), (64, 64, 14, 14)):
            yield _case("activation", "", _Layer(name), shape, quick=name in ("ReLU", "GELU") and shape[0] == 64)
    others = (
        *("ELU", "SELU", "Mish", "LeakyReLU", "ReLU6", "Hardtanh", "Hardshrink", "Hardsigmoid", "Hardswish"),
        *("LogSigmoid", "Softplus", "Softshrink", "Softsign", "Tanhshrink", "PReLU"),
    )
    for name in others:
        yield _case("activation", "", _Layer(name), (64, 64, 14, 14))
    yield _case("activation", "", _Layer("Threshold", 0.1, 0.0), (64, 64, 14, 14))
    yield _case("activation", "dim 1", _Layer("GLU", 1), (64, 64, 14, 14))


def _softmaxes() -> Iterator[Case]:
    for name in ("Softmax", "LogSoftmax"):
        shapes: tuple[tuple[int, Shape], ...] = (
            (1, (1, 1000)),
            (1, (64, 1000)),
            (-1, (16, 4, 128, 128)),
            (1, (16, 21, 64, 64)),
        )
        for dim, shape in shapes:
            yield _case("softmax", f"dim {dim}", _Layer(name, dim=dim), shape, quick=shape[0] == 64)


class _SelfAttention(Module):
    """One tensor as query, key and value, and the output alone."""

    def __init__(self, nn: ModuleType, size: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return output


def _attentions() -> Iterator[Case]:
    shape: Shape = (4, 512, 256)
    name = f"MultiheadAttention 4 heads, {'x'.join(map(str, shape))}"
    yield Case(name, "attention", "MultiheadAttention", partial(_SelfAttention, size=256, heads=4), shape)
    layer = _Layer("TransformerEncoderLayer", 256, 4, 1024, 0.0, batch_first=True)
    yield _case("attention", "4 heads", layer, (16, 128, 256), quick=True)


def _losses() -> Iterator[Case]:
    layer = _Layer("CrossEntropyLoss")
    shapes: tuple[Shape, ...] = ((1, 1000), (64, 1000), (16, 21, 64, 64))
    for shape in shapes:
        yield _case("cross-entropy", "", layer, shape, classes=shape[1], quick=len(shape) == 4)

    yield _case("cross-entropy", "", _Layer("NLLLoss"), (64, 1000), classes=1000)
    pointwise = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "BCEWithLogitsLoss")
    for name in (*pointwise, "SoftMarginLoss", "HingeEmbeddingLoss", "MultiLabelSoftMarginLoss"):
        yield _case("pointwise-loss", "", _Layer(name), (512, 2048), values=True, quick=name == "SmoothL1Loss")
    yield _case("pointwise-loss", "", _Layer("KLDivLoss", reduction="batchmean"), (512, 2048), values=True)
    yield _case("margin-loss", "", _Layer("MultiMarginLoss"), (4096, 100), classes=100, quick=True)
    layer = _Layer("LinearCrossEntropyLoss", 256, 8000)
    yield _case("cross-entropy", "256-8000", layer, (512, 256), classes=8000)
    for name in ("PairwiseDistance", "CosineSimilarity"):
        yield _case("distance", "", _Layer(name), (512, 2048), values=True, quick=name == "PairwiseDistance")


def _linear_maps() -> Iterator[Case]:
    yield _case("linear", "512-512", _Layer("Linear", 512, 512), (64, 512), quick=True)
    yield _case("linear", "768-3072", _Layer("Linear", 768, 3072), (512, 768))
    for name in ("ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d", "CircularPad2d"):
        yield _case("rearranging", "1", _Layer(name, 1), (16, 32, 56, 56), quick=name == "ReflectionPad2d")
    for mode in ("nearest", "bilinear"):
        yield _case("rearranging", mode, _Layer("Upsample", scale_factor=2, mode=mode), (16, 32, 28, 28))
    yield _case("rearranging", "2", _Layer("PixelShuffle", 2), (16, 64, 28, 28))
    yield _case("rearranging", "3x3", _Layer("Unfold", 3, padding=1), (16, 16, 28, 28))


def _dropouts() -> Iterator[Case]:
    shapes: tuple[Shape, ...] = ((1, 4096), (64, 4096), (16, 64, 56, 56))
    for shape in shapes:
        yield _case("dropout", "", _Layer("Dropout", 0.5), shape, quick=shape == (64, 4096))


def _recurrent_layers() -> Iterator[Case]:
    for name in ("RNN", "GRU", "LSTM"):
        for shape in ((32, 1, 64), (32, 32, 256)):
            yield _case("recurrent", str(shape[-1]), _Recurrent(name, shape[-1], shape[-1]), shape, quick=shape[1] == 1)


def _embeddings() -> Iterator[Case]:
    yield _case("embedding", "10000x128", _Table("Embedding", 10000, 128, (32, 128)), (32, 128, 128), quick=True)
    yield _case("embedding", "10000x128 of 16", _Table("EmbeddingBag", 10000, 128, (256, 16)), (256, 128))


def _models() -> Iterator[Case]:
    for name, build, batch, channels, size, quick in (
        ("LeNet-5", models.lenet, 64, 1, 28, True),
        ("VGG-11", models.vgg11, 8, 3, 32, False),
        ("ResNet-18", models.resnet18, 8, 3, 64, False),
        ("MobileNetV2", models.mobilenet_v2, 8, 3, 64, False),
        ("U-Net", models.unet, 8, 3, 64, True),
    ):
        shape = (batch, channels, size, size)
        yield Case(
            f"{name}, {'x'.join(map(str, shape))}",
            MODEL_FAMILY,
            name,
            partial(build, image_size=size, classes=10),
            shape,
            classes=10,
            quick=quick,
            resident=True,
        )
