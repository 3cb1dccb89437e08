"""Public functions of tensors and anything that could be handed to them: a result of the right shape, or an error.

Finite numbers of common size give finite results. NaN, infinities and numbers near the limits of a type may pass
through (they are checked where they come in and where they are written), but never end in another error than TypeError
or ValueError with the name of an argument.
"""

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtrace import fields, losses, metrics
from medtrace.trace import Trace
from medtrace.transforms import structure_map

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
DTYPES += [torch.complex64]
FILLS = ["normal", "unit", "constant", "zero", "huge", "tiny", "nan", "inf"]
ODD = [None, 3, 1.5, "image", [[0.0]], {}, True]
FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
MANY = settings(FEW, max_examples=2000)
AFFINE = torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64))


def filled(shape, dtype, fill, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = {
        "normal": values,
        "unit": values.sigmoid(),
        "constant": torch.full_like(values, 0.5),
        "zero": torch.zeros_like(values),
        "huge": values * 1e30,
        "tiny": values * 1e-30,
        "nan": values.masked_fill(values > 1, float("nan")),
        "inf": values.masked_fill(values > 1, float("inf")),
    }[fill]
    if not (dtype.is_floating_point or dtype.is_complex):
        values = values.nan_to_num(0, 1, -1).clamp(-100, 100)
    return values.to(dtype)


@st.composite
def tensors(draw, channels=None, spatial_dims=None):
    """A tensor; three times out of four one that a function of images or fields takes."""
    seed = draw(st.integers(0, 1000))
    if draw(st.integers(0, 11)) == 0:
        return draw(st.sampled_from(ODD))
    if draw(st.integers(0, 3)) == 0:
        shape = draw(st.lists(st.integers(0, 5), max_size=6))
        return filled(shape, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(FILLS)), seed)
    dims = spatial_dims or draw(st.sampled_from([2, 3]))
    count = dims if channels == "field" else channels or draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 2)), count, *(draw(st.integers(1, 9)) for _ in range(dims))]
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16]))
    return filled(shape, dtype, draw(st.sampled_from(FILLS)), seed)


@st.composite
def pairs(draw, second=None):
    """Two tensors, mostly of one grid."""
    first = draw(tensors())
    if not isinstance(first, torch.Tensor) or first.ndim not in (4, 5) or draw(st.integers(0, 4)) == 0:
        return first, draw(tensors(channels=second))
    shape = list(first.shape)
    if second == "field":
        shape[1] = first.ndim - 2
    fill = draw(st.sampled_from(FILLS))
    return first, filled(shape, torch.float32, fill, draw(st.integers(0, 1000)))


RANGE = {"data_range": (-1.0, 1.0)}
FIELD_FUNCTIONS = {
    "exponentiate": fields.exponentiate,
    "jacobian_determinant": fields.jacobian_determinant,
    "folded_voxels": fields.folded_voxels,
    "non_diffeomorphic_fraction": fields.non_diffeomorphic_fraction,
    "non_diffeomorphic_volume": fields.non_diffeomorphic_volume,
    "invert": fields.invert,
    "voxel_to_mm": lambda ddf: fields.voxel_to_mm(ddf, AFFINE),
    "mm_to_voxel": lambda ddf_mm: fields.mm_to_voxel(ddf_mm, AFFINE),
    "velocity_smoothness": losses.velocity_smoothness,
    "jacobian_folding": losses.jacobian_folding,
    "intensity_diffusion": losses.intensity_diffusion,
    "sd_log_jacobian": metrics.sd_log_jacobian,
    "metrics.non_diffeomorphic_volume": metrics.non_diffeomorphic_volume,
}
IMAGE_FUNCTIONS = {
    "least_squares_adversarial": lambda logits: losses.least_squares_adversarial(logits, True),
    "log_adversarial": lambda logits: losses.log_adversarial(logits, True),
    "sobel_magnitude": metrics.sobel_magnitude,
    "edge_map": lambda image: metrics.edge_map(image, **RANGE),
    "structure_map": structure_map,
}
PAIR_FUNCTIONS = {
    "psnr": lambda pred, target: metrics.peak_signal_to_noise_ratio(pred, target, **RANGE),
    "ssim": lambda pred, target: metrics.structural_similarity(pred, target, **RANGE),
    "mae": lambda pred, target: metrics.mean_absolute_error(pred, target, **RANGE),
    "end_point_error": metrics.end_point_error,
    "inverse_consistency": fields.inverse_consistency,
    "compose": fields.compose,
    "parzen_nmi": losses.parzen_nmi,
}
IMAGE_AND_FIELD = {"warp": fields.warp, "sample": fields.sample}


