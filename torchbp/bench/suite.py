"""What is measured: every layer, the layers of LeNet-5, ResNet-50 and other networks in many sizes, and the networks.

A case is a layer, or a network, with the shape of its input. Shapes are chosen so that batches of 1, 16 and 64
cost about the same, and so that maps both fit the processor's cache and exceed it; a layer that those networks do not
have is measured in one size.
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
Drawing = Callable[[Shape, torch.Generator], Tensor]


@dataclass(frozen=True)
class Case:
    """One layer or network to be measured.

    Attributes:
        name: what results and ``--case`` call it.
        family: the cases whose ratios are averaged together.
        layer: the class in ``torchbp.nn``, the function in ``torchbp.nn.functional``, or the name of the network.
        build: makes the module from ``torch.nn`` or ``torchbp.nn``.
        shape: of the input.
        others: draws what the layer takes besides, from the shape of its input, a network's loss from that of the
            logits: targets, further operands, indices. They get no gradient.
        domain: brings normal draws to where the layer is defined.
        data_dependent: whether the layer looks at values, of indices or to refuse some, so that tensors without values
            will not do to count its multiply-adds.
        amplifies: whether a rounding may grow on the way: turn a ReLU in a network, or a factor in a product of many.
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
    others: tuple[Drawing, ...] = ()
    domain: Callable[[Tensor], Tensor] | None = None
    data_dependent: bool = False
    amplifies: bool = False
    passes: int = 1
    quick: bool = False
    resident: bool = False

    @property
    def is_model(self) -> bool:
        """Whether this is a network: with a loss, and an optimiser in its step."""
        return self.family == MODEL_FAMILY


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
    from torchbp.nn import functional, modules

    return {*modules.__all__, *functional.__all__}


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
        *_linear_layers(),
        *_rearrangements(),
        *_dropouts(),
        *_recurrent_layers(),
        *_embeddings(),
        *_models(),
    ]


class _Called(Module):
    """``call(*modules, *inputs)`` as a layer."""

    def __init__(self, call: Callable[..., Tensor], *modules: Module) -> None:
        super().__init__()
        self.call, self.inner = call, torch.nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the call does."""
        return self.call(*self.inner, *inputs)


def _first(module: Module, *inputs: Tensor) -> Tensor:
    """The first of several results: a recurrent layer's output without its last states."""
    output: Tensor = module(*inputs)[0]
    return output


def _lstm_step(cell: Module, input: Tensor, h: Tensor, c: Tensor) -> Tensor:
    output: Tensor = cell(input, (h, c))[0]
    return output


def _self_attention(attention: Module, x: Tensor) -> Tensor:
    output: Tensor = attention(x, x, x, need_weights=False)[0]
    return output


