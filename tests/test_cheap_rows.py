"""Translations without a network: the intensity curve and ridge regression on patches."""

import pytest
import torch
from torch.nn import functional as F

from medtrace.evaluation.cheap_rows import CURVE, IDENTITY, RIDGE, IntensityCurve, PatchRidge, cheap_rows
from medtrace.evaluation.scoring import score_cases


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


def blurred(image):
    """The mean of 3 voxels along every axis."""
    dims = image.ndim - 1
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    return pool(F.pad(image[None], [1] * 2 * dims, mode="replicate"), 3, stride=1)[0]


def test_the_curve_is_the_conditional_median():
    source = torch.full((1, 10, 10), -0.5)
    source[:, 5:] = 0.5
    target = torch.where(source > 0, -0.25, 0.75)
    target[0, 0, :4] = -0.9  # four of fifty: the mean moves, the median does not
    image = IntensityCurve.fit([{"source": source, "target": target}])(source[None])[0]
    torch.testing.assert_close(image, torch.where(source > 0, -0.25, 0.75), atol=0.003, rtol=0)


def test_the_curve_inverts_a_contrast_and_reads_the_channel_that_tells_most():
    told, noisy = noise(1, 40, 40), noise(1, 40, 40, seed=1)
    case = {"source": torch.cat([noisy, told]), "target": torch.cat([-told, noisy.square()])}
    curve = IntensityCurve.fit([case])
    assert curve.channels == (1, 0)
    assert float((curve(case["source"][None])[0] - case["target"]).abs().mean()) < 0.02


@pytest.mark.parametrize("shape", [(32, 32), (14, 14, 14)])
def test_ridge_finds_a_linear_filter(shape):
    images = [noise(1, *shape, seed=seed) for seed in range(3)]
    cases = [{"source": image, "target": blurred(image)} for image in images]
    ridge = PatchRidge.fit(cases[:2])
    errors = {
        row: float((result(cases[2]["source"][None])[0] - cases[2]["target"]).abs().mean())
        for row, result in {"ridge": ridge, "curve": ridge.curve}.items()
    }
    assert errors["ridge"] < 0.01 < 0.05 < errors["curve"]


def test_background_is_the_target_s_own():
    source = torch.full((1, 16, 16), -1.0)
    source[:, 4:12, 4:12] = noise(1, 8, 8)
    target = torch.where(source > -1, -source, 0.2)
    rows = cheap_rows([{"source": source, "target": target}])
    for row in (CURVE, RIDGE):
        (trace,) = rows[row]({"source": source[None]})
        torch.testing.assert_close(trace.image[source == -1], torch.full((192,), 0.2), atol=0.003, rtol=0)
        assert not bool(trace.ddf.any())


def test_rows_are_scored_as_methods_are():
    cases = [{"source": noise(1, 24, 24, seed=k), "target": -noise(1, 24, 24, seed=k), "case": str(k)} for k in (0, 1)]
    errors = {row: score_cases(tracer, cases).summary()["mae"].mean for row, tracer in cheap_rows(cases).items()}
    assert list(errors) == [IDENTITY, CURVE, RIDGE]
    assert max(errors[CURVE], errors[RIDGE]) < 3 < 60 < errors[IDENTITY]


def test_channels_may_differ_and_then_there_is_no_identity():
    case = {"source": noise(2, 24, 24), "target": noise(1, 24, 24)}
    rows = cheap_rows([case])
    assert list(rows) == [CURVE, RIDGE]
    assert rows[RIDGE]({"source": case["source"][None]})[0].image.shape == (1, 24, 24)


def test_without_a_case_there_is_nothing_to_learn():
    with pytest.raises(ValueError, match="training: expected at least one case"):
        cheap_rows([])
    with pytest.raises(ValueError, match="expected 1 and 1 channels in every case, received 2 and 1"):
        cheap_rows([{"source": noise(n, 12, 12), "target": noise(1, 12, 12)} for n in (1, 2)])
