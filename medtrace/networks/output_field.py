"""A network of one output, as MONAI's inferers and bundle checks expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn


class OutputField(nn.Module):
    """Give one field of the `NamedTuple` that a network returns.

    Args:
        network: returns a `NamedTuple`.
        field: the field's name, such as "image".

    Example:
        >>> import torch
        >>> from medtrace.networks import TraceTrans
        >>> OutputField(TraceTrans(2, 1, 1, channels=(4, 8)), "ddf")(torch.zeros(1, 1, 16, 16)).shape
        torch.Size([1, 2, 16, 16])
    """

    def __init__(self, network: nn.Module, field: str = "image") -> None:
        super().__init__()
        self.network = network
        self.field = field

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the network and return the field.

        Raises:
            ValueError: if the network's output has no such field.
        """
        output = self.network(*args, **kwargs)
        if not hasattr(output, "_fields") or self.field not in output._fields:
            fields = getattr(output, "_fields", ())
            raise ValueError(f"field: expected one of {list(fields)}, received {self.field!r}")
        result: Tensor = getattr(output, self.field)
        return result

    if TYPE_CHECKING:
        __call__ = forward
