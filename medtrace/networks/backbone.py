"""Common parts of the unpaired translators: images of two domains, their codes, and a discriminator per domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from medtrace.networks.blocks.padding import crop

Domain = Literal["source", "target"]


def other(domain: Domain) -> Domain:
    """The domain that `domain` is translated to."""
    return "target" if domain == "source" else "source"


class Code(NamedTuple):
    """A backbone's encoding of an image."""

    content: Tensor
    """(B, C, *coarse) what both domains share; for a backbone without encoders the image itself."""
    style: Tensor | None = None
    """(B, S) the domain-specific part; None if a backbone does not separate the two."""
    shape: tuple[int, ...] | None = None
    """Grid of the image, for a backbone that pads it; None where the content alone decides."""

    def cropped(self, decoded: Tensor) -> Tensor:
        """Crop the center of an image (B, C, *padded) to the grid `shape`, as `pad_to_multiple` padded it."""
        if self.shape is None:
            return decoded
        starts = [(padded - extent) // 2 for padded, extent in zip(decoded.shape[2:], self.shape)]
        return crop(decoded, starts, self.shape)


class TranslationBackbone(nn.Module):
    """A translator between the domains "source" and "target" that a training may correct by registration.

    An image is encoded in its own domain and decoded in either one: `decode(encode(x, "source"), "target")`
    translates, `decode(encode(y, "target"), "target")` reconstructs. A subclass fills the three dictionaries of
    networks by domain and implements `encode`, `decode` and, where it has them, `drawn`, `prior` and `latent_cycle`.

    Attributes:
        bidirectional: whether "target" can be translated to "source" too, which cycle consistency needs. If not, there
            is neither a decoder nor a discriminator of the domain "source".
        encoders, decoders: by domain; one phase updates them together.
        discriminators: by domain; the other phase updates them. `discriminators[domain](seen)` returns a list of raw
            logits, one entry per scale.
        in_channels, out_channels: channels of the source and of the target.
        conditional: whether the discriminators see the image that the assessed one was made from, as in Pix2Pix.
        stride: images are padded to multiples of it.
        internal_weights: the published weights of the backbone's own terms: "reconstruction" (L1 of an image coded and
            decoded within its domain), "prior" (`prior`) and "latent_cycle" (`latent_cycle`, with a cycle only).

    Example:
        >>> import torch
        >>> from medtrace.networks import translation_backbone
        >>> options = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4}
        >>> backbone = translation_backbone("cyclegan", 2, 1, 1, bidirectional=True, options=options)
        >>> code = backbone.encode(torch.zeros(1, 1, 16, 16), "target")
        >>> backbone.decode(code, "source").shape
        torch.Size([1, 1, 16, 16])
    """

    internal_weights: ClassVar[Mapping[str, float]] = {}
    conditional: bool = False
    stride: int = 1

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int, bidirectional: bool) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.bidirectional = bidirectional
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        self.discriminators = nn.ModuleDict()

    @property
    def decoded_domains(self) -> tuple[Domain, ...]:
        """The domains that have a decoder and a discriminator."""
        return ("target", "source") if self.bidirectional else ("target",)

    def channels_of(self, domain: Domain) -> int:
        """Channels of an image of `domain`."""
        return self.in_channels if domain == "source" else self.out_channels

    def encode(self, image: Tensor, domain: Domain) -> Code:
        """Code an image (B, C, *spatial) of `domain`, in [-1, 1]."""
        raise NotImplementedError

    def decode(self, code: Code, domain: Domain) -> Tensor:
        """Make an image (B, C, *spatial) of `domain`, in [-1, 1], from a code; without a style, the prior's mean."""
        raise NotImplementedError

    def drawn(self, code: Code) -> Code:
        """The code that a training decodes in the other domain: its style, if there is one, drawn from the prior."""
        return code

    def prior(self, code: Code) -> Tensor:
        """Distance of a code from its prior, a scalar; the backbones without a prior have none."""
        raise TypeError(f"{type(self).__name__}: has no prior on its codes; give the term weight 0")

    def latent_cycle(self, code: Code, again: Code) -> Tensor:
        """Distance between a code and the code of the image decoded from it, a scalar."""
        raise TypeError(f"{type(self).__name__}: has no latent cycle; give the term weight 0")

    def discriminate(self, seen: Tensor, domain: Domain) -> list[Tensor]:
        """Raw logits, one entry per scale, of an image of `domain` (B, C, *spatial).

        A `conditional` backbone also gets the image that it was made from, concatenated before it along the channels.
        """
        result: list[Tensor] = self.discriminators[domain](seen)
        return result

    def translate(self, image: Tensor, domain: Domain = "source") -> Tensor:
        """Translate an image of `domain` to the other; the same image gives the same output."""
        return self.decode(self.encode(image, domain)._replace(style=None), other(domain))

    def forward(self, source: Tensor) -> Tensor:
        """Translate sources (B, in_channels, *spatial) in [-1, 1] to targets (B, out_channels, *spatial)."""
        return self.translate(source)

    if TYPE_CHECKING:
        __call__ = forward
