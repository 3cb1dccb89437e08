"""A learned intensity curve of an image's isotropic features, which can change intensities and displace nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.networks.layers import gaussian_1d
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn import functional

from medtrace.checks import check_network_input, check_positive, check_spatial_dims

SIGMAS = (0.6, 1.0, 1.7)
"""Standard deviations of the Gaussians, in voxels."""
WINDOW = 1
"""Index of the Gaussian about which, and in which, the local variance is taken."""
VARIANCE_SCALE = 20.0
"""Of the variance of [-1, 1] images, whose noise is some hundredths, to the size of the other features."""


class IsotropicCurve(nn.Module):
    """Map an image's intensities by a small network that sees each voxel's isotropic surroundings alone.

    Features of a voxel: its intensity, three Gaussian means about it, and the variance about one of them. All are
    symmetric about the voxel and the same in all directions, so that a 1×1 network of them commutes with every
    rotation and reflection of the grid: it can denoise, blur, and change contrast, also by texture, and it cannot move
    an edge to one side. It starts at the narrowest mean.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: channels of the result; where it differs, the curve starts at the mean over channels.
        hidden: channels of the two hidden layers.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> curve = IsotropicCurve(2, 1, 1)
        >>> image = torch.rand(1, 1, 12, 12) * 2 - 1
        >>> turned = curve(image.rot90(dims=(2, 3)))
        >>> bool(torch.allclose(turned, curve(image).rot90(dims=(2, 3)), atol=1e-5))
        True
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, hidden: int = 16) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels), ("hidden", hidden)):
            check_positive(name, value)
        self.spatial_dims, self.in_channels, self.out_channels = spatial_dims, in_channels, out_channels
        for number, sigma in enumerate(SIGMAS):
            # Also where a network is built without memory, on the device "meta", to learn its size.
            kernel = gaussian_1d(torch.tensor(sigma, device="cpu"), truncated=3.0)
            self.register_buffer(f"kernel_{number}", kernel / kernel.sum(), persistent=False)
        convolution = Conv[Conv.CONV, spatial_dims]
        features = (2 + len(SIGMAS)) * in_channels
        last = convolution(hidden, out_channels, kernel_size=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(
            convolution(features, hidden, kernel_size=1),
            nn.SiLU(),
            convolution(hidden, hidden, kernel_size=1),
            nn.SiLU(),
            last,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, in_channels, *spatial) in [-1, 1] to (B, out_channels, *spatial), not bounded; float32."""
        check_network_input("image", image, self.spatial_dims, self.in_channels)
        with torch.autocast(image.device.type, enabled=False):
            image = image.float()
            means = [self._smoothed(image, number) for number in range(len(SIGMAS))]
            variance = self._smoothed((image - means[WINDOW]).square(), WINDOW)
            result: Tensor = self.network(torch.cat([image, *means, VARIANCE_SCALE * variance], dim=1))
        base = means[0]
        if self.in_channels != self.out_channels:
            base = base.mean(1, keepdim=True)
        return base + result

    if TYPE_CHECKING:
        __call__ = forward

    def _smoothed(self, image: Tensor, number: int) -> Tensor:
        """A Gaussian mean; beyond the border the border's value continues."""
        kernel = getattr(self, f"kernel_{number}")
        convolve = functional.conv2d if self.spatial_dims == 2 else functional.conv3d
        reach, channels = len(kernel) // 2, self.in_channels
        for axis in range(self.spatial_dims):
            pads = [reach * (other == axis) for other in reversed(range(self.spatial_dims)) for _ in range(2)]
            sizes = [len(kernel) if other == axis else 1 for other in range(self.spatial_dims)]
            # One filter per channel, of a known size, as graph exporters require.
            filters = kernel.reshape(1, 1, *sizes).expand(channels, 1, *sizes)
            image = convolve(functional.pad(image, pads, mode="replicate"), filters, groups=channels)
        return image
