"""Linear layer and cross-entropy in one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.autograd.linear_cross_entropy import chunk_rows
from torchbp.nn.functional._arguments import as_int, as_number, check_same_type, check_tensors
from torchbp.nn.functional.linear import linear
from torchbp.nn.functional.loss import cross_entropy
from torchbp.nn.functional.pointwise_loss import reduction_of


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """Return cross_entropy(linear(input, linear_weight, linear_bias), target, ...) without holding all logits.

    Class indices for a matrix of weights are done in chunks of rows, always, and differentiable to any order; of
    ``options`` only ``batch_chunk_size`` and ``chunking_method`` matter, as the number of rows. Class probabilities and
    weights of more dimensions go through linear and cross_entropy.

    Shapes: input (N, D) or (D), linear_weight (C, D) or (C, *, D), linear_bias without D; target (N, *) or () of class
    indices, or (N, C, *) or (C) of probabilities; weight (C).

    Raises:
        IndexError: if a target is not a class.
        RuntimeError, ValueError: if a shape, dtype, the reduction or ``label_smoothing`` (0 to 1) does not fit.
    """
    op = "linear_cross_entropy"
    check_tensors(
        op,
        *("linear_bias", "weight"),
        input=input,
        linear_weight=linear_weight,
        target=target,
        linear_bias=linear_bias,
        weight=weight,
    )
    reduction = reduction_of(op, None, None, reduction)
    if input.dim() not in (1, 2):
        raise RuntimeError(f"{op}(): input must have 1 or 2 dimensions, got shape {tuple(input.shape)}")
    if linear_weight.dim() < 2 or input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(
            f"{op}(): linear_weight must have shape (C, *, {input.shape[-1]}), got {tuple(linear_weight.shape)}"
        )
    classes, *positions, features = linear_weight.shape
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        raise RuntimeError(
            f"{op}(): linear_bias must have shape {tuple(linear_weight.shape[:-1])}, got {tuple(linear_bias.shape)}"
        )
    if positions and input.dim() == 1:
        raise RuntimeError(
            f"{op}(): input must have a batch for linear_weight {tuple(linear_weight.shape)}, got {tuple(input.shape)}"
        )
    logits_shape = (*input.shape[:-1], classes, *positions)
    probabilities = tuple(target.shape) == logits_shape
    if probabilities and ignore_index is not None:
        raise RuntimeError(f"{op}(): ignore_index must be None for probabilities, got {ignore_index}")
    ignore_index = -100 if ignore_index is None else as_int(op, "ignore_index", ignore_index)
    rest: dict[str, Any] = {"reduction": reduction, "ignore_index": ignore_index}
    rest |= {"weight": weight, "label_smoothing": as_number(op, "label_smoothing", label_smoothing)}
    chunked = not (probabilities or positions or classes == 0 or input.numel() == 0)
    if not (chunked and target.dtype == torch.int64 and target.shape == input.shape[:-1]):
        flat = linear_weight.reshape(math.prod(positions, start=classes), features)
        logits = linear(input, flat, None if linear_bias is None else linear_bias.reshape(-1))
        return cross_entropy(logits.reshape(logits_shape), target, **rest)
    device = input.device.type
    if device != "meta" and torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            x, w = (v if v.dtype == torch.float64 else v.to(low) for v in (input, linear_weight))
            bias = None if linear_bias is None else linear_bias.to(x.dtype)
            fixed = None if weight is None else weight.float()
            return _chunked(op, x, w, target, bias, {**rest, "weight": fixed}, options, x.dtype != torch.float64)
    return _chunked(op, input, linear_weight, target, linear_bias, rest, options, False)


def _chunked(
    op: str, x: Tensor, w: Tensor, target: Tensor, b: Tensor | None, rest: dict[str, Any], options: Any, wide: bool
) -> Tensor:
    if not x.is_floating_point():
        raise NotImplementedError(f"{op}(): input must be real and floating-point, got {x.dtype}")
    check_same_type(op, x, linear_weight=w, linear_bias=b)
    weight, smoothing, reduction = rest["weight"], rest["label_smoothing"], rest["reduction"]
    if not 0.0 <= smoothing <= 1.0:
        raise RuntimeError(f"{op}(): label_smoothing must be between 0 and 1, got {smoothing}")
    dtype = torch.float32 if wide else x.dtype
    if weight is not None and (tuple(weight.shape) != (w.shape[0],) or weight.dtype != dtype):
        raise RuntimeError(
            f"{op}(): weight must have shape {(w.shape[0],)} and dtype {dtype}, "
            f"got {tuple(weight.shape)} and {weight.dtype}"
        )
    unbatched = x.dim() == 1
    x, target = (x.unsqueeze(0), target.unsqueeze(0)) if unbatched else (x, target)
    rows = chunk_rows(x.shape[0], w.shape[0])
    if options is not None:
        sizes = (*x.shape, w.shape[0], x.dtype, x.device)
        rows = options._adjust(sizes[0], sizes[1], sizes[2], dtype=sizes[3], device=sizes[4]).batch_chunk_size
    fixed = None if weight is None else weight.detach()
    arguments = (x, w, b, target, fixed, rest["ignore_index"], smoothing, reduction, rows, wide)
    loss = autograd.linear_cross_entropy.linear_cross_entropy(*arguments)
    return loss.squeeze(0) if unbatched and reduction == "none" else loss
