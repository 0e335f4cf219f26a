"""Losses; each is described at its function in :mod:`torchbp.nn.functional`."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class NLLLoss(torch.nn.NLLLoss):
    """Negative log-likelihood of class indices."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Cross-entropy of softmax(x) with class indices or probabilities."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
