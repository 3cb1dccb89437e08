"""A registration network of one input and one output, as the checks of MONAI bundles expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from medtrace.checks import check_batched
from medtrace.networks.output_field import OutputField


class StackedPair(nn.Module):
    """Run a registration network on source and target that are stacked as channels, and give one field of its answer.

    Args:
        network: takes source and target, returns a `NamedTuple`.
        field: the field's name, such as "warped".

    Example:
        >>> import torch
        >>> from medtrace.networks import DiffeomorphicVoxelMorph
        >>> network = StackedPair(DiffeomorphicVoxelMorph(2, 1, channels=(4, 8), final_channels=(4,)))
        >>> network(torch.zeros(1, 2, 16, 16)).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(self, network: nn.Module, field: str = "warped") -> None:
        super().__init__()
        self.network = OutputField(network, field)

    def forward(self, pair: Tensor) -> Tensor:
        """Register (B, 2·C, *spatial), the source's channels first.

        Raises:
            TypeError: if it is not a floating tensor.
            ValueError: if the number of channels is odd, or the network's output has no such field.
        """
        check_batched("pair", pair)
        if pair.shape[1] % 2:
            raise ValueError(
                f"pair: expected an even number of channels, the source's and the target's, received {pair.shape[1]}"
            )
        source, target = pair.chunk(2, dim=1)
        return self.network(source, target)

    if TYPE_CHECKING:
        __call__ = forward
