"""Parts that the published networks share."""

from medtrace.networks.blocks.discriminator import ConditionalPatchDiscriminator, ImagePatchDiscriminator
from medtrace.networks.blocks.padding import pad_to_multiple
from medtrace.networks.blocks.unet import INSTANCE_NORM, Decoder, Encoder

__all__ = [
    "INSTANCE_NORM",
    "ConditionalPatchDiscriminator",
    "Decoder",
    "Encoder",
    "ImagePatchDiscriminator",
    "pad_to_multiple",
]
