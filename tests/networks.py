"""Small networks of torch.nn's layers, the same converted, batches for them, and what one training step gives."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import torchbp


class Residual(nn.Module):
    """The sum of its input and of what its layers make of it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Outputs(nn.Module):
    """A recurrent layer without its last states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Classifier(nn.Module):
    """Scores of classes along the last dimension or, with targets, their mean cross-entropy."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.loss = body, nn.CrossEntropyLoss()

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        scores = self.body(x)
        return scores if target is None else self.loss(scores.flatten(0, -2), target.flatten())


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Residual(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(3, 5)
    )


def transformer(dropout: float) -> nn.Module:
    return nn.Sequential(
        nn.Embedding(11, 8),
        Residual(nn.LayerNorm(8), SelfAttention(8, dropout), nn.Dropout(dropout)),
        Residual(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Dropout(dropout), nn.Linear(12, 8)),
        nn.LayerNorm(8),
        nn.Linear(8, 5),
    )


def recurrent() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(11, 6),
        Outputs(nn.LSTM(6, 4, batch_first=True, bidirectional=True)),
        Outputs(nn.GRU(8, 6, batch_first=True)),
        nn.Tanh(),
        nn.Linear(6, 5),
    )


BODIES: dict[str, Callable[[], nn.Module]] = {
    "convolutional": convolutional,
    "small": small,  # of images whose side is 4 to 7
    "transformer": lambda: transformer(0.1),
    "transformer without dropout": lambda: transformer(0.0),
    "recurrent": recurrent,
}
NAMES = ("convolutional", "transformer", "recurrent")


def network(name: str, dtype: torch.dtype = torch.float64) -> Classifier:
    """Return a network of torch.nn's layers, always with the same parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(BODIES[name]()).to(dtype)


def converted(model: nn.Module) -> nn.Module:
    """Return a copy whose every layer is torchbp's."""
    model = copy.deepcopy(model)
    report = torchbp.convert(model)
    assert set(report.left.values()) <= {"Flatten computes nothing"}, report
    return model


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """Return a converted network and torch.nn's."""
    model = network(name, dtype)
    return converted(model), model


def batch(
    name: str, seed: int = 0, size: int = 4, length: int = 6, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets; ``length`` is that of a sequence, or of an image's side."""
    generator = torch.Generator().manual_seed(seed)
    if name in ("convolutional", "small"):
        x = torch.randn(size, 2, length, length, generator=generator, dtype=dtype)
        return x, torch.randint(0, 5, (size,), generator=generator)
    x = torch.randint(0, 11, (size, length), generator=generator)
    return x, torch.randint(0, 5, (size, length), generator=generator)


def step(
    model: nn.Module, inputs: tuple[Tensor, ...], call: Callable[..., Tensor] | None = None, seed: int = 3
) -> dict[str, Tensor]:
    """Return the loss, every parameter's gradient and every buffer afterwards; ``call`` computes in the model's place.

    Dropout draws from ``seed``.
    """
    model.zero_grad()
    torch.manual_seed(seed)
    loss = (model if call is None else call)(*inputs)
    loss.backward()
    return {"loss": loss.detach(), **state(model)}


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter's gradient and every buffer."""
    found = {f"gradient of {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """Compare what two models give, by name."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )
