"""Losses with a linear layer of their own: its logits are never held all at once, or never computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import torchbp.nn.functional as F
from torchbp.autograd.adjoint import LinearMap, linear_map


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
    """Cross-entropy of a linear layer's output; see :func:`torchbp.nn.functional.linear_cross_entropy`."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )


class _Rows(LinearMap):
    """The rows of x at given places; the adjoint puts rows back among ``count`` of zeros."""

    def __init__(self, count: int) -> None:
        self.count = count

    def forward(self, x: Tensor, *fixed: Tensor) -> Tensor:
        return x.index_select(0, fixed[0])

    def adjoint(self, g: Tensor, *fixed: Tensor) -> Tensor:
        return g.new_zeros(self.count, *g.shape[1:]).index_add(0, fixed[0], g)


class AdaptiveLogSoftmaxWithLoss(torch.nn.AdaptiveLogSoftmaxWithLoss):
    """Softmax over a head of frequent classes and clusters of rare ones, of which only those needed are computed.

    Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs" (2017).
    """

    def _logits(self, layer: Any, x: Tensor) -> Tensor:
        layers: Any = layer if isinstance(layer, nn.Sequential) else (layer,)
        for linear in layers:
            x = F.linear(x, linear.weight, linear.bias)
        return x

    def forward(self, input_: Tensor, target_: Tensor) -> Any:
        """Return the log-probabilities of the targets, (N) or (), and the mean of their negatives.

        Raises:
            RuntimeError: if the shapes do not fit or a target is not a class.
        """
        name = type(self).__name__
        if target_.dim() > 1 or input_.dim() != target_.dim() + 1 or input_.shape[:-1] != target_.shape:
            raise RuntimeError(
                f"{name}: input and target must have shapes (N, in_features) and (N), or (in_features) and (), "
                f"got {tuple(input_.shape)} and {tuple(target_.shape)}"
            )
        batched = target_.dim() > 0
        x, target = (input_, target_) if batched else (input_.unsqueeze(0), target_.unsqueeze(0))
        if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < self.n_classes:
            raise RuntimeError(
                f"{name}: target must be from 0 to {self.n_classes - 1}, got {int(target.min())} to {int(target.max())}"
            )
        count = target.shape[0]
        in_head = target
        losses = x.new_zeros(count)
        for i, layer in enumerate(self.tail):
            low, high = self.cutoffs[i], self.cutoffs[i + 1]
            inside = (target >= low) & (target < high)
            rows = inside.nonzero().squeeze(1)
            if rows.numel() == 0:
                continue
            chosen = linear_map(_Rows(count), x, rows)
            loss = F.cross_entropy(self._logits(layer, chosen), target[rows] - low, reduction="none")
            losses = losses + linear_map(_Rows(count).transposed, loss, rows)
            in_head = torch.where(inside, self.shortlist_size + i, in_head)
        losses = losses + F.cross_entropy(self._logits(self.head, x), in_head, reduction="none")
        output = -losses.to(x.dtype)
        return nn.modules.adaptive._ASMoutput(output if batched else output.squeeze(0), -output.mean())

    def log_prob(self, input: Tensor) -> Tensor:
        """Return the log-probabilities of all classes, (N, n_classes)."""
        return self._get_full_log_prob(input, self._logits(self.head, input))

    def _get_full_log_prob(self, input: Tensor, head_output: Tensor) -> Tensor:
        head = F.log_softmax(head_output, 1)
        parts = [head[:, : self.shortlist_size]]
        for i, layer in enumerate(self.tail):
            cluster = head[:, self.shortlist_size + i].unsqueeze(1)
            parts.append(F.log_softmax(self._logits(layer, input), 1) + cluster)
        return torch.cat(parts, 1)