def tame(value):
    """Whether a tensor holds finite numbers of common size."""
    return isinstance(value, torch.Tensor) and bool(torch.isfinite(value).all()) and float(value.abs().max()) < 1e3


def check(call, arguments):
    """Call a function; any error has to be one of ours, any result of tame arguments finite."""
    try:
        result = call(*arguments)
    except (TypeError, ValueError) as error:
        problem = str(error)
    else:
        problem = ""
    if problem:
        assert re.match(r"[\w. ]+: ", problem), f"does not name an argument: {problem}"
        return None
    first = result[0] if isinstance(result, tuple) else result
    assert isinstance(first, torch.Tensor)
    if all(tame(argument) for argument in arguments) and first.is_floating_point():
        assert not bool(torch.isnan(first).any())
    return first


def fuzzed(strategy, functions, examples):
    def test(name):
        @examples
        @given(strategy)
        def one(drawn):
            check(functions[name], drawn if isinstance(drawn, tuple) else (drawn,))

        one()

    return test


@pytest.mark.parametrize("name", FIELD_FUNCTIONS)
def test_functions_of_fields(name):
    fuzzed(tensors(channels="field"), FIELD_FUNCTIONS, FEW)(name)


@pytest.mark.parametrize("name", IMAGE_FUNCTIONS)
def test_functions_of_images(name):
    fuzzed(tensors(), IMAGE_FUNCTIONS, FEW)(name)


@pytest.mark.parametrize("name", PAIR_FUNCTIONS)
def test_functions_of_pairs(name):
    fuzzed(pairs(), PAIR_FUNCTIONS, FEW)(name)


@pytest.mark.parametrize("name", IMAGE_AND_FIELD)
def test_functions_of_images_and_fields(name):
    fuzzed(pairs(second="field"), IMAGE_AND_FIELD, FEW)(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "functions", "name"),
    [
        (strategy, functions, name)
        for strategy, functions in (
            (tensors(channels="field"), FIELD_FUNCTIONS),
            (tensors(), IMAGE_FUNCTIONS),
            (pairs(), PAIR_FUNCTIONS),
            (pairs(second="field"), IMAGE_AND_FIELD),
        )
        for name in functions
    ],
)
def test_many_more(strategy, functions, name):
    fuzzed(strategy, functions, MANY)(name)


@FEW
@given(pairs(second="field"))
def test_warp_keeps_the_shape_of_its_image(drawn):
    result = check(fields.warp, drawn)
    if result is not None:
        assert result.shape == (drawn[0].shape[0], drawn[0].shape[1], *drawn[1].shape[2:])


@FEW
@given(st.data())
def test_traces(data):
    """What builds answers: points of the right shape, labels on the grid, a ledger that adds up."""
    draw = data.draw
    dims = draw(st.sampled_from([2, 3]))
    shape = [draw(st.integers(1, 6)) for _ in range(dims)]
    fill = st.sampled_from(FILLS)
    source = filled([1, *shape], torch.float32, draw(fill), 1)
    image = filled([draw(st.integers(1, 2)), *shape], torch.float32, draw(fill), 2)
    ddf = filled([draw(st.sampled_from([dims, dims, dims, 1])), *shape], torch.float32, draw(fill), 3)
    affine = draw(st.sampled_from([AFFINE, -AFFINE, AFFINE * 0, torch.eye(3), None, AFFINE.float() * float("nan")]))
    trace = _answer(lambda: Trace.build(source, image, ddf, affine=affine))
    if trace is None:
        return
    points = filled([draw(st.integers(0, 4)), draw(st.sampled_from([3, 3, 3, 2]))], torch.float64, draw(fill), 4)
    for move in (trace.locate, trace.origin):
        moved = _answer(lambda move=move: move(points))
        assert moved is None or (moved.shape == points.shape and bool(torch.isfinite(moved).all()))
    labels = torch.randint(0, 5, (1, *shape))
    assert trace.transfer(labels).shape == (1, *shape)
    ledger = trace.ledger()
    assert trace.warped.shape == (1, *shape)
    if ledger.residual is not None:
        assert bool(torch.isfinite(ledger.residual).all())


def _answer(call):
    """What a call returns; None where it is refused with the name of an argument."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        problem = str(error)
    assert re.match(r"[\w. ]+: ", problem), f"does not name an argument: {problem}"
    return None
