"""Cases of `medtrace.metrics`."""

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from medtrace import metrics
from medtrace.trace import Trace
from tests.fuzz.calls import Case, Draw, Given, affine, batch, check, field_shape, filled, mask, sizes, tensor
from tests.fuzz.loss_cases import BOUNDED

EXEMPT = {
    "BhattacharyyaForm": "an enumeration",
    "CaseMetric": "the base of the metrics, without its own measure",
    "Convention": "a NamedTuple, the values of CONVENTIONS",
    "FeatureNetwork": "the type of a function",
    "NMIConvention": "an enumeration",
    "Overlap": "a NamedTuple that `label_overlap` fills",
    "Summary": "a NamedTuple that `summarize` fills",
    "load_feature_network": "reads a file: tests/fuzz/corpus.py breaks its files",
}
PAIR_NAMES = ("pred", "target", "first", "second", "image", "ddf", "inverse_ddf", "true_ddf", "points", "true_points")
VARIED = ("normal", "unit")


def measured(kind: Any, *settings: str) -> Any:
    """A metric as one function of its settings and of what it compares: its values and their aggregate."""

    def call(**given: Any) -> Any:
        metric = kind(**{name: given.pop(name) for name in settings})
        values = metric(**given)
        return values, metric.aggregate()

    return call


def per_case(name: str, low: float = 0.0, high: float = math.inf) -> Any:
    """The law of a number per case."""
    return lambda answer, given: check(answer, (len(given[name]),), torch.float64, low, high)


def gathered(low: float = 0.0, high: float = math.inf) -> Any:
    """The law of a metric's values (B, 1) and their mean."""

    def law(answer: Any, given: Given) -> None:
        values, mean = answer
        assert values.shape == (len(given["y_pred"]), 1)
        check(values, values.shape, values.dtype, low, high)
        check(mean, (), values.dtype, low, high)

    return law


def number(low: float = 0.0, high: float = math.inf) -> Any:
    """The law of one number of all cases."""
    return lambda answer, _: check(answer, (), torch.float64, low, high)


def images(first: str, second: str, fills: tuple[str, ...] = BOUNDED, **settings: Any) -> Any:
    """Two images of one shape, a mask, and settings: strategies, or plain values."""

    def arguments(draw: Draw) -> Given:
        shape = batch(draw)
        pair = {first: tensor(draw, shape, fills), second: tensor(draw, shape, fills)}
        return {**pair, "mask": mask(draw, shape), **chosen(draw, settings)}

    return arguments


def chosen(draw: Draw, settings: Given) -> Given:
    return {name: draw(value) if isinstance(value, st.SearchStrategy) else value for name, value in settings.items()}


