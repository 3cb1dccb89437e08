"""Plasticine as a whole, on networks whose answers are known: the deformation is a shift, the estimator repaints."""

import pytest
import torch

from medtrace.fields import warp
from medtrace.networks import (
    DeformationModule,
    DiffusionTranslator,
    NoiseEstimator,
    NoiseSchedule,
    Plasticine,
    denoise,
    noisy_start,
)

DARK, BRIGHT = -0.6, 0.4
SMALL = {"channels": (8, 16), "norm_groups": 8, "head_channels": 8, "residual_blocks": 1}


class Repainter(NoiseEstimator):
    """Knows the target domain: DARK where the condition is 0 and BRIGHT where it is 1, so the noise is what is left."""

    def forward(self, noisy, gamma, condition=None):
        level = gamma.reshape(-1, *[1] * (noisy.ndim - 1))
        painted = DARK + (BRIGHT - DARK) * condition
        return (noisy - level.sqrt() * painted) / (1 - level).sqrt()


def translator(spatial_dims=2, estimator=Repainter, shift=2.0, **options):
    torch.manual_seed(0)
    deformation = DeformationModule(spatial_dims, 1, (8, 8))
    with torch.no_grad():
        deformation.head.conv.bias[0] = shift
    return DiffusionTranslator(estimator(spatial_dims, 1, **SMALL), deformation, **options).eval()


def square(spatial_dims=2, count=2):
    structure = torch.zeros(count, 1, *[16] * spatial_dims)
    structure[(..., *[slice(6, 11)] * spatial_dims)] = 1
    return 0.9 - 0.5 * structure, structure


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_translation_is_the_moved_structure_in_the_target_domains_contrast(spatial_dims, sampler):
    source, structure = square(spatial_dims)
    output = translator(spatial_dims)(source, structure, seeds(0, 1), steps=10, sampler=sampler)
    moved = structure.roll(-2, dims=2)
    assert torch.equal(output.structure, moved)
    torch.testing.assert_close(output.image, DARK + (BRIGHT - DARK) * moved, atol=1e-3, rtol=0)
    torch.testing.assert_close(output.warped, source.roll(-2, dims=2), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.ddf[:, 0], torch.full_like(output.ddf[:, 0], 2.0))
    torch.testing.assert_close(warp(output.structure, output.inverse_ddf), structure)
    torch.testing.assert_close(output.velocity, output.ddf)
    assert output.intermediates == []


def test_the_condition_is_binary_unless_asked():
    source, structure = square()
    output = translator(shift=1.4)(source, structure, seeds(0, 1), steps=2)
    assert output.structure.unique().tolist() == [0, 1]
    output = translator(shift=1.4, binary_structure=False)(source, structure, seeds(0, 1), steps=2)
    torch.testing.assert_close(output.structure, warp(structure, output.ddf))
    assert len(output.structure.unique()) > 2


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_condition_has_no_class_between_dark_and_bright(spatial_dims):
    source, structure = square(spatial_dims)  # of the darkest and the brightest of three classes
    built = translator(spatial_dims, shift=1.4, structure_classes=3)
    output = built(source, structure, seeds(0, 1), steps=2)
    two = translator(spatial_dims, shift=1.4)(source, structure, seeds(0, 1), steps=2)
    assert torch.equal(output.structure, two.structure)
    middle = built(source, 0.5 * structure, seeds(0, 1), steps=2)
    assert torch.equal(middle.structure, 0.5 * two.structure)


@pytest.mark.parametrize("mode", ["joint", "combination"])
def test_modes_differ_in_the_image_that_is_noised(mode):
    source, structure = square()
    built = translator()
    output = built(source, structure, seeds(0, 1), steps=5, start=0.2, mode=mode, keep=[0])
    image = source if mode == "joint" else output.warped
    levels = NoiseSchedule().levels(5, 0.2)
    assert torch.equal(output.intermediates[0].image, noisy_start(image, levels, seeds(0, 1)))
    assert output.intermediates[0].gamma == float(levels[0])


def test_modes_hardly_differ_from_full_noise():
    source, structure = square()
    starts = [
        translator()(source, structure, seeds(0, 1), steps=2, mode=mode, keep=[0]).intermediates[0].image
        for mode in ("joint", "combination")
    ]
    assert 0 < (starts[0] - starts[1]).abs().max() < 0.01


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_through_real_networks_it_is_the_sampler_on_the_estimator(spatial_dims):
    source, structure = square(spatial_dims)
    built = translator(spatial_dims, NoiseEstimator)
    torch.nn.init.normal_(built.noise_estimator.unet.out[2].conv.weight, std=0.05)
    own = seeds(3, 4)
    output = built(source, structure, own, steps=4, start=0.5, clip=(-1, 1))
    levels, own = built.schedule.levels(4, 0.5), seeds(3, 4)

    def predict(image, gamma):
        return built.noise_estimator(image, gamma, output.structure)

    noisy = noisy_start(source, levels, own)
    expected = denoise(predict, noisy, levels, "ancestral", own, clip=(-1, 1)).image
    assert torch.equal(output.image, expected)
    assert not output.image.requires_grad
    assert output.image.abs().max() <= 1
    for case in range(2):
        only = slice(case, case + 1)
        alone = built(source[only], structure[only], seeds(3 + case), steps=4, start=0.5, clip=(-1, 1))
        torch.testing.assert_close(alone.image, output.image[only], atol=1e-3, rtol=0)


def test_plasticine_is_its_name_and_a_state_holds_both_networks():
    assert Plasticine is DiffusionTranslator
    built = translator()
    assert {name.split(".")[0] for name in built.state_dict()} == {"noise_estimator", "deformation"}
    assert built.schedule.steps == 2000


def test_networks_that_do_not_fit_are_refused():
    deformation = DeformationModule(2, 1, (8, 8))
    for estimator, message in (
        (NoiseEstimator(3, 1, **SMALL), "deformation: expected spatial_dims=3 as the noise estimator's, received 2"),
        (NoiseEstimator(2, 2, **SMALL), "deformation: expected target_channels=2"),
        (NoiseEstimator(2, 1, 0, **SMALL), "noise_estimator: expected condition_channels=1 .* received 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffusionTranslator(estimator, deformation)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "both"}, "mode: expected one of 'joint', 'combination', received 'both'"),
        ({"sampler": "euler"}, "sampler: expected one of"),
        ({"structure": torch.zeros(2, 2, 16, 16)}, r"structure: expected 1 channel\(s\)"),
        ({"structure": torch.zeros(2, 1, 16, 8)}, "structure: expected the batch and grid of source"),
        ({"start": 0}, "start: expected a fraction"),
        ({"steps": 2001}, "steps: expected 1 to 2000"),
        ({"generators": seeds(0)}, "generators: expected 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    source, structure = square()
    arguments = {"source": source, "structure": structure, "generators": seeds(0, 1)}
    with pytest.raises(ValueError, match=message):
        translator()(**{**arguments, **changes})
