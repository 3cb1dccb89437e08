"""Cases of `medtrace.losses`."""

import math
from typing import Any

import torch
from hypothesis import strategies as st

from medtrace import losses
from tests.fuzz.calls import Case, Draw, Given, batch, check, computed_type, field_shape, filled, mask, tensor

EXEMPT = {
    "ParzenKernel": "an enumeration",
    "ParzenWindow": "a NamedTuple, checked by the functions that take it",
}
REDUCTIONS = ("mean", "sum", "none")
BOUNDED = ("unit", "constant", "zero", "tiny")
"""Numbers in [-1, 1]."""


def module(kind: Any, *settings: str) -> Any:
    """A loss module as one function of its settings and arguments."""

    def call(**given: Any) -> Any:
        own = {name: given.pop(name) for name in settings}
        return kind(**own)(**given)

    return call


def scalar(answer: Any, given: Given) -> None:
    check(answer, (), computed_type(*_tensors(given)), 0)


def _tensors(given: Given) -> list[Any]:
    listed = [one for value in given.values() if isinstance(value, (list, tuple)) for one in value]
    return [*given.values(), *listed]


def _one(name: str, shape: Any, **choices: tuple[str, ...]) -> Any:
    def arguments(draw: Draw) -> Given:
        return {
            name: tensor(draw, shape(draw)),
            **{key: draw(st.sampled_from(values)) for key, values in choices.items()},
        }

    return arguments


def _folding(draw: Draw) -> Given:
    reduction, measure = draw(
        st.sampled_from([("sum", "central"), ("mean", "central"), ("none", "central"), ("sum", "simplices")])
    )
    return {"ddf": tensor(draw, field_shape(draw)), "reduction": reduction, "measure": measure}


def _folding_law(answer: Any, given: Given) -> None:
    ddf = given["ddf"]
    shape = (len(ddf), 1, *ddf.shape[2:]) if given["reduction"] == "none" else ()
    check(answer, shape, computed_type(ddf), 0)


def _any_shape(draw: Draw) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=5)))


def _logits(draw: Draw) -> Given:
    return {"logits": tensor(draw, _any_shape(draw)), "real": draw(st.booleans())}


def _two_logits(draw: Draw) -> Given:
    return {"real_logits": tensor(draw, _any_shape(draw)), "fake_logits": tensor(draw, _any_shape(draw))}


def _scales(*names: str) -> Any:
    def arguments(draw: Draw) -> Given:
        count = draw(st.integers(1, 3))
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16]))
        given: Given = {name: [tensor(draw, batch(draw, 1), dtypes=[dtype]) for _ in range(count)] for name in names}
        return {**given, "loss": draw(st.sampled_from(["least_squares", "log"]))}

    return arguments


def _scales_law(answer: Any, _: Given) -> None:
    check(answer, (), answer.dtype, 0)


def _nmi(first: str, second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw)
        kernel, minimum = draw(st.sampled_from([("cubic", 4), ("gaussian", 4)]))
        return {
            first: tensor(draw, shape, BOUNDED),
            second: tensor(draw, shape, BOUNDED),
            "num_bins": draw(st.integers(minimum, 40)),
            "value_range": draw(st.sampled_from([(-1.0, 1.0), [-2, 3]])),
            "kernel": kernel,
            "sigma": draw(st.sampled_from([0.3, 0.5, 0.6])),
            "mask": mask(draw, shape),
            "out_of_range": draw(st.sampled_from(["error", "clamp"])),
        }

    return arguments


def _nmi_law(answer: Any, given: Given) -> None:
    check(answer, given["x"].shape[:2], computed_type(given["x"], given["y"]), 1 - 1e-4, 2 + 1e-4)


def _nmi_loss(draw: Draw) -> Given:
    return {**_nmi("pred", "target")(draw), "reduction": draw(st.sampled_from(["mean", "sum", "none"]))}


def _nmi_loss_law(answer: Any, given: Given) -> None:
    pred, none = given["pred"], given["reduction"] == "none"
    low = -2.001 * (len(pred) if given["reduction"] == "sum" else 1)
    check(answer, (len(pred),) if none else (), computed_type(pred, given["target"]), low, -0.999)


