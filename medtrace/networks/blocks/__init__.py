"""Parts that the published networks share."""

from medtrace.networks.blocks.adaptive_norm import AdaptiveResidualBlock, adaptive_instance_norm
from medtrace.networks.blocks.discriminator import ConditionalPatchDiscriminator, ImagePatchDiscriminator
from medtrace.networks.blocks.lipschitz import LipschitzConvolution, LipschitzResidual, convolution_bound
from medtrace.networks.blocks.multiscale_discriminator import MultiscaleDiscriminator
from medtrace.networks.blocks.padding import pad_to_multiple
from medtrace.networks.blocks.residual import DownsamplingEncoder, ResidualBlock, UpsamplingDecoder
from medtrace.networks.blocks.unet import INSTANCE_NORM, Decoder, Encoder

__all__ = [
    "INSTANCE_NORM",
    "AdaptiveResidualBlock",
    "ConditionalPatchDiscriminator",
    "Decoder",
    "DownsamplingEncoder",
    "Encoder",
    "ImagePatchDiscriminator",
    "LipschitzConvolution",
    "LipschitzResidual",
    "MultiscaleDiscriminator",
    "ResidualBlock",
    "UpsamplingDecoder",
    "adaptive_instance_norm",
    "convolution_bound",
    "pad_to_multiple",
]
