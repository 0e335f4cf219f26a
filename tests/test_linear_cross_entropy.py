"""Linear layer and cross-entropy in one: whatever the chunks, and where the built-in's are silently wrong."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as builtin
from torch import Tensor

from torchbp.nn import functional as F
from torchbp.testing import saved_bytes


def arguments(classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randn(n, 3, generator=generator, dtype=torch.float64).requires_grad_() for n in (7, classes))
    return x, w, torch.randint(classes, (7,), generator=generator)


def options(rows: int) -> torch.nn.LinearCrossEntropyOptions:
    return torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_chunks_change_nothing(rows: int, dtype: torch.dtype) -> None:
    x, w, target = arguments()
    x, w = (v.detach().to(dtype).requires_grad_() for v in (x, w))
    mine = F.linear_cross_entropy(x, w, target, options=options(rows))
    theirs = builtin.linear_cross_entropy(x, w, target)
    tolerance = 1e-12 if dtype == torch.float64 else 0.03
    torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    for a, e in zip(torch.autograd.grad(mine, (x, w)), torch.autograd.grad(theirs, (x, w)), strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance)


def test_what_is_kept_does_not_grow_with_the_classes() -> None:
    for classes in (5, 500):
        x, w, target = arguments(classes)
        kept = saved_bytes(lambda x=x, w=w, target=target: F.linear_cross_entropy(x, w, target))
        assert kept - sum(t.numel() * t.element_size() for t in (x, w, target)) == 8 * (2 * 7 + 1)


def test_the_built_in_s_chunks_lose_derivatives() -> None:
    """Both sides of docs/differences.md."""
    x, w, target = arguments()
    found = []
    for place in (F, builtin):
        chunks = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2, allow_retain_graph=True)
        loss = place.linear_cross_entropy(x, w, target, options=chunks)
        g = torch.ones((), dtype=torch.float64, requires_grad=True)
        (gx,) = torch.autograd.grad(loss, x, g, create_graph=True)
        (second,) = torch.autograd.grad(gx.sum(), x, allow_unused=True)
        found.append(0.0 if second is None else float(second.abs().max()))
    assert found[0] > 0.01 and found[1] == 0
