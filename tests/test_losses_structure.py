"""Structural dissimilarity: its value, its gradient, small grids, and the terms that methods make of it."""

import pytest
import torch

from medtrace.losses import StructuralDissimilarityLoss, structural_dissimilarity
from medtrace.methods import method_class
from medtrace.methods.common.structure import structure_term
from medtrace.methods.settings import resolve
from medtrace.metrics import structural_similarity

IMAGES = {2: (2, 1, 24, 20), 3: (1, 1, 9, 12, 10)}


def pair(dims):
    generator = torch.Generator().manual_seed(dims)
    return [torch.rand(IMAGES[dims], generator=generator) * 2 - 1 for _ in range(2)]


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_one_minus_ssim(dims):
    image, target = pair(dims)
    window = {2: 11, 3: 7}[dims]
    wanted = 1 - structural_similarity(image, target, data_range=(-1, 1), window=window).mean()
    assert float(structural_dissimilarity(image, target)) == pytest.approx(float(wanted), abs=1e-5)
    assert float(StructuralDissimilarityLoss()(target, target)) == pytest.approx(0, abs=1e-6)


def test_its_gradient_goes_towards_the_target():
    image, target = pair(2)
    image = image.requires_grad_()
    before = structural_dissimilarity(image, target)
    (gradient,) = torch.autograd.grad(before, image)
    assert structural_dissimilarity(image - 5 * gradient, target) < before


def test_a_grid_smaller_than_the_window_has_a_value():
    image = torch.zeros(1, 1, 6, 30)
    # Means 1 and 1.5 above -1, no variance: 1 − 2·1·1.5 / (1 + 1.5²).
    assert float(structural_dissimilarity(image, image + 0.5)) == pytest.approx(1 - 3 / 3.25, rel=1e-2)
    with pytest.raises(ValueError, match="target: expected the shape of image"):
        structural_dissimilarity(image, image[..., 1:])


@pytest.mark.parametrize("name", ["unet", "tracetrans", "pix2pix", "reggan"])
def test_a_method_has_the_term_where_it_is_asked_for(name):
    kind = method_class(name)
    plain = kind.build(resolve(kind.settings_type, ["tracebench", "smoke"]))
    assert not [term for term in plain.phases[0].weights if "structure" in term]
    method = kind.build(resolve(kind.settings_type, ["tracebench", "smoke"], {"structure_weight": 0.5}))
    batch = {"source": torch.rand(2, 1, 32, 32), "target": torch.rand(2, 1, 32, 32)}
    phase = method.phases[0]
    terms = getattr(method, f"{phase.name}_terms")(phase, batch, {})
    (term,) = [term for term in terms if "structure" in term]
    of_l1 = {"unet": "l1", "tracetrans": "translation_l1", "pix2pix": "paired_l1", "reggan": "correction"}[name]
    assert phase.weights[term] == 0.5 * phase.weights[of_l1]
    assert 0 < terms[term].item() < 2
    with pytest.raises(ValueError, match="structure_weight: expected a weight of at least 0"):
        structure_term(-1)