def _in_heads(product: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of (N, heads, L, E) of sequences (N, L, 4 E)."""
    y = product(*(each.unflatten(-1, (4, -1)).transpose(1, 2) for each in inputs))
    return y.transpose(1, 2).flatten(2)


def _of_logits(loss: Module, input: Tensor, *others: Tensor) -> Tensor:
    """A loss behind log_softmax, where alone the built-in's gradient of ctc_loss is the derivative of its value."""
    output: Tensor = loss(torch.log_softmax(input, -1), *others)
    return output


def _scaled_tanh(input: Tensor) -> Tensor:
    return 1.7159 * torch.tanh(2 / 3 * input)


# What a layer is compared with where torch.nn has none, or one that computes something else (docs/differences.md).
_INSTEAD: dict[str, Callable[..., Module]] = {
    "ScaledTanh": partial(_Called, _scaled_tanh),
    "CrossMapLRN2d": torch.nn.LocalResponseNorm,
}


class _Layer:
    """Builds ``nn.<name>(*arguments, **options)``; arguments that are layers are built first.

    With ``call`` the module is called by ``call(module, *inputs)``.
    """

    def __init__(self, name: str, *arguments: Any, call: Callable[..., Tensor] | None = None, **options: Any) -> None:
        self.name, self.arguments, self.call, self.options = name, arguments, call, options

    def __call__(self, nn: ModuleType) -> Module:
        arguments = [each(nn) if isinstance(each, _Layer) else each for each in self.arguments]
        instead = _INSTEAD.get(self.name) if nn is torch.nn else None
        made = (instead or getattr(nn, self.name))(*arguments, **self.options)
        return made if self.call is None else _Called(self.call, made)


class _Function(_Layer):
    """Applies ``nn.functional.<name>``, or what stands in ``torch`` alone, with ``options``."""

    def __call__(self, nn: ModuleType) -> Module:
        function = partial(getattr(nn.functional, self.name, None) or getattr(torch, self.name), **self.options)
        return _Called(function if self.call is None else partial(self.call, function))


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
        plain = stride == 1 and channels > 4 and kernel <= 3
        family = f"convolution-{kernel}x{kernel}" if plain else "convolution-2d-other"
        for batch, size in zip((1, 16, 64), sizes, strict=True):
            yield _case(family, label, layer, (batch, channels, size, size), quick=batch in quick)

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
        ("3x3x3 stride 1 32-32", _Layer("Conv3d", 32, 32, 3, padding=1), (1, 32, 16, 28, 28)),
        ("3x3 stride 1 dilation 2 64-64", _Layer("Conv2d", 64, 64, 3, padding=2, dilation=2), (16, 64, 28, 28)),
        ("3x3 stride 1 4 groups 64-64", _Layer("Conv2d", 64, 64, 3, padding=1, groups=4), (16, 64, 28, 28)),
        ("4x4 stride 2 64-128", _Layer("Conv2d", 64, 128, 4, stride=2, padding=1), (16, 64, 32, 32)),
        ("3x3x3 stride 2 16-32", _Layer("Conv3d", 16, 32, 3, stride=2, padding=1), (4, 16, 16, 16, 16)),
    )
    for label, layer, shape in others:
        strided = layer.name == "Conv2d" and layer.options.get("stride", 1) > 1
        family = "convolution-2d-other" if strided else "convolution-other"
        yield _case(family, label, layer, shape, quick=layer.name == "Conv1d")


def _transposed_convolutions() -> Iterator[Case]:
    family = "transposed-convolution"
    for batch, size in ((1, 64), (16, 32), (64, 16)):
        layer = _Layer("ConvTranspose2d", 32, 16, 2, stride=2)
        yield _case(family, "2x2 stride 2 32-16", layer, (batch, 32, size, size), quick=batch == 16)
    others: tuple[tuple[str, _Layer, Shape], ...] = (
        ("4x4 stride 2 64-32", _Layer("ConvTranspose2d", 64, 32, 4, stride=2, padding=1), (16, 64, 16, 16)),
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
        options: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "groups": channels, "bias": False}
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


# What layers and losses take besides their input


def _numbers(shape: Shape, generator: torch.Generator) -> Tensor:
    """Between 0 and 1."""
    return torch.rand(shape, generator=generator)


def _positive(shape: Shape, generator: torch.Generator) -> Tensor:
    return 0.5 + torch.rand(shape, generator=generator)


