"""Losses with margins; each is described at its function in :mod:`torchbp.nn.functional`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import torchbp.nn.functional as F


class MultiMarginLoss(torch.nn.MultiMarginLoss):
    """How far every class comes within a margin of the target's score."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return F.multi_margin_loss(
            input, target, p=self.p, margin=self.margin, weight=self.weight, reduction=self.reduction
        )


class MultiLabelMarginLoss(torch.nn.MultiLabelMarginLoss):
    """How far every other class comes within a margin of the targets' scores."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return F.multilabel_margin_loss(input, target, reduction=self.reduction)


class CosineEmbeddingLoss(torch.nn.CosineEmbeddingLoss):
    """How far the angle between two vectors is from none, or from a margin."""

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        return F.cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(torch.nn.TripletMarginLoss):
    """How far the negative is from being farther than the positive by a margin."""

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss."""
        return F.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )


class TripletMarginWithDistanceLoss(torch.nn.TripletMarginWithDistanceLoss):
    """The same for any distance."""

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss."""
        distance = self.distance_function
        if type(distance) is torch.nn.PairwiseDistance:  # the default
            distance = partial(F.pairwise_distance, p=distance.norm, eps=distance.eps, keepdim=distance.keepdim)
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=distance,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
