"""Connectionist temporal classification; see :func:`torchbp.nn.functional.ctc_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

import torchbp.nn.functional as F


class CTCLoss(torch.nn.CTCLoss):
    """Negative log-likelihood of labellings, whatever their alignment."""

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """Return the loss."""
        return F.ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            blank=self.blank,
            reduction=self.reduction,
            zero_infinity=self.zero_infinity,
        )
