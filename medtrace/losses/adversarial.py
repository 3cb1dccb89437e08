"""Adversarial terms: least squares, and the logarithmic ones of the first GAN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from medtrace.checks import check_choice

ADVERSARIAL_LOSSES = ("least_squares", "log")


def _check_logits(name: str, logits: Any) -> Tensor:
    if not isinstance(logits, Tensor):
        hint = "; PatchDiscriminator returns all its features: pass its last output, [-1]"
        raise TypeError(
            f"{name}: expected one tensor of logits, received {type(logits).__name__}"
            f"{hint if isinstance(logits, (list, tuple)) else ''}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"{name}: expected floating-point logits, received {logits.dtype}")
    if logits.numel() == 0:
        raise ValueError(f"{name}: expected at least one logit, received shape {tuple(logits.shape)}")
    return logits if logits.dtype == torch.float64 else logits.float()


def least_squares_adversarial(logits: Tensor, real: bool) -> Tensor:
    """Mean squared distance of a discriminator's logits from 1 (`real`) or 0 (TraceTrans, Eq. 10).

    No activation is applied: the logits are the output of the discriminator's last convolution.

    Args:
        logits: any shape, for instance a patch map (B, 1, H, W).
        real: whether the logits should be 1; a generator's loss takes its own images with `real=True`.

    Returns:
        A scalar >= 0, float32 also under autocast.

    Raises:
        TypeError: if `logits` is not one tensor of floating numbers (MONAI's discriminators return a list: pass [-1]).
        ValueError: if `logits` is empty.

    Example:
        >>> float(least_squares_adversarial(torch.full((1, 1, 2, 2), 0.5), real=False))
        0.25
    """
    values = _check_logits("logits", logits)
    return (values - 1).square().mean() if real else values.square().mean()


def least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """½ (mean (D(real) − 1)² + mean D(fake)²) (TraceTrans, Eq. 11).

    Args:
        real_logits: the discriminator's logits of true images.
        fake_logits: its logits of generated images, detached from the generator.

    Returns:
        A scalar >= 0.

    Example:
        >>> float(least_squares_discriminator(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)))
        0.0
    """
    real = least_squares_adversarial(_check_logits("real_logits", real_logits), True)
    return 0.5 * (real + least_squares_adversarial(_check_logits("fake_logits", fake_logits), False))


class LeastSquaresAdversarialLoss(_Loss):
    """`least_squares_adversarial` as a module.

    Example:
        >>> float(LeastSquaresAdversarialLoss()(torch.full((1, 1, 2, 2), 0.5), real=True))
        0.25
    """

    def __init__(self) -> None:
        super().__init__(reduction="mean")

    def forward(self, logits: Tensor, real: bool) -> Tensor:
        """Mean squared distance of the logits from 1 (`real`) or 0."""
        return least_squares_adversarial(logits, real)

    if TYPE_CHECKING:
        __call__ = forward


def log_adversarial(logits: Tensor, real: bool) -> Tensor:
    """−log σ(logits) (`real`) or −log(1 − σ(logits)), averaged: the non-saturating form of RegGAN, Eq. 1.

    Args:
        logits: any shape, before the sigmoid.
        real: whether the logits should be high; a generator's loss takes its own images with `real=True`.

    Returns:
        A scalar >= 0, float32 also under autocast.

    Raises:
        TypeError, ValueError: as `least_squares_adversarial`.

    Example:
        >>> round(float(log_adversarial(torch.zeros(1, 1, 2, 2), real=True)), 4)  # log 2
        0.6931
    """
    values = _check_logits("logits", logits)
    return F.softplus(-values if real else values).mean()


def adversarial(logits: Sequence[Tensor], loss: str = "least_squares") -> Tensor:
    """A generator's adversarial term: the mean over a discriminator's scales.

    Args:
        logits: raw logits of the generated images, one tensor per scale.
        loss: "least_squares" or "log".

    Returns:
        A scalar >= 0.

    Raises:
        TypeError: if `logits` is not a list.
        ValueError: if it is empty, or `loss` is unknown.

    Example:
        >>> float(adversarial([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 1, 1)]))  # one map per scale
        0.5
    """
    _check_scales("logits", logits)
    return torch.stack([_term(loss)(scale, real=True) for scale in logits]).mean()


def adversarial_discriminator(
    real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor], loss: str = "least_squares"
) -> Tensor:
    """A discriminator's term: half the sum over true and generated images, averaged over its scales.

    Args:
        real_logits: raw logits of true images, one tensor per scale.
        fake_logits: raw logits of generated images, detached from the generator.
        loss: "least_squares" or "log".

    Returns:
        A scalar >= 0.

    Raises:
        TypeError: if either is not a list.
        ValueError: if they are empty or of unequal length, or `loss` is unknown.

    Example:
        >>> real, fake = [torch.ones(1, 1, 2, 2)], [torch.full((1, 1, 2, 2), 0.5)]
        >>> float(adversarial_discriminator(real, fake))
        0.125
    """
    _check_scales("real_logits", real_logits)
    _check_scales("fake_logits", fake_logits)
    if len(real_logits) != len(fake_logits):
        raise ValueError(
            f"fake_logits: expected as many scales as real_logits, {len(real_logits)}, received {len(fake_logits)};"
            " pass all that one discriminator returns"
        )
    term = _term(loss)
    halves = [0.5 * (term(real, real=True) + term(fake, real=False)) for real, fake in zip(real_logits, fake_logits)]
    return torch.stack(halves).mean()


def _check_scales(name: str, logits: Any) -> None:
    if not isinstance(logits, (list, tuple)):
        raise TypeError(
            f"{name}: expected a list of logits, one tensor per scale, received {type(logits).__name__}; wrap a single"
            " one, [logits]"
        )
    if not logits:
        raise ValueError(f"{name}: expected at least one scale, received none")


def _term(loss: str) -> Any:
    check_choice("loss", loss, ADVERSARIAL_LOSSES)
    return least_squares_adversarial if loss == "least_squares" else log_adversarial
