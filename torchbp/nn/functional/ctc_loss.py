"""Connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchbp import autograd
from torchbp.nn.functional._arguments import as_int, autocast_to, check_flag, check_tensors
from torchbp.nn.functional.pointwise_loss import reduced, reduction_of

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _known(*tensors: Tensor) -> bool:
    """Tell whether values can be looked at: not while compiling, nor under vmap."""
    return not torch.compiler.is_compiling() and not any(torch._C._functorch.is_batchedtensor(t) for t in tensors)


def _lengths(op: str, name: str, given: Tensor | Sequence[int], samples: int, device: torch.device) -> Tensor:
    if isinstance(given, Tensor):
        if given.dtype not in _INTEGERS:
            raise RuntimeError(f"{op}(): {name} must hold integers, got {given.dtype}")
        found = given.to(device=device, dtype=torch.int64)
    elif isinstance(given, tuple | list):
        found = torch.tensor([as_int(op, name, v) for v in given], dtype=torch.int64, device=device)
    else:
        raise TypeError(f"{op}(): {name} must be a Tensor or a tuple of ints, got {type(given).__name__}")
    found = found.reshape(-1) if found.dim() == 0 else found
    if tuple(found.shape) != (samples,):
        raise RuntimeError(f"{op}(): {name} must have one length per sequence, {(samples,)}, got {tuple(found.shape)}")
    return found


def _check_values(op: str, name: str, values: Tensor, low: int, high: int) -> None:
    if not values.numel():
        return
    for value in (int(values.min()), int(values.max())):
        if not low <= value <= high:
            raise RuntimeError(f"{op}(): {name} must be from {low} to {high}, got {value}")


def _padded(op: str, targets: Tensor, lengths: Tensor) -> Tensor:
    """Return concatenated targets as (N, longest)."""
    if _known(lengths):
        total, longest = int(lengths.sum()), int(lengths.max()) if lengths.numel() else 0
        if targets.shape[0] != total:
            raise RuntimeError(
                f"{op}(): targets must hold as many labels as target_lengths say, {total}, got {targets.shape[0]}"
            )
    else:
        longest = targets.shape[0]
    if targets.shape[0] == 0:
        return targets.new_zeros(lengths.shape[0], 0)
    first = lengths.cumsum(0) - lengths
    place = first.unsqueeze(1) + torch.arange(longest, device=targets.device)
    return targets[place.clamp(max=targets.shape[0] - 1)]


@autocast_to("float32", on="cpu")
def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return -log of the probability that log_probs give to the targets, whatever the alignment; reduced.

    Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification" (2006). ``"mean"`` divides every
    loss by the length of its target first. The gradient is the derivative by log_probs; the built-in's is that only
    behind log_softmax.

    Shapes: log_probs (T, N, C) or (T, C); targets (N, S), or (S) of all labels one after the other; lengths (N);
    losses (N), or () for (T, C).

    Args:
        log_probs: logarithms of probabilities.
        targets: classes, without blanks.
        input_lengths: how many steps of each sequence count.
        target_lengths: how many labels each sequence has.
        blank: the class that stands for no label.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        zero_infinity: whether a target that is too long for its input has loss and gradient zero.

    Raises:
        ValueError: if ``reduction`` is unknown.
        RuntimeError: if a shape, dtype, length, label or ``blank`` does not fit.
        NotImplementedError: if log_probs is neither float32 nor float64.
    """
    op = "ctc_loss"
    check_tensors(op, log_probs=log_probs, targets=targets)
    check_flag(op, "zero_infinity", zero_infinity)
    reduction = reduction_of(op, None, None, reduction)
    blank = as_int(op, "blank", blank)
    if log_probs.dim() not in (2, 3) or log_probs.numel() == 0:
        raise RuntimeError(
            f"{op}(): log_probs must have shape (T, N, C) or (T, C), none of them 0, got {tuple(log_probs.shape)}"
        )
    if log_probs.dtype not in (torch.float32, torch.float64):
        raise NotImplementedError(f"{op}(): log_probs must be float32 or float64, got {log_probs.dtype}")
    unbatched = log_probs.dim() == 2
    x = log_probs.unsqueeze(1) if unbatched else log_probs
    steps, samples, classes = x.shape
    if not 0 <= blank < classes:
        raise RuntimeError(f"{op}(): blank must be from 0 to {classes - 1}, got {blank}")
    if type(input_lengths) is not type(target_lengths) and Tensor in (type(input_lengths), type(target_lengths)):
        raise TypeError(
            f"{op}(): input_lengths and target_lengths must both be Tensors or both tuples, got "
            f"{type(input_lengths).__name__} and {type(target_lengths).__name__}"
        )
    input_lengths = _lengths(op, "input_lengths", input_lengths, samples, x.device)
    target_lengths = _lengths(op, "target_lengths", target_lengths, samples, x.device)
    if targets.is_complex() or targets.dim() not in (1, 2):
        raise RuntimeError(
            f"{op}(): targets must hold classes, (N, S) or (S), got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    if targets.dim() == 2 and targets.shape[0] != samples:
        raise RuntimeError(f"{op}(): targets must have {samples} rows, got shape {tuple(targets.shape)}")
    if _known(input_lengths, target_lengths):
        _check_values(op, "input_lengths", input_lengths, 0, steps)
        _check_values(op, "target_lengths", target_lengths, 0, targets.shape[-1])
    labels = targets.to(device=x.device, dtype=torch.int64)
    labels = _padded(op, labels, target_lengths) if labels.dim() == 1 else labels
    if _known(labels, target_lengths):
        within = torch.arange(labels.shape[1], device=x.device) < target_lengths.unsqueeze(1)
        _check_values(op, "targets", labels[within], 0, classes - 1)
        labels = torch.where(within, labels, 0) if not bool(within.all()) else labels
    loss = autograd.ctc_loss.ctc_loss(x, labels, input_lengths, target_lengths, blank, zero_infinity)
    if reduction == "mean":
        loss = loss / target_lengths.clamp(min=1).to(loss.dtype)
    return loss.squeeze(0) if unbatched and reduction == "none" else reduced(loss, reduction)
