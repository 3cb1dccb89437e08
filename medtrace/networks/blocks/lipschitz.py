"""Residual blocks whose residual is a contraction, guaranteed for the convolutions as operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.networks.layers import Conv
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_positive


def convolution_bound(weight: Tensor) -> Tensor:
    """Upper bound of the norm of a zero-padded convolution as an operator on images of any extent.

    Args:
        weight: (out, in, *kernel) of a convolution of stride 1 in 2 or 3 dimensions.

    Returns:
        A scalar c with |w∗x|₂ <= c·|x|₂ for every x on every grid; the exact norm for a kernel of one tap.

    With A the convolution on the unbounded grid, |A|² = |A*A| (or |AA*|, whichever has the fewer channels), a
    convolution with the kernel's autocorrelation G, and the norm of a convolution is at most the sum over taps of the
    spectral norms of its (channel × channel) matrices: |A|² <= Σ_s |G_s|₂. That is never above the square of the same
    sum over the kernel's own taps. Zero padding puts zeros before A and drops values behind it, which only shrinks.
    The spectral norm of the kernel reshaped to a matrix is not a bound: it can be too small by up to the root of the
    number of taps.
    """
    return _squared_bound(weight).sqrt()


def _squared_bound(weight: Tensor) -> Tensor:
    # Half precision has no singular values, and the bound must hold to round-off.
    with torch.autocast(weight.device.type, enabled=False):
        kernel = weight if weight.dtype == torch.float64 else weight.float()
        rows = kernel if kernel.shape[0] <= kernel.shape[1] else kernel.transpose(0, 1)
        convolve = F.conv2d if kernel.ndim == 4 else F.conv3d
        autocorrelation = convolve(rows, rows, padding=[size - 1 for size in kernel.shape[2:]])
        taps = autocorrelation.flatten(2).movedim(2, 0)
        result: Tensor = torch.linalg.matrix_norm(taps, ord=2).sum()
        return result


class LipschitzConvolution(nn.Module):
    """A convolution without bias, its kernel scaled down until the operator's norm is at most `coefficient`.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels it reads.
        out_channels: channels it makes.
        kernel_size: odd, the same on every axis; padding with zeros keeps the grid.
        coefficient: the largest operator norm.
        zero_init: start with a kernel of zeros.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        coefficient: float,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.coefficient = coefficient
        self.convolution = Conv[Conv.CONV, spatial_dims](
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        if zero_init:
            nn.init.zeros_(self.convolution.weight)

    def bounded_weight(self) -> Tensor:
        """The kernel that the convolution applies: the parameter itself where its bound is below `coefficient`."""
        weight = self.convolution.weight
        # The square keeps the gradient finite for a kernel of zeros.
        largest = _squared_bound(weight).clamp_min(self.coefficient**2)
        result: Tensor = weight * (self.coefficient / largest.sqrt())
        return result

    def forward(self, features: Tensor) -> Tensor:
        """Convolve (B, in_channels, *spatial) to (B, out_channels, *spatial)."""
        convolve = F.conv2d if features.ndim == 4 else F.conv3d
        return convolve(features, self.bounded_weight(), padding=self.convolution.padding)

    if TYPE_CHECKING:
        __call__ = forward


class LipschitzResidual(nn.Module):
    """r(x) = s·tanh(C₁(leaky ReLU(C₃(x / s)))) / 2 with Lip(r) <= coefficient² / 2 < 1 and r(0) = 0.

    C₃ is 3-wide, C₁ 1-wide, both `LipschitzConvolution`s, so that x + r(x) is invertible as a map between arrays. C₁
    starts at zero: the untrained block changes nothing.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of x.
        hidden_channels: channels between the convolutions.
        scale: s, the unit of x in which the hyperbolic tangent bends: one block changes a value by less than s / 2.
        coefficient: bound of each convolution's operator norm, in (0, 1).

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self, spatial_dims: int, channels: int, hidden_channels: int, scale: float = 1.0, coefficient: float = 0.97
    ) -> None:
        super().__init__()
        check_positive("hidden_channels", hidden_channels)
        check_positive("scale", scale)
        if not 0 < coefficient < 1:
            raise ValueError(f"coefficient: expected an operator norm in (0, 1), received {coefficient!r}")
        self.scale = scale
        self.spread = LipschitzConvolution(spatial_dims, channels, hidden_channels, 3, coefficient)
        self.gather = LipschitzConvolution(spatial_dims, hidden_channels, channels, 1, coefficient, zero_init=True)

    def forward(self, values: Tensor) -> Tensor:
        """Return r(values), of the shape (B, channels, *spatial) of `values`."""
        hidden = F.leaky_relu(self.spread(values / self.scale), 0.2)
        return torch.tanh(self.gather(hidden)) * (0.5 * self.scale)

    if TYPE_CHECKING:
        __call__ = forward
