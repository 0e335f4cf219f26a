"""The reference's attention, held against PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference_helpers import INF, check, frozen, gradients, tensor

from torchbp import reference

pytestmark = pytest.mark.filterwarnings("error")

# query, key and value; the leading dimensions of PyTorch's two forms of attention
SHAPES = {
    "matrices": ((3, 4), (5, 4), (5, 2)),
    "heads": ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4)),
    "one-key": ((2, 3, 1), (2, 1, 1), (2, 1, 3)),
    "no-key": ((3, 2), (0, 2), (0, 2)),
    "no-row": ((1, 0, 2), (1, 3, 2), (1, 3, 2)),
}


@pytest.mark.parametrize("masking", ["none", "causal", "added", "boolean", "row of -inf"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_attention(values, shapes, masking):
    q, k, v = (values(*shape) for shape in SHAPES[shapes])
    score = (*q.shape[:-1], k.shape[-2])
    mask = {"added": values(*score), "boolean": values(*score) > 0}.get(masking)
    if masking == "row of -inf":
        mask = np.where(np.arange(score[-2])[:, None] == 1, -INF, 0.5)
    mask = None if mask is None else frozen(mask)
    scale = None if masking == "none" else 0.7
    options = (masking == "causal", scale)

    def builtin(q, k, v):
        given = None if mask is None else tensor(mask)
        return F.scaled_dot_product_attention(q, k, v, given, is_causal=options[0], scale=scale)

    y = reference.attention(q, k, v, mask, *options)
    check(y, builtin(tensor(q), tensor(k), tensor(v)))
    gy = values(*y.shape)
    found = reference.attention_gradients(q, k, v, gy, mask, *options)
    for actual, expected in zip(found, gradients(builtin, (q, k, v), gy), strict=False):
        check(actual, expected)
    bias = torch.zeros(score, dtype=torch.float64, requires_grad=True)
    scores = tensor(q) @ tensor(k).mT * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~tensor(mask), -INF) if mask.dtype == bool else scores + tensor(mask)
    if options[0]:
        scores = scores.masked_fill(torch.ones(score[-2:], dtype=torch.bool).triu(1), -INF)
    weights = torch.softmax(scores + bias, -1).masked_fill((scores == -INF).all(-1, keepdim=True), 0)
    (expected,) = torch.autograd.grad(weights @ tensor(v), bias, tensor(gy))
    check(found[3], expected.nan_to_num())  # the built-in softmax of a row of -inf is NaN


def test_attention_refuses_what_does_not_fit(values):
    with pytest.raises(RuntimeError, match=r"key must have shape \(5, 4\), got \(5, 3\)"):
        reference.attention(values(3, 4), values(5, 3), values(5, 3))
    with pytest.raises(RuntimeError, match=r"value must have shape \(5, 3\), got \(4, 3\)"):
        reference.attention(values(3, 4), values(5, 4), values(4, 3))
    with pytest.raises(RuntimeError, match=r"grad_output must have shape \(3, 2\), got \(3, 4\)"):
        reference.attention_gradients(values(3, 4), values(5, 4), values(5, 2), values(3, 4))
    with pytest.raises(TypeError, match="query must be real"):
        reference.attention(values(3, 4, dtype=complex), values(5, 4), values(5, 3))
