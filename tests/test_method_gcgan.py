"""GcGAN: its motions, and what the geometry term says of generators that commute with them."""

import pytest
import torch
from torch import nn

from medtrace.fields import identity_grid
from medtrace.methods import method_class, resolve
from medtrace.methods.gcgan.motion import flip, quarter_turn, random_deformation
from medtrace.networks.gcgan import GcGAN

GcGANMethod = method_class("gcgan")
SMALL = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1}


def images(*shape):
    coarse = torch.rand(2, 1, *(4 for _ in shape), generator=torch.Generator().manual_seed(0))
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True) * 2 - 1


def terms_with(generator, **options):
    torch.manual_seed(0)
    method = GcGANMethod(GcGAN(2, 1, 1, **SMALL), **options)
    method.networks.generator = generator
    batch = {"source": images(24, 32), "target": -images(24, 32)}
    return method.generator_terms(method.phase("generator"), batch, {})


class Inversion(nn.Module):
    """A function of each voxel's own intensity."""

    def forward(self, image):
        return -image


class Ramp(nn.Module):
    """Adds what depends on the place."""

    def forward(self, image):
        return image + torch.linspace(0, 1, image.shape[-1])


@pytest.mark.parametrize("shape", [(6, 8), (4, 6, 5)])
def test_a_turn_and_a_flip_undo_themselves(shape):
    image = torch.rand(1, 2, *shape)
    for motion in (quarter_turn(), flip()):
        assert torch.equal(motion.inverse(motion.forward(image)), image)
        assert not torch.equal(motion.forward(image).flatten(), image.flatten())
    turned = quarter_turn().forward(image)
    assert torch.equal(turned[:, :, 0, 0], image[:, :, 0, -1])
    assert torch.equal(flip().forward(image)[:, :, :, 0], image[:, :, :, -1])


@pytest.mark.parametrize("shape", [(24, 32), (16, 12, 16)])
def test_a_deformation_moves_and_its_inverse_brings_back(shape):
    torch.manual_seed(1)
    places = identity_grid(shape).expand(2, -1, *shape)  # between its voxels an image of them is exact
    motion = random_deformation(places, voxels=1.0, spacing=8.0)
    moved = motion.forward(places)
    inside = (..., *(slice(4, -4) for _ in shape))
    length = (moved - places)[inside].abs().mean()
    assert 0.2 < length < 2
    assert (motion.inverse(moved) - places)[inside].abs().mean() < 0.15 * length
    assert not torch.equal(moved[0], moved[1])


@pytest.mark.parametrize("motion", ["quarter_turn", "flip"])
def test_a_change_of_contrast_commutes_and_a_change_by_place_does_not(motion):
    assert float(terms_with(Inversion(), motion=motion)["geometry"]) == 0
    apart = float(terms_with(Ramp(), motion=motion)["geometry"])
    if motion == "flip":  # along the axis of 32 rows x 32 columns: |ramp - flipped ramp|, twice
        ramp = torch.linspace(0, 1, 32)
        assert apart == pytest.approx(2 * float((ramp - ramp.flip(0)).abs().mean()), rel=1e-5)
    assert apart > 0.5


def test_a_deformation_tells_them_apart_too():
    same = float(terms_with(Inversion(), motion="deformation")["geometry"])
    other = float(terms_with(Ramp(), motion="deformation")["geometry"])
    assert same < 0.2 * other


def test_the_two_halves_are_one_number_where_voxels_only_change_places():
    torch.manual_seed(0)
    method = GcGANMethod(GcGAN(2, 1, 1, **SMALL))
    source, motion = images(24, 32), quarter_turn()
    still, moved = method.networks(source), method.networks(motion.forward(source))
    back = (still - motion.inverse(moved)).abs().mean()
    there = (moved - motion.forward(still)).abs().mean()
    torch.testing.assert_close(back, there)
    context = {}
    terms = method.generator_terms(method.phase("generator"), {"source": source, "target": -source}, context)
    torch.testing.assert_close(terms["geometry"], back + there)
    assert context["real"]["moved"].shape == (2, 1, 32, 24)


def test_papers_settings_and_what_is_refused():
    settings = GcGANMethod.settings_type()
    assert (settings.motion, settings.geometry_weight, settings.optimizer.learning_rate) == ("quarter_turn", 20, 2e-4)
    presets = ("default", "full", "gpu")
    weights = {name: resolve(type(settings), ("tracebench", name)).geometry_weight for name in presets}
    assert weights == {"default": 2, "full": 20, "gpu": 20}
    with pytest.raises(ValueError, match="motion: input should be 'quarter_turn', 'flip' or 'deformation'"):
        resolve(GcGANMethod.settings_type, (), {"motion": "shear"})
    with pytest.raises(ValueError, match="motion: expected one of"):
        GcGANMethod(GcGAN(2, 1, 1, **SMALL), motion="shear")
    with pytest.raises(ValueError, match="geometry_weight: expected a weight of at least 0"):
        GcGANMethod(GcGAN(2, 1, 1, **SMALL), geometry_weight=-1)
