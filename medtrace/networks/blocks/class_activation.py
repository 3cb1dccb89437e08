"""Residual class-activation attention: the channels that a small classifier finds telling are turned up."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from medtrace.checks import check_positive


class ClassActivationAttention(nn.Module):
    """Classify pooled features, and add the features weighted by the classifier to themselves.

    The classifier is linear without a bias, on the mean and the maximum of every channel:
    logit = w_mean · mean(z) + w_max · max(z), so its weights say how much a channel supports the class (class
    activation mapping, Zhou et al. 2016; both poolings as in U-GAT-IT, Kim et al. 2020). The attention is residual,
    leaky(z + γ · A[w_mean ⊙ z, w_max ⊙ z]) with a 1-wide convolution A from twice the channels back (NICE-GAN, Section
    3.2); the trainable γ starts at 0, without attention.

    The classifier's weights have a spectral norm of one. The authors' code weights the features with them before
    they are normalized, which differs by one factor that γ carries as well.

    Args:
        channels: channels of the features.
        negative_slope: slope of the leaky ReLU at the end.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if there are no channels.
    """

    def __init__(self, channels: int, negative_slope: float = 0.2, spatial_dims: int = 2) -> None:
        super().__init__()
        check_positive("channels", channels)
        self.negative_slope = negative_slope
        self.classifier = spectral_norm(nn.Linear(2 * channels, 1, bias=False))
        self.mixing = Conv[Conv.CONV, spatial_dims](2 * channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to features (B, channels, *spatial).

        Returns:
            The attended features (B, channels, *spatial), and the classifier's raw logits (B, 1, 1, ...).
        """
        weight = cast(Tensor, self.classifier.weight)
        each = (1, -1, *[1] * (features.ndim - 2))
        pooled = torch.cat([features.flatten(2).mean(2), features.flatten(2).amax(2)], dim=1)
        logits = F.linear(pooled, weight)
        weighted = torch.cat([features, features], dim=1) * weight.view(each)
        attended = F.leaky_relu(features + self.gamma * self.mixing(weighted), self.negative_slope)
        return attended, logits.view(-1, 1, *each[2:])

    if TYPE_CHECKING:
        __call__ = forward
