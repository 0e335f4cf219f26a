"""Dropout layers; each is described at the function of its name in :mod:`torchbp.nn.functional`."""

from __future__ import annotations

import torch

import torchbp.nn.functional as F
from torchbp.nn.modules._forward import computed_by


class Dropout(torch.nn.Dropout):
    """Zero elements with probability ``p`` in training."""

    forward = computed_by(F.dropout, "p", "training", "inplace")


class Dropout1d(torch.nn.Dropout1d):
    """Zero channels of (N, C, L) with probability ``p`` in training."""

    forward = computed_by(F.dropout1d, "p", "training", "inplace")


class Dropout2d(torch.nn.Dropout2d):
    """Zero channels of (N, C, H, W) with probability ``p`` in training."""

    forward = computed_by(F.dropout2d, "p", "training", "inplace")


class Dropout3d(torch.nn.Dropout3d):
    """Zero channels of (N, C, D, H, W) with probability ``p`` in training."""

    forward = computed_by(F.dropout3d, "p", "training", "inplace")


class AlphaDropout(torch.nn.AlphaDropout):
    """Drop elements with probability ``p`` in training and keep mean and variance."""

    forward = computed_by(F.alpha_dropout, "p", "training")


class FeatureAlphaDropout(torch.nn.FeatureAlphaDropout):
    """Drop channels with probability ``p`` in training and keep mean and variance."""

    forward = computed_by(F.feature_alpha_dropout, "p", "training")
