"""torch.compile with sizes that change from call to call: one program for all of them, and right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

from torchbp.nn import functional as F

WEIGHT = torch.linspace(-1, 1, 4 * 4 * 9, dtype=torch.float64).view(4, 4, 3, 3)
THETA = torch.tensor([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.0]], dtype=torch.float64)


def grid(batch: int) -> Tensor:
    return F.affine_grid(THETA.expand(batch, 2, 3), (batch, 4, 6, 7), align_corners=False)


LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "conv2d": lambda x: F.conv2d(x, WEIGHT, padding=1),
    "conv2d, same": lambda x: F.conv2d(x, WEIGHT[:, :, :2, :2], padding="same", dilation=(1, 2)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, WEIGHT, stride=2, padding=1),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2.0, 2),
    # Sizes of which the output knows nothing.
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
    "interpolate, nearest": lambda x: F.interpolate(x, size=(5, 7)),
    "interpolate, bicubic": lambda x: F.interpolate(x, size=(5, 7), mode="bicubic", antialias=True),
    "interpolate, area": lambda x: F.interpolate(x, size=(5, 7), mode="area"),
    # Sizes that another tensor gives.
    "interpolate, bilinear": lambda x: F.interpolate(x[:, :, ::2, ::2], size=x.shape[2:], mode="bilinear"),
    "adaptive_avg_pool2d of half the size": lambda x: F.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2)),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "pad": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "unfold": lambda x: F.unfold(x, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    # (A grid whose size changes is compiled anew for each, as the built-in's: torch.linspace takes no dynamic one.)
    "grid_sample": lambda x: F.grid_sample(
        x,
        F.affine_grid(THETA.expand(x.shape[0], 2, 3), (x.shape[0], 4, 6, 7), align_corners=False),
        align_corners=False,
    ),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[2:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[2:]),
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "normalize": lambda x: F.normalize(x, dim=(1, 3)),
    "attention, fused": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention, values of another size": lambda x: F.scaled_dot_product_attention(x, x + 1, x[..., :3]),
}
QUICK = ("conv2d", "interpolate, nearest")


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LAYERS])
def test_one_program_for_all_sizes(name: str) -> None:
    layer, generator = LAYERS[name], torch.Generator().manual_seed(0)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    program = torch.compile(layer, fullgraph=True, backend=counter)
    for shape in ((2, 4, 8, 8), (2, 4, 12, 8), (3, 4, 10, 14), (2, 4, 16, 18)):
        x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        results = []
        for function in (program, layer):
            y = function(x)
            results += [y, torch.autograd.grad(y.square().sum(), x)[0]]
        torch.testing.assert_close(results[0], results[2])
        torch.testing.assert_close(results[1], results[3])
    # The first, static; then one dimension of those that changed, or all of them; never one per size.
    assert counter.frame_count <= 3