def _lncc(first: str, second: str, **settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw)
        given = {first: tensor(draw, shape), second: tensor(draw, shape), "mask": mask(draw, shape)}
        given |= {"radius": draw(st.integers(1, 3)), "floor": draw(st.sampled_from([1e-9, 1e-5, 0.1]))}
        return given | {name: draw(st.sampled_from(values)) for name, values in settings.items()}

    return arguments


def _lncc_law(answer: Any, given: Given) -> None:
    check(answer, given["x"].shape[:2], computed_type(given["x"], given["y"]), 0, 1 + 1e-4)


def _alike(draw: Draw) -> Given:
    shape = batch(draw)
    return {name: tensor(draw, shape, BOUNDED) for name in ("image", "target")}


def _dissimilarity_law(answer: Any, _: Given) -> None:
    check(answer, (), torch.float32, -1e-4, 2 + 1e-4)


def _mind(draw: Draw) -> Given:
    sizes = {"radius": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2))}
    return {"image": tensor(draw, batch(draw, 1)), **sizes}


def _mind_law(answer: Any, given: Given) -> None:
    items, _, *spatial = given["image"].shape
    check(answer, (items, 4 if len(spatial) == 2 else 12, *spatial), computed_type(given["image"]), 0, 1)


def _mind_loss(draw: Draw) -> Given:
    shape = batch(draw, 1)
    sizes = {"radius": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2))}
    pair = {name: tensor(draw, shape) for name in ("pred", "target")}
    return {**pair, **sizes, "mask": mask(draw, shape), "reduction": draw(st.sampled_from(REDUCTIONS))}


def _loss_law(low: float, high: float) -> Any:
    """Of a loss whose value for one item lies within a range."""

    def law(answer: Any, given: Given) -> None:
        items, reduction = len(given["pred"]), given["reduction"]
        count = items if reduction == "sum" else 1
        shape = (items,) if reduction == "none" else ()
        check(answer, shape, computed_type(given["pred"], given["target"]), count * low - 1e-3, count * high + 1e-3)

    return law


def _histogram(draw: Draw) -> Given:
    rows, voxels = draw(st.integers(1, 3)), draw(st.integers(1, 30))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    kernel = draw(st.sampled_from(list(losses.ParzenKernel)))
    window = losses.ParzenWindow(draw(st.integers(4, 20)), (-1.0, 1.0), kernel, 0.5)
    weights = draw(st.sampled_from([None, filled((rows, voxels), dtype, "unit", 3)]))
    pair = {name: tensor(draw, (rows, voxels), BOUNDED, [dtype]) for name in "xy"}
    return {**pair, "window": window, "mask": weights}


def _histogram_law(answer: Any, given: Given) -> None:
    bins = given["window"].num_bins
    check(answer, (len(given["x"]), bins, bins), torch.float64, 0, math.inf)
    assert not bool((answer.detach().sum((1, 2)) - 1).abs().gt(1e-5).any())


def _joint(draw: Draw) -> Given:
    shape = (*draw(st.sampled_from([(), (2,), (2, 3)])), draw(st.integers(1, 9)))
    table = filled((*shape, shape[-1]), draw(st.sampled_from([torch.float32, torch.float64])), "unit", 5)
    return {"joint": table / table.sum((-2, -1), keepdim=True)}


def _weights(draw: Draw) -> Given:
    shape = batch(draw)
    return {"image": tensor(draw, shape), "mask": (filled((shape[0], 1, *shape[2:]), torch.float32, "unit", 1) > 0)}


def _weights_law(answer: Any, given: Given) -> None:
    image = given["image"]
    check(answer, (len(image), 1, *image.shape[2:]), image.dtype, 0)
    assert not answer.requires_grad


def _places(draw: Draw) -> Given:
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    pair = {name: tensor(draw, shape, BOUNDED) for name in ("queries", "keys")}
    return {**pair, "temperature": draw(st.sampled_from([0.07, 1.0]))}


def _moved_pair(draw: Draw) -> Given:
    shape = field_shape(draw)
    images = {name: tensor(draw, (shape[0], draw(st.integers(1, 2)), *shape[2:])) for name in ("source", "target")}
    return {**images, "ddf": tensor(draw, shape)}


