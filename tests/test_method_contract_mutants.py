"""Methods that break one promise each: the contract refuses every one and says which."""

from dataclasses import replace

import pytest
import torch

from medtrace.methods import method_class
from medtrace.networks.patches import PatchInferer
from medtrace.testing import ContractError, check_method

UNet = method_class("unet")
CycleGAN = method_class("cyclegan")
RegGAN = method_class("reggan")
TraceTrans = method_class("tracetrans")
UNIT = method_class("unit")
VoxelMorph = method_class("voxelmorph")


class IgnoresPatches(UNet):
    """Claims patches and takes everything whole."""

    def predict(self, batch):
        self.inferer = None
        return super().predict(batch)


class OtherInPatches(UNet):
    """Answers otherwise in patches."""

    def predict(self, batch):
        prediction = super().predict(batch)
        shift = 0.1 * isinstance(self.inferer, PatchInferer)
        return prediction._replace(image=prediction.image + shift)


class HidesUnequalChannels(UNet):
    """Declares equal channels and trains on unequal ones."""

    abilities = replace(UNet.abilities, channels="equal")


class ClaimsUnequalChannels(VoxelMorph):
    """Declares unequal channels and cannot."""

    abilities = replace(VoxelMorph.abilities, channels="any")


class BrightensOutsideTheMask(VoxelMorph):
    """Changes intensity where it may not."""

    def answer(self, pair):
        prediction = super().answer(pair)
        return prediction._replace(image=prediction.image + 0.1)


class ForgetsTheMask(VoxelMorph):
    """Takes a mask and gives a trace without one."""

    def answer(self, pair):
        return super().answer(pair)._replace(mask=None)


class TakesAnyMask(RegGAN):
    """Declares no masks and swallows one."""

    def register(self, moving, fixed, mask=None, source_mask=None):
        return super().register(moving, fixed)


class DemandsPairs(CycleGAN):
    """Declares pairs and learns nothing from them."""

    abilities = replace(CycleGAN.abilities, paired=True)


class ForgetsTheInverse(TraceTrans):
    """Gives zero for the inverse."""

    def predict(self, batch):
        prediction = super().predict(batch)
        return prediction._replace(inverse_ddf=torch.zeros_like(prediction.ddf))


class AnotherVelocity(TraceTrans):
    """Gives a velocity that the field is not the exponential of."""

    def predict(self, batch):
        prediction = super().predict(batch)
        return prediction._replace(velocity=3 * prediction.velocity)


class StartsMoved(TraceTrans):
    """Declares that it starts at the identity and starts half a voxel off."""

    def predict(self, batch):
        prediction = super().predict(batch)
        return prediction._replace(ddf=prediction.ddf + 0.5, inverse_ddf=None, velocity=None)


class ClaimsToMove(UNet):
    """Declares a displacement and never gives one."""

    abilities = replace(UNet.abilities, moves=True)


class KeepsWeightsApart(UNet):
    """Has a number that no file of weights holds."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.shift = float(torch.rand(()))

    def predict(self, batch):
        prediction = super().predict(batch)
        return prediction._replace(image=prediction.image + self.shift)


class ManyOut(UNet):
    """Whose bundle's network gives two tensors."""

    def io_network(self):
        class Twice(torch.nn.Module):
            def forward(self, image):
                return image, image

        return Twice()


class ForgetsOnResuming(UNet):
    """Whose loss depends on how many steps this process has made."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.steps = 0

    def regression_terms(self, phase, batch, context):
        self.steps += 1
        terms = super().regression_terms(phase, batch, context)
        return {name: value / self.steps + value.square() for name, value in terms.items()}


class ClaimsThreeDimensions(UNIT):
    """Declares three dimensions, in which its networks do not exist."""

    abilities = replace(UNIT.abilities, spatial_dims=(2, 3))

    @classmethod
    def from_settings(cls, settings):
        if settings.spatial_dims == 3:
            raise ValueError("spatial_dims: expected 2, received 3")
        return super().from_settings(settings)


QUICK = [
    (IgnoresPatches, "several patches"),
    (OtherInPatches, "of one patch"),
    (BrightensOutsideTheMask, "outside the mask"),
    (ForgetsTheMask, "register with a mask"),
    (TakesAnyMask, "a mask: expected TypeError"),
    (DemandsPairs, "declare paired=False"),
    (ForgetsTheInverse, "inverse_ddf: expected less than half"),
    (AnotherVelocity, "exponential of the velocity"),
    (StartsMoved, "identity_start"),
    (ClaimsToMove, "abilities.moves"),
    (KeepsWeightsApart, "after safetensors"),
    (ManyOut, "one tensor out"),
]
FULL = [
    (HidesUnequalChannels, "'equal': expected ValueError"),
    (ClaimsUnequalChannels, "'any': expected a step"),
    (ForgetsOnResuming, "stopped and resumed"),
]


def named(value):
    return value.__name__ if isinstance(value, type) else ""


@pytest.mark.parametrize(("kind", "message"), QUICK, ids=named)
def test_the_quick_level_refuses(kind, message):
    with pytest.raises(ContractError, match=message):
        check_method(kind)


@pytest.mark.parametrize(("kind", "message"), FULL, ids=named)
def test_the_full_level_refuses_what_the_quick_one_does_not_try(kind, message, monkeypatch):
    check_method(kind)
    monkeypatch.setattr(kind, "abilities", replace(kind.abilities, spatial_dims=(2,)))
    with pytest.raises(ContractError, match=message):
        check_method(kind, "full")


@pytest.mark.slow
def test_three_dimensions_that_are_only_declared_are_refused():
    with pytest.raises(ValueError, match="spatial_dims"):
        check_method(ClaimsThreeDimensions, "full")


def test_undeclared_dimensions_are_refused_before_anything_is_built():
    unit = method_class("unit")
    kind = type("Flat", (unit,), {"abilities": replace(unit.abilities, spatial_dims=(2,))})
    settings = kind.settings_type(spatial_dims=3)
    with pytest.raises(ValueError, match="spatial_dims: UNIT expected 2, received 3"):
        kind.build(settings)


def test_another_level_is_refused():
    with pytest.raises(ValueError, match="level: expected quick or full, received 'slow'"):
        check_method(UNet, "slow")