def _signs(shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2.0 - 1


def _row_signs(shape: Shape, generator: torch.Generator) -> Tensor:
    return _signs(shape[:1], generator)


def _classes(count: int) -> Drawing:
    """A class for every sample, or position of it, of logits in the second dimension."""
    return lambda shape, generator: torch.randint(count, (shape[0], *shape[2:]), generator=generator)


def _label_sets(shape: Shape, generator: torch.Generator) -> Tensor:
    """A tenth of the classes for each sample, then -1."""
    labels = torch.rand(shape, generator=generator).argsort(1)
    labels[:, max(shape[1] // 10, 1) :] = -1
    return labels


def _labels(shape: Shape, generator: torch.Generator) -> Tensor:
    """An eighth as many labels as steps for logits (T, N, C), the blank 0 not among them."""
    return torch.randint(1, shape[2], (shape[1], max(shape[0] // 8, 1)), generator=generator)


# Labels, and the lengths of the logits and of the labels.
_SEQUENCES: tuple[Drawing, ...] = (
    _labels,
    lambda shape, generator: torch.full(shape[1:2], shape[0]),
    lambda shape, generator: torch.full(shape[1:2], max(shape[0] // 8, 1)),
)


def _points(shape: Shape, generator: torch.Generator) -> Tensor:
    """As many points of an image (N, C, H, W) as it has, a few of them outside."""
    return 2.2 * torch.rand((shape[0], *shape[2:], 2), generator=generator) - 1.1


def _places(shape: Shape, generator: torch.Generator) -> Tensor:
    """Where max pooling with windows of 2 found its winners."""
    dimensions = len(shape) - 2
    values = torch.rand((*shape[:2], *(2 * size for size in shape[2:])), generator=generator)
    pool = getattr(torch.nn, f"MaxPool{dimensions}d")(2, return_indices=True)
    places: Tensor = pool(values)[1]
    return places


_SPATIAL: dict[int, Shape] = {1: (16, 32, 2048), 2: (16, 32, 56, 56), 3: (4, 16, 16, 28, 28)}
_UNPOOLED: dict[int, Shape] = {1: (16, 32, 1024), 2: (16, 32, 28, 28), 3: (4, 16, 8, 14, 14)}

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
    for window in _WINDOWS:
        yield pool(3, window, _SPATIAL[3])
    if name != "MaxPool":
        return
    yield _case(family, "7x7", _Layer("AdaptiveMaxPool2d", 7), (16, 64, 56, 56))
    for dimensions in (1, 3):
        yield _case(family, "7", _Layer(f"AdaptiveMaxPool{dimensions}d", 7), _SPATIAL[dimensions])
    few: dict[int, Shape] = {2: (2, 32, 56, 56), 3: (2, 8, 16, 28, 28)}
    for dimensions, shape in few.items():
        samples = torch.full((*shape[:2], dimensions), 0.5)
        layer = _Layer(f"FractionalMaxPool{dimensions}d", 2, output_ratio=0.6, _random_samples=samples)
        yield _case(family, "2", layer, shape)
    for dimensions, shape in _UNPOOLED.items():
        yield _case(family, "2", _Layer(f"MaxUnpool{dimensions}d", 2), shape, others=(_places,))


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
    for dimensions, shape in _SPATIAL.items():
        yield _case("average-pooling", "norm 2, 2", _Layer(f"LPPool{dimensions}d", 2.0, 2), shape)


_MAPS: tuple[Shape, ...] = ((1, 64, 56, 56), (16, 16, 28, 28), (16, 64, 112, 112), (64, 64, 14, 14))


def _normalizations() -> Iterator[Case]:
    for shape in _MAPS:
        quick = shape in (_MAPS[1], _MAPS[3])
        yield _case("batch-norm", "", _Layer("BatchNorm2d", shape[1]), shape, passes=2, quick=quick)
    yield _case("batch-norm", "", _Layer("BatchNorm1d", 256), (64, 256), passes=2)
    yield _case("batch-norm", "", _Layer("BatchNorm3d", 16), _SPATIAL[3], passes=2)
    yield _case("batch-norm", "one process", _Layer("SyncBatchNorm", 16), _MAPS[1], passes=2)
    for rows in ((1, 128, 768), (16, 128, 256), (64, 256, 768)):
        yield _case("layer-norm", "", _Layer("LayerNorm", rows[-1]), rows, quick=rows[0] == 16)
    for shape in _MAPS:
        yield _case("group-norm", "8 groups", _Layer("GroupNorm", 8, shape[1]), shape, quick=shape == _MAPS[1])
    spatial: dict[int, Shape] = {**_SPATIAL, 2: _MAPS[1]}
    for dimensions, maps in spatial.items():
        yield _case("group-norm", "", _Layer(f"InstanceNorm{dimensions}d", maps[1]), maps)
    yield _case("layer-norm", "", _Layer("RMSNorm", 256), (16, 128, 256))
    for name in ("LocalResponseNorm", "CrossMapLRN2d"):
        yield _case("local-response-norm", "5 channels", _Layer(name, 5), _MAPS[1], quick=name == "LocalResponseNorm")


def _activations() -> Iterator[Case]:
    for name in ("ReLU", "GELU", "SiLU", "Tanh", "Sigmoid"):
        for shape in ((1, 64, 56, 56), (16, 64 if name == "ReLU" else 32, 112, 112), (64, 64, 14, 14)):
            yield _case("activation", "", _Layer(name), shape, quick=name in ("ReLU", "GELU") and shape[0] == 64)
    others = (
        *("ELU", "CELU", "SELU", "Mish", "LeakyReLU", "ReLU6", "Hardtanh", "Hardshrink", "Hardsigmoid", "Hardswish"),
        *("LogSigmoid", "Softplus", "Softshrink", "Softsign", "Tanhshrink", "PReLU", "RReLU", "ScaledTanh"),
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
    yield _case("softmax", "dim 1", _Layer("Softmin", dim=1), (64, 1000))
    yield _case("softmax", "", _Layer("Softmax2d"), (16, 21, 64, 64))


def _attentions() -> Iterator[Case]:
    attention = _Layer("MultiheadAttention", 256, 4, batch_first=True, call=_self_attention)
    yield _case("attention", "4 heads", attention, (4, 512, 256))
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True}
    yield _case(
        "attention", "4 heads", _Layer("TransformerEncoderLayer", 256, 4, 1024, **options), (16, 128, 256), quick=True
    )
    encoder = _Layer("TransformerEncoderLayer", 128, 4, 512, **options)
    decoder = _Layer("TransformerDecoderLayer", 128, 4, 512, **options)
    stacks = (
        ("4 heads", decoder, (_numbers,)),
        ("2 layers", _Layer("TransformerEncoder", encoder, 2, enable_nested_tensor=False), ()),
        ("2 layers", _Layer("TransformerDecoder", decoder, 2), (_numbers,)),
        ("1 + 1 layers", _Layer("Transformer", 128, 4, 1, 1, 512, **options), (_numbers,)),
    )
    for label, layer, others in stacks:
        yield _case("attention", label, layer, (4, 64, 128), others=others, amplifies=True)
    product = _Function("scaled_dot_product_attention", call=_in_heads)
    yield _case("attention", "4 heads", product, (4, 256, 256), others=(_numbers, _numbers))


_ELEMENTS = (512, 2048)


def _losses() -> Iterator[Case]:
    layer = _Layer("CrossEntropyLoss")
    shapes: tuple[Shape, ...] = ((1, 1000), (64, 1000), (16, 21, 64, 64))
    for shape in shapes:
        yield _case("cross-entropy", "", layer, shape, others=(_classes(shape[1]),), quick=len(shape) == 4)
    yield _case("cross-entropy", "", _Layer("NLLLoss"), (64, 1000), others=(_classes(1000),))
    layer = _Layer("LinearCrossEntropyLoss", 256, 8000)
    yield _case("cross-entropy", "256-8000", layer, (512, 256), others=(_classes(8000),))
    layer = _Layer("AdaptiveLogSoftmaxWithLoss", 256, 8000, [500, 2000], call=_first)
    yield _case("cross-entropy", "256-8000", layer, (512, 256), others=(_classes(8000),), data_dependent=True)
    layer = _Layer("CTCLoss", call=_of_logits)
    yield _case("cross-entropy", "", layer, (128, 16, 32), others=_SEQUENCES, data_dependent=True, amplifies=True)

    pointwise = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "BCEWithLogitsLoss")
    for name in (*pointwise, "SoftMarginLoss", "HingeEmbeddingLoss", "MultiLabelSoftMarginLoss"):
        yield _case("pointwise-loss", "", _Layer(name), _ELEMENTS, others=(_numbers,), quick=name == "SmoothL1Loss")
    yield _case("pointwise-loss", "", _Layer("KLDivLoss", reduction="batchmean"), _ELEMENTS, others=(_numbers,))
    yield _case("pointwise-loss", "", _Layer("BCELoss"), _ELEMENTS, others=(_numbers,), domain=torch.sigmoid)
    yield _case(
        "pointwise-loss", "", _Layer("GaussianNLLLoss"), _ELEMENTS, others=(_numbers, _positive), data_dependent=True
    )
    yield _case("pointwise-loss", "", _Layer("MarginRankingLoss"), _ELEMENTS, others=(_numbers, _signs))

    yield _case("margin-loss", "", _Layer("MultiMarginLoss"), (4096, 100), others=(_classes(100),), quick=True)
    yield _case("margin-loss", "", _Layer("MultiLabelMarginLoss"), (512, 100), others=(_label_sets,))
    yield _case("margin-loss", "", _Layer("CosineEmbeddingLoss"), _ELEMENTS, others=(_numbers, _row_signs))
    for name in ("TripletMarginLoss", "TripletMarginWithDistanceLoss"):
        yield _case("margin-loss", "", _Layer(name), _ELEMENTS, others=(_numbers, _numbers))

    for name in ("PairwiseDistance", "CosineSimilarity"):
        yield _case("distance", "", _Layer(name), _ELEMENTS, others=(_numbers,), quick=name == "PairwiseDistance")
    for p in (2.0, 1.0):
        yield _case("distance", f"p {p:g}", _Function("cdist", p=p), (512, 64), others=(_numbers,))
    yield _case("distance", "", _Function("pdist"), (512, 64))
    yield _case("distance", "", _Function("normalize"), _ELEMENTS)


def _linear_layers() -> Iterator[Case]:
    yield _case("linear", "512-512", _Layer("Linear", 512, 512), (64, 512), quick=True)
    yield _case("linear", "768-3072", _Layer("Linear", 768, 3072), (512, 768))
    yield _case("linear", "64-64-64", _Layer("Bilinear", 64, 64, 64), (128, 64), others=(_numbers,))


_PADDINGS: dict[str, tuple[float, ...]] = {
    "Zero": (1,),
    "Constant": (1, 0.5),
    "Reflection": (1,),
    "Replication": (1,),
    "Circular": (1,),
}


def _rearrangements() -> Iterator[Case]:
    family = "rearranging"
    for kind, arguments in _PADDINGS.items():
        for dimensions, shape in _SPATIAL.items():
            name = f"{kind}Pad{dimensions}d"
            yield _case(family, "1", _Layer(name, *arguments), shape, quick=name == "ReflectionPad2d")
    enlarged: tuple[tuple[str, Shape], ...] = (
        *((mode, (16, 32, 28, 28)) for mode in ("nearest", "bilinear")),
        *(("bicubic", (4, 32, 28, 28)), ("linear", (16, 32, 1024)), ("trilinear", (4, 16, 8, 14, 14))),
    )
    for mode, shape in enlarged:
        yield _case(family, mode, _Layer("Upsample", scale_factor=2, mode=mode), shape)
    for name in ("UpsamplingNearest2d", "UpsamplingBilinear2d"):
        yield _case(family, "2", _Layer(name, scale_factor=2), (16, 32, 28, 28))
    for name in ("PixelShuffle", "PixelUnshuffle"):
        yield _case(family, "2", _Layer(name, 2), (16, 64, 28, 28))
    yield _case(family, "8 groups", _Layer("ChannelShuffle", 8), (16, 64, 28, 28))
    yield _case(family, "3x3", _Layer("Unfold", 3, padding=1), (16, 16, 28, 28))
    yield _case(family, "3x3", _Layer("Fold", 28, 3, padding=1), (16, 144, 784))
    for mode in ("bilinear", "nearest"):
        sample = _Function("grid_sample", mode=mode, align_corners=False)
        yield _case(family, mode, sample, (16, 16, 28, 28), others=(_points,))
    yield _case(family, "", _Function("affine_grid", size=(16, 3, 64, 64), align_corners=False), (16, 2, 3))


def _dropouts() -> Iterator[Case]:
    shapes: tuple[Shape, ...] = ((1, 4096), (64, 4096), (16, 64, 56, 56))
    for shape in shapes:
        yield _case("dropout", "", _Layer("Dropout", 0.5), shape, quick=shape == (64, 4096))
    for dimensions, shape in _SPATIAL.items():
        yield _case("dropout", "", _Layer(f"Dropout{dimensions}d", 0.5), shape)
    yield _case("dropout", "", _Layer("AlphaDropout", 0.5), (64, 4096))
    yield _case("dropout", "", _Layer("FeatureAlphaDropout", 0.5), _SPATIAL[2])


def _recurrent_layers() -> Iterator[Case]:
    for name in ("RNN", "GRU", "LSTM"):
        for shape in ((32, 1, 64), (32, 32, 256)):
            layer = _Layer(name, shape[-1], shape[-1], call=_first)
            yield _case("recurrent", str(shape[-1]), layer, shape, quick=shape[1] == 1)
    for name in ("RNNCell", "GRUCell"):
        yield _case("recurrent", "256", _Layer(name, 256, 256), (64, 256), others=(_numbers,))
    step = _Layer("LSTMCell", 256, 256, call=_lstm_step)
    yield _case("recurrent", "256", step, (64, 256), others=(_numbers, _numbers))


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
            others=(_classes(10),),
            amplifies=True,
            quick=quick,
            resident=True,
        )