def _moved_pair_law(answer: Any, given: Given) -> None:
    for value, name in zip(answer, ("source", "target"), strict=True):
        check(value, given[name].shape, value.dtype)


def _motion(draw: Draw) -> Given:
    return {"field": tensor(draw, field_shape(draw)), "floor": draw(st.sampled_from([1e-3, 0.01, 1.0]))}


MEAN_OR_SUM = {"reduction": ("mean", "sum")}
CASES = {
    "IntensityDiffusionLoss": Case(
        module(losses.IntensityDiffusionLoss, "reduction"), _one("intensity", batch, **MEAN_OR_SUM), scalar
    ),
    "JacobianFoldingLoss": Case(module(losses.JacobianFoldingLoss, "reduction", "measure"), _folding, _folding_law),
    "LNCCLoss": Case(
        module(losses.LNCCLoss, "radius", "floor", "reduction"),
        _lncc("pred", "target", reduction=REDUCTIONS),
        _loss_law(-1, 0),
        also=("x", "y"),
    ),
    "StructuralDissimilarityLoss": Case(module(losses.StructuralDissimilarityLoss), _alike, _dissimilarity_law),
    "structural_dissimilarity": Case(losses.structural_dissimilarity, _alike, _dissimilarity_law),
    "LeastSquaresAdversarialLoss": Case(module(losses.LeastSquaresAdversarialLoss), _logits, scalar),
    "MINDLoss": Case(
        module(losses.MINDLoss, "radius", "dilation", "reduction"), _mind_loss, _loss_law(0, 1), also=("image",)
    ),
    "MotionMagnitudeLoss": Case(module(losses.MotionMagnitudeLoss, "floor"), _motion, scalar),
    "ParzenDNMILoss": Case(
        module(losses.ParzenDNMILoss, "num_bins", "value_range", "kernel", "sigma", "reduction", "out_of_range"),
        _nmi_loss,
        _nmi_loss_law,
        also=("x", "y"),
    ),
    "VelocitySmoothnessLoss": Case(
        module(losses.VelocitySmoothnessLoss, "reduction"), _one("velocity", field_shape, **MEAN_OR_SUM), scalar
    ),
    "adversarial": Case(losses.adversarial, _scales("logits"), _scales_law),
    "adversarial_discriminator": Case(
        losses.adversarial_discriminator, _scales("real_logits", "fake_logits"), _scales_law, also=("logits",)
    ),
    "intensity_diffusion": Case(losses.intensity_diffusion, _one("intensity", batch, **MEAN_OR_SUM), scalar),
    "jacobian_folding": Case(losses.jacobian_folding, _folding, _folding_law),
    "joint_histogram": Case(losses.joint_histogram, _histogram, _histogram_law),
    "least_squares_adversarial": Case(losses.least_squares_adversarial, _logits, scalar),
    "least_squares_discriminator": Case(losses.least_squares_discriminator, _two_logits, scalar),
    "lncc": Case(losses.lncc, _lncc("x", "y"), _lncc_law),
    "log_adversarial": Case(losses.log_adversarial, _logits, scalar),
    "mask_weights": Case(losses.mask_weights, _weights, _weights_law),
    "mind_ssc": Case(losses.mind_ssc, _mind, _mind_law),
    "motion_magnitude": Case(losses.motion_magnitude, _motion, scalar),
    "normalized_mutual_information": Case(
        losses.normalized_mutual_information,
        _joint,
        lambda answer, given: check(answer, given["joint"].shape[:-2], given["joint"].dtype),
    ),
    "parzen_nmi": Case(losses.parzen_nmi, _nmi("x", "y"), _nmi_law),
    "patch_nce": Case(
        losses.patch_nce, _places, lambda answer, _: check(answer, (), torch.float32, -1e-3), also=("temperature",)
    ),
    "sub_voxel_pair": Case(losses.sub_voxel_pair, _moved_pair, _moved_pair_law, also=("image", "coordinates")),
    "velocity_smoothness": Case(losses.velocity_smoothness, _one("velocity", field_shape, **MEAN_OR_SUM), scalar),
}