def one_field(name: str, masked: bool = True, **settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = field_shape(draw)
        region = {"mask": mask(draw, shape)} if masked else {}
        return {name: tensor(draw, shape), **region, **chosen(draw, settings)}

    return arguments


def two_fields(first: str, second: str, **settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = field_shape(draw)
        pair = {name: tensor(draw, shape) for name in (first, second)}
        place = draw(st.sampled_from([None, affine(draw, shape[0])]))
        return {**pair, "mask": mask(draw, shape), "affine": place, **chosen(draw, settings)}

    return arguments


def in_mm_or_voxels(arguments: Any) -> Any:
    """With the unit that goes with the affine."""

    def drawn(draw: Draw) -> Given:
        given = arguments(draw)
        return {**given, "unit": "voxel" if given["affine"] is None else "mm"}

    return drawn


def _landmarks(first: str, second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = (draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.sampled_from([2, 3])))
        valid = filled(shape[:2], torch.float32, "normal", draw(st.integers(0, 99))) > 0
        pair = {name: tensor(draw, shape) for name in (first, second)}
        return {**pair, "valid": draw(st.sampled_from([None, valid]))}

    return arguments


def _windowed(first: str, second: str, **settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw, minimum=3, most=9)
        window = draw(st.sampled_from([1, 3]))
        pair = {name: tensor(draw, shape, BOUNDED) for name in (first, second)}
        region = draw(st.sampled_from([None, torch.ones(shape[0], 1, *shape[2:])]))
        return {**pair, "mask": region, "window": window, **chosen(draw, settings)}

    return arguments


def _histograms(draw: Draw) -> Given:
    shape = (*draw(st.sampled_from([(), (2,), (2, 3)])), draw(st.integers(1, 9)))
    pair = {name: filled(shape, torch.float64, "unit", draw(st.integers(0, 9))) for name in ("first", "second")}
    return {**pair, "form": draw(FORMS)}


def _sets(first: str, second: str, **settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        space, channels = sizes(draw), draw(st.integers(1, 3))
        shapes = [(draw(st.integers(1, 3)), channels, *space) for _ in range(2)]
        given = {name: tensor(draw, shape, BOUNDED) for name, shape in zip((first, second), shapes)}
        masks = {"mask": mask(draw, shapes[0]), "target_mask": mask(draw, shapes[1])}
        return {**given, **masks, **chosen(draw, settings)}

    return arguments


def _batches(**settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw)
        given = {name: tensor(draw, shape, BOUNDED) for name in ("y_pred", "y")}
        return {**given, "mask": mask(draw, shape), "target_mask": mask(draw, shape), **chosen(draw, settings)}

    return arguments


def _features(draw: Draw) -> Given:
    count = draw(st.integers(1, 5))
    dtypes = [torch.float32, torch.float64]
    shapes = {name: (draw(st.integers(2, 7)), count) for name in ("first", "second")}
    return {name: tensor(draw, shape, dtypes=dtypes) for name, shape in shapes.items()}


def _network(maps: torch.Tensor) -> torch.Tensor:
    """Features of an image: means of its powers, as maps."""
    return torch.cat([maps, maps.square()], 1)


def _featured(draw: Draw) -> Given:
    return {"images": tensor(draw, batch(draw)), "network": _network}


def _featured_law(answer: Any, given: Given) -> None:
    check(answer, (len(given["images"]), answer.shape[1]), torch.float64)


def _shown(draw: Draw) -> Given:
    shape = batch(draw)
    return {"network": _network, "y_pred": tensor(draw, shape), "y": tensor(draw, shape)}


def _pooled_law(answer: Any, given: Given) -> None:
    values, distance = answer
    assert len(values) == len(given["y_pred"])
    check(distance, (), torch.float64, 0)


def labels(draw: Draw, shape: tuple[int, ...], classes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return torch.randint(0, classes, shape, generator=generator).to(draw(st.sampled_from([torch.int64, torch.uint8])))


def _label_maps(first: str, second: str, **settings: Any) -> Any:
    def arguments(draw: Draw) -> Given:
        shape, classes = batch(draw, 1), draw(st.integers(2, 4))
        maps = {name: labels(draw, shape, classes) for name in (first, second)}
        return {**maps, "num_classes": classes, **chosen(draw, settings)}

    return arguments


def _overlap_law(answer: Any, given: Given) -> None:
    count = len(given["pred"])
    check(answer.accuracy, (count,), torch.float64, 0, 1)
    check(answer.dice, (count, given["num_classes"]), torch.float64, 0, 1)
    check(answer.iou, (count, given["num_classes"]), torch.float64, 0, 1)


def _segmentations(draw: Draw) -> Given:
    shape = (1, *sizes(draw))
    return {
        "pred": labels(draw, shape, 3),
        "target": labels(draw, shape, 3),
        "classes": draw(st.sampled_from([{"a": 1, "b": 2}, {"x": 2, "y": 1, "z": 3}])),
    }


def _scores_law(answer: Any, given: Given) -> None:
    assert {"accuracy", "dice", "miou", *(f"dice_{name}" for name in given["classes"])} <= set(answer)
    assert not any(value < 0 or value > 1 for value in answer.values())


def _brought_back(draw: Draw) -> Given:
    space = sizes(draw)
    ddf = filled((len(space), *space), torch.float32, "normal", 1)
    source = filled((1, *space), torch.float32, "unit", 2)
    settings = {"interpolation": draw(st.sampled_from(["linear", "nearest"])), "follow": draw(st.booleans())}
    return {
        "trace": Trace.build(source, source, ddf),
        "labels": labels(draw, (1, *space), 3),
        "num_classes": 3,
        **settings,
    }


def _brought_back_law(answer: Any, given: Given) -> None:
    check(answer, (1, *given["trace"].source.shape[1:]), given["labels"].dtype)
    assert set(answer.unique().tolist()) <= set(given["labels"].unique().tolist())


def _summarized(draw: Draw) -> Given:
    values = draw(st.lists(st.floats(-100, 100), max_size=6))
    return {"values": draw(st.sampled_from([values, tuple(values), torch.tensor(values), np.array(values)]))}


def _summarized_law(answer: Any, given: Given) -> None:
    values = given["values"]
    assert answer.n == (values.numel() if isinstance(values, torch.Tensor) else len(values))
    assert answer.infinite + answer.undefined <= answer.n


def _table(**given: Any) -> Any:
    table = metrics.CaseTable(given.pop("case_column"))
    table.add_batch(**given)
    return table


def _tabled(draw: Draw) -> Given:
    cases = [f"case {number}" for number in range(draw(st.integers(1, 4)))]
    column = filled((len(cases),), torch.float32, "normal", 1)
    columns = {"a": draw(st.sampled_from([column, column[:, None], column.tolist()])), "b": [0.5] * len(cases)}
    return {"case_column": "case", "cases": cases, "values": columns}


def _table_law(answer: Any, given: Given) -> None:
    assert len(answer.rows) == len({str(case) for case in given["cases"]})
    assert all(summary.n == len(answer.rows) for summary in answer.summary().values())


def _drifted(draw: Draw) -> Given:
    shape = batch(draw, 1)
    pair = {name: tensor(draw, shape) for name in ("image", "target")}
    return {**pair, "affine": affine(draw, shape[0]), "upsampling": draw(st.integers(1, 50))}


def _targets(draw: Draw) -> Given:
    return {"target": tensor(draw, batch(draw), ("unit", "constant")), "tolerance": draw(st.floats(1e-4, 0.1))}


def _foreground_law(answer: Any, given: Given) -> None:
    own = given["target"].shape
    check(answer, (own[0], 1, *own[2:]), torch.bool)
    assert bool(answer.flatten(1).any(1).all())


def _translated_law(answer: Any, given: Given) -> None:
    assert set(answer) == {"nmae", "psnr", "ssim"}
    for values in answer.values():
        check(values, (len(given["image"]),), torch.float64)


def _translated(first: str, second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw, minimum=11, most=13, dims=2)
        return {
            first: tensor(draw, shape, VARIED),
            second: tensor(draw, shape, ("unit", "constant")),
            "mask": draw(st.sampled_from([None, torch.ones(shape[0], 1, *shape[2:])])),
            "convention": draw(st.sampled_from(list(metrics.CONVENTIONS))),
            "tolerance": draw(st.floats(1e-4, 0.1)),
        }

    return arguments


RANGES = st.sampled_from([(-1.0, 1.0), [-2, 3]])
SCALES = st.sampled_from(["range", "maximum"])
BINS = st.integers(2, 40)
FORMS = st.sampled_from(["distance", "hellinger"])
CONVENTIONS = st.sampled_from(["studholme", "arithmetic", "joint"])
UNITS = st.sampled_from(["voxel", "percent"])
THRESHOLDS = st.sampled_from(["otsu", "quantile", 0.1, 0])
ABOVE = st.sampled_from([None, 0, 0.5])
EDGES = {"data_range": RANGES, "scale": SCALES}
SHARE = st.floats(0.05, 0.95)
FLOOR = st.floats(1e-9, 1)

IMAGE_CASES = {
    "MAEMetric": Case(
        measured(metrics.MAEMetric, "data_range", "output_range"),
        images("y_pred", "y", data_range=RANGES, output_range=st.sampled_from([None, 255, 1.5])),
        gathered(),
        PAIR_NAMES,
    ),
    "NMAEMetric": Case(
        measured(metrics.NMAEMetric, "convention", "tolerance"), _translated("y_pred", "y"), gathered(), PAIR_NAMES
    ),
    "NMIMetric": Case(
        measured(metrics.NMIMetric, "data_range", "num_bins", "convention", "out_of_range"),
        images(
            "y_pred",
            "y",
            data_range=RANGES,
            num_bins=BINS,
            convention=CONVENTIONS,
            out_of_range=st.sampled_from(["error", "clamp"]),
        ),
        gathered(0, 2 + 1e-9),
        PAIR_NAMES,
    ),
    "PSNRMetric": Case(
        measured(metrics.PSNRMetric, "data_range"),
        images("y_pred", "y", data_range=RANGES),
        gathered(-math.inf),
        PAIR_NAMES,
        undefined=True,
    ),
    "SSIMMetric": Case(
        measured(metrics.SSIMMetric, "data_range", "window", "sigma"),
        _windowed("y_pred", "y", data_range=RANGES, sigma=st.floats(0.5, 3)),
        gathered(-1 - 1e-9, 1 + 1e-9),
        PAIR_NAMES,
    ),
    "mean_absolute_error": Case(
        metrics.mean_absolute_error,
        images("pred", "target", data_range=RANGES, output_range=st.sampled_from([None, 255, 1.5])),
        per_case("pred"),
    ),
    "normalized_mutual_information_score": Case(
        metrics.normalized_mutual_information_score,
        images("pred", "target", data_range=RANGES, num_bins=BINS, convention=CONVENTIONS),
        per_case("pred", 0, 2 + 1e-9),
    ),
    "peak_signal_to_noise_ratio": Case(
        metrics.peak_signal_to_noise_ratio,
        images("pred", "target", data_range=RANGES),
        per_case("pred", -math.inf),
        undefined=True,
    ),
    "structural_similarity": Case(
        metrics.structural_similarity,
        _windowed("pred", "target", data_range=RANGES, sigma=st.floats(0.5, 3)),
        per_case("pred", -1 - 1e-9, 1 + 1e-9),
    ),
    "foreground_of": Case(metrics.foreground_of, _targets, _foreground_law),
    "highest_psnr": Case(
        metrics.highest_psnr,
        lambda draw: chosen(
            draw, {"nmae": st.floats(1e-6, 2), "convention": st.sampled_from(list(metrics.CONVENTIONS))}
        ),
        lambda answer, _: check(torch.tensor(answer), (), torch.float32),
    ),
    "normalized_mean_absolute_error": Case(
        metrics.normalized_mean_absolute_error, _translated("image", "target"), per_case("image"), PAIR_NAMES
    ),
    "affine_drift": Case(
        lambda image, target, affine, **_: metrics.affine_drift(image, target, affine),
        _drifted,
        lambda answer, given: check(answer, (len(given["image"]), 4, 4), torch.float64),
        undefined=True,
    ),
    "drift_parts": Case(
        metrics.drift_parts,
        lambda draw: chosen(draw, {"matrix": st.just(torch.eye(4, dtype=torch.float64))}),
        lambda answer, given: check(answer["degrees"], given["matrix"].shape[:-2], torch.float64),
    ),
    "translation_drift": Case(
        metrics.translation_drift,
        _drifted,
        lambda answer, given: check(answer, (len(given["image"]), 3), torch.float64),
        undefined=True,
    ),
    "translation_scores": Case(
        metrics.translation_scores, _translated("image", "target"), _translated_law, PAIR_NAMES, undefined=True
    ),
}
EDGE_CASES = {
    "EdgeDiceMetric": Case(
        measured(metrics.EdgeDiceMetric, "data_range", "threshold", "quantile", "scale"),
        images("y_pred", "y", threshold=THRESHOLDS, quantile=SHARE, **EDGES),
        gathered(0, 1),
        PAIR_NAMES,
        undefined=True,
    ),
    "EdgeNMIMetric": Case(
        measured(metrics.EdgeNMIMetric, "data_range", "scale", "num_bins", "convention"),
        images("y_pred", "y", num_bins=BINS, convention=CONVENTIONS, **EDGES),
        gathered(0, 2 + 1e-9),
        PAIR_NAMES,
    ),
    "EdgePSNRMetric": Case(
        measured(metrics.EdgePSNRMetric, "data_range", "scale"),
        images("y_pred", "y", **EDGES),
        gathered(-math.inf),
        PAIR_NAMES,
        undefined=True,
    ),
    "EdgeSSIMMetric": Case(
        measured(metrics.EdgeSSIMMetric, "data_range", "scale", "window", "sigma"),
        _windowed("y_pred", "y", sigma=st.floats(0.5, 3), **EDGES),
        gathered(-1 - 1e-9, 1 + 1e-9),
        PAIR_NAMES,
    ),
    "edge_dice": Case(
        metrics.edge_dice,
        images("first", "second", threshold=THRESHOLDS, quantile=SHARE, **EDGES),
        per_case("first", 0, 1),
        PAIR_NAMES,
        undefined=True,
    ),
    "edge_map": Case(
        metrics.edge_map,
        lambda draw: {"image": tensor(draw, batch(draw), BOUNDED), **chosen(draw, EDGES)},
        lambda answer, given: check(
            answer, (len(given["image"]), 1, *given["image"].shape[2:]), torch.float64, 0, math.inf
        ),
    ),
    "edge_nmi": Case(
        metrics.edge_nmi,
        images("first", "second", num_bins=BINS, convention=CONVENTIONS, **EDGES),
        per_case("first", 0, 2 + 1e-9),
        PAIR_NAMES,
    ),
    "edge_psnr": Case(
        metrics.edge_psnr,
        images("first", "second", **EDGES),
        per_case("first", -math.inf),
        PAIR_NAMES,
        undefined=True,
    ),
    "edge_ssim": Case(
        metrics.edge_ssim,
        _windowed("first", "second", sigma=st.floats(0.5, 3), **EDGES),
        per_case("first", -1 - 1e-9, 1 + 1e-9),
        PAIR_NAMES,
    ),
    "otsu_threshold": Case(
        metrics.otsu_threshold,
        lambda draw: {"values": tensor(draw, batch(draw))},
        lambda answer, _: check(torch.tensor(answer), (), torch.float32),
    ),
    "sobel_magnitude": Case(
        metrics.sobel_magnitude,
        lambda draw: {"image": tensor(draw, batch(draw))},
        lambda answer, given: check(answer, (len(given["image"]), 1, *given["image"].shape[2:]), torch.float64, 0),
    ),
}
FIELD_CASES = {
    "EndPointErrorMetric": Case(
        measured(metrics.EndPointErrorMetric, "unit", "deformed_above"),
        in_mm_or_voxels(two_fields("y_pred", "y", deformed_above=ABOVE)),
        gathered(),
        PAIR_NAMES,
        undefined=True,
    ),
    "InverseConsistencyMetric": Case(
        measured(metrics.InverseConsistencyMetric, "unit", "inside_only"),
        in_mm_or_voxels(two_fields("y_pred", "y", inside_only=st.booleans())),
        gathered(),
        PAIR_NAMES,
        undefined=True,
    ),
    "LandmarkErrorMetric": Case(
        measured(metrics.LandmarkErrorMetric), _landmarks("y_pred", "y"), gathered(), PAIR_NAMES, undefined=True
    ),
    "NonDiffeomorphicFractionMetric": Case(
        measured(metrics.NonDiffeomorphicFractionMetric), one_field("y_pred", False), gathered(0, 1), PAIR_NAMES
    ),
    "NonDiffeomorphicVolumeMetric": Case(
        measured(metrics.NonDiffeomorphicVolumeMetric, "unit"),
        one_field("y_pred", False, unit=UNITS),
        gathered(),
        PAIR_NAMES,
    ),
    "SDLogJacobianMetric": Case(
        measured(metrics.SDLogJacobianMetric, "floor"), one_field("y_pred", floor=FLOOR), gathered(), PAIR_NAMES
    ),
    "deformed_region": Case(
        metrics.deformed_region,
        one_field("true_ddf", False, threshold=st.floats(0, 2)),
        lambda answer, given: check(answer, (len(given["true_ddf"]), 1, *given["true_ddf"].shape[2:]), torch.bool),
    ),
    "end_point_error": Case(
        metrics.end_point_error,
        two_fields("ddf", "true_ddf", deformed_above=ABOVE),
        per_case("ddf"),
        undefined=True,
    ),
    "landmark_error": Case(
        metrics.landmark_error, _landmarks("points", "true_points"), per_case("points"), undefined=True
    ),
    "mean_inverse_consistency": Case(
        metrics.mean_inverse_consistency,
        two_fields("ddf", "inverse_ddf", inside_only=st.booleans()),
        per_case("ddf"),
        undefined=True,
    ),
    "folded_volume": Case(metrics.folded_volume, one_field("ddf", False, unit=UNITS), per_case("ddf")),
    "sd_log_jacobian": Case(metrics.sd_log_jacobian, one_field("ddf", floor=FLOOR), per_case("ddf")),
}
SET_CASES = {
    "BhattacharyyaDistanceMetric": Case(
        measured(metrics.BhattacharyyaDistanceMetric, "data_range", "num_bins", "form"),
        _batches(data_range=RANGES, num_bins=BINS, form=FORMS),
        _pooled_law,
        (*PAIR_NAMES, "images"),
        undefined=True,
    ),
    "FIDMetric": Case(
        measured(metrics.FIDMetric, "network"), _shown, _pooled_law, ("images", "features"), undefined=True
    ),
    "SFDMetric": Case(
        measured(metrics.SFDMetric, "network"), _shown, _pooled_law, ("images", "features"), undefined=True
    ),
    "bhattacharyya_distance": Case(
        metrics.bhattacharyya_distance,
        _sets("pred", "target", data_range=RANGES, num_bins=BINS, form=FORMS),
        number(-1e-9),
        ("images",),
        undefined=True,
    ),
    "bhattacharyya_from_histograms": Case(
        metrics.bhattacharyya_from_histograms,
        _histograms,
        lambda answer, given: check(answer, given["first"].shape[:-1], torch.float64, -1e-9),
        undefined=True,
    ),
    "frechet_distance": Case(metrics.frechet_distance, _features, number()),
    "image_features": Case(metrics.image_features, _featured, _featured_law, ("features",)),
    "intensity_histogram": Case(
        metrics.intensity_histogram,
        lambda draw: {
            "images": tensor(draw, shape := batch(draw), BOUNDED),
            "mask": mask(draw, shape),
            **chosen(draw, {"data_range": RANGES, "num_bins": BINS}),
        },
        lambda answer, given: check(answer, (len(given["images"]), given["num_bins"]), torch.float64, 0),
    ),
    "simplified_frechet_distance": Case(metrics.simplified_frechet_distance, _features, number()),
}
LABEL_CASES = {
    "LabelAccuracyMetric": Case(
        measured(metrics.LabelAccuracyMetric, "num_classes"), _label_maps("y_pred", "y"), gathered(0, 1), PAIR_NAMES
    ),
    "LabelDiceMetric": Case(
        measured(metrics.LabelDiceMetric, "num_classes", "include_background"),
        _label_maps("y_pred", "y", include_background=st.booleans()),
        gathered(0, 1),
        PAIR_NAMES,
        undefined=True,
    ),
    "LabelIoUMetric": Case(
        measured(metrics.LabelIoUMetric, "num_classes", "include_background"),
        _label_maps("y_pred", "y", include_background=st.booleans()),
        gathered(0, 1),
        PAIR_NAMES,
        undefined=True,
    ),
    "warp_to_source": Case(metrics.warp_to_source, _brought_back, _brought_back_law),
    "label_overlap": Case(metrics.label_overlap, _label_maps("pred", "target"), _overlap_law, undefined=True),
    "segmentation_scores": Case(metrics.segmentation_scores, _segmentations, _scores_law, undefined=True),
}


def _scaled(first: str, second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw, minimum=6, most=9)
        pair = {name: tensor(draw, shape, BOUNDED) for name in (first, second)}
        region = draw(st.sampled_from([None, torch.ones(shape[0], 1, *shape[2:], dtype=torch.bool)]))
        weights = draw(st.sampled_from([(1.0,), (0.4, 0.6)]))
        return {
            **pair,
            "mask": region,
            "data_range": draw(RANGES),
            "weights": weights,
            "window": draw(st.sampled_from([1, 3])),
            "sigma": draw(st.floats(0.5, 3)),
        }

    return arguments


def _wavelets(first: str, second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw, minimum=6, most=12)
        pair = {name: tensor(draw, shape, BOUNDED) for name in (first, second)}
        region = draw(st.sampled_from([None, torch.ones(shape[0], 1, *shape[2:], dtype=torch.bool)]))
        return {
            **pair,
            "mask": region,
            "data_range": draw(RANGES),
            "scales": draw(st.sampled_from([1, 2])),
            "orientations": draw(st.integers(2, 5)),
            "window": draw(st.sampled_from([1, 3])),
            "stability": draw(st.floats(1e-4, 0.1)),
        }

    return arguments


def _bodies(draw: Draw) -> Given:
    shape = batch(draw, 1, minimum=7, most=15)
    pair = {name: tensor(draw, shape, BOUNDED) for name in ("image", "target")}
    return {**pair, "mask": torch.ones(shape, dtype=torch.bool), "data_range": draw(RANGES)}


def _synthrad_law(answer: Any, given: Given) -> None:
    assert set(answer) == {"mae_hu", "psnr", "ms_ssim", "ms_ssim_scales"}
    for values in answer.values():
        assert values.shape == (len(given["image"]),)
        assert values.dtype == torch.float64


def _surface_law(answer: Any, given: Given) -> None:
    assert answer.shape == (len(given["pred"]), given["num_classes"] - 1)
    assert not bool((answer < 0).any())


PERCENTILES = st.sampled_from([50.0, 95.0, 100.0])
BLUR_CASES = {
    "SharpnessRatioMetric": Case(
        measured(metrics.SharpnessRatioMetric, "data_range"),
        images("y_pred", "y", data_range=RANGES),
        gathered(),
        PAIR_NAMES,
        undefined=True,
    ),
    "sharpness_ratio": Case(
        metrics.sharpness_ratio, images("pred", "target", data_range=RANGES), per_case("pred"), undefined=True
    ),
    "GMSDMetric": Case(
        measured(metrics.GMSDMetric, "data_range", "stability"),
        images("y_pred", "y", data_range=RANGES, stability=st.floats(1e-3, 1)),
        gathered(),
        PAIR_NAMES,
    ),
    "gradient_magnitude_similarity_deviation": Case(
        metrics.gradient_magnitude_similarity_deviation,
        images("pred", "target", data_range=RANGES, stability=st.floats(1e-3, 1)),
        per_case("pred"),
    ),
    "ComplexWaveletSSIMMetric": Case(
        measured(metrics.ComplexWaveletSSIMMetric, "data_range", "scales", "orientations", "window", "stability"),
        _wavelets("y_pred", "y"),
        gathered(0, 1 + 1e-9),
        PAIR_NAMES,
    ),
    "complex_wavelet_structural_similarity": Case(
        metrics.complex_wavelet_structural_similarity,
        _wavelets("pred", "target"),
        per_case("pred", 0, 1 + 1e-9),
        PAIR_NAMES,
    ),
    "MultiScaleSSIMMetric": Case(
        measured(metrics.MultiScaleSSIMMetric, "data_range", "weights", "window", "sigma"),
        _scaled("y_pred", "y"),
        gathered(0, 1 + 1e-9),
        PAIR_NAMES,
    ),
    "multi_scale_structural_similarity": Case(
        metrics.multi_scale_structural_similarity, _scaled("pred", "target"), per_case("pred", 0, 1 + 1e-9), PAIR_NAMES
    ),
    "synthrad_scores": Case(metrics.synthrad_scores, _bodies, _synthrad_law, PAIR_NAMES, undefined=True),
    "LabelHausdorffMetric": Case(
        measured(metrics.LabelHausdorffMetric, "num_classes", "percentile"),
        _label_maps("y_pred", "y", percentile=PERCENTILES),
        gathered(),
        PAIR_NAMES,
        undefined=True,
    ),
    "hausdorff_distance": Case(
        metrics.hausdorff_distance, _label_maps("pred", "target", percentile=PERCENTILES), _surface_law, undefined=True
    ),
}
TABLE_CASES = {
    "CaseTable": Case(_table, _tabled, _table_law, ("case", "a", "b")),
    "summarize": Case(metrics.summarize, _summarized, _summarized_law, undefined=True),
}
CASES = {**IMAGE_CASES, **EDGE_CASES, **FIELD_CASES, **SET_CASES, **LABEL_CASES, **BLUR_CASES, **TABLE_CASES}
