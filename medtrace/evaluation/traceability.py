"""Traceability by segmentation (Plasticine, Section IV-A): translate, segment, bring the labels back, compare."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medtrace import metrics
from medtrace.data import TraceBench
from medtrace.evaluation.edges import RANGE
from medtrace.evaluation.scoring import Tracer, score_cases
from medtrace.evaluation.segmenter import FEATURES, Segmenter
from medtrace.fields import non_diffeomorphic_fraction
from medtrace.metrics import CaseTable
from medtrace.metrics.distribution import NUM_BINS
from medtrace.report.tables import Better
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of
from medtrace.trace.validation import as_tensor

NO_TRANSLATION = "No translation"
TRUE_TRANSLATION = "True translation"
SEGMENTER = "segmenter"
TRAINING_CASES = 8
"""Training cases of a TraceBench segmenter for every test case."""
TABLE_I = {"accuracy": "Acc", "dice": "Dice", "miou": "mIoU"}
HEADINGS = {
    **TABLE_I,
    "zero_dice": "Dice, zero field",
    "dice_with_background": "Dice with background",
    "miou_with_background": "mIoU with background",
    "fid": "FID",
    "sfd": "SFD",
    "bhattacharyya": "Bhattacharyya",
    "bhattacharyya_head": "Bhattacharyya, head",
    "epe_head_mm": "EPE head (mm)",
    "zero_epe_head_mm": "zero field (mm)",
    "mae": "MAE to the truth (0-255)",
    "non_diffeomorphic_fraction": "folded fraction",
    "seconds_per_case": "seconds a case",
}
"""The columns and distances that a table shows, if it has them."""
BETTER: dict[str, Better] = {
    **dict.fromkeys((*TABLE_I, "dice_with_background", "miou_with_background"), "max"),
    **dict.fromkeys(("fid", "sfd", "bhattacharyya", "bhattacharyya_head", "epe_head_mm", "mae"), "min"),
}


class TraceabilityTable(CaseTable):
    """A `CaseTable` with the numbers that are of all cases together.

    Attributes:
        distances: `bhattacharyya`, `bhattacharyya_head`, `fid`, `sfd` between translations and target domain, where
            they can be reported, and `seconds_per_case`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.distances: dict[str, float] = {}


class _Account:
    """Scores one trace after the other and gathers what the distances are of."""

    def __init__(self, segmenter: Segmenter, network: metrics.FeatureNetwork | None) -> None:
        self.segmenter = segmenter
        self.network = network
        self.histograms: dict[str, Tensor] = {}
        self.features: dict[str, list[Tensor]] = {"image": [], "target": []}

    def __call__(self, trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
        target = as_tensor(case["target"])
        self._count("bhattacharyya", trace.image, target, None, None)
        if "source_head" in case and "target_head" in case:
            head = trace.transfer(as_tensor(case["source_head"]).bool())
            self._count("bhattacharyya_head", trace.image, target, head, as_tensor(case["target_head"]).bool())
        if self.network is not None:
            for name, image in (("image", trace.image), ("target", target)):
                images = image[None].to(self.segmenter.device)
                self.features[name].append(metrics.image_features(self.network, images).cpu())
        return {
            **segmentation_of(trace, case, self.segmenter),
            **truth_of(trace, case),
            "non_diffeomorphic_fraction": float(non_diffeomorphic_fraction(trace.ddf[None])),
        }

    def _count(self, name: str, image: Tensor, target: Tensor, head: Tensor | None, target_head: Tensor | None) -> None:
        counts = [
            metrics.intensity_histogram(values[None], None if mask is None else mask[None], data_range=RANGE)[0]
            for values, mask in ((image, head), (target, target_head))
        ]
        self.histograms[name] = self.histograms.get(name, torch.zeros(2, NUM_BINS).double()) + torch.stack(counts)

    def distances(self) -> dict[str, float]:
        """The numbers of all cases together."""
        result = {name: metrics.bhattacharyya_from_histograms(*counts) for name, counts in self.histograms.items()}
        if len(self.features["image"]) > 1:
            image, target = (torch.cat(features) for features in self.features.values())
            result["fid"] = metrics.frechet_distance(image, target)
            result["sfd"] = metrics.simplified_frechet_distance(image, target)
        return {name: float(value) for name, value in result.items()}


def segmentation_of(trace: Trace, case: Mapping[str, Any], segmenter: Segmenter) -> dict[str, float]:
    """Segment a translation, bring the labels back to the source and compare them with the source's.

    Args:
        trace: trace of the case's source.
        case: with "source_labels", (1, *source_spatial).
        segmenter: of the target's domain.

    Returns:
        `accuracy`, `dice`, `miou` and the others of `metrics.segmentation_scores`; `zero_accuracy`, `zero_dice` and
        `zero_miou` of the same segmentation without the field.
    """
    result = segmenter.segment(trace.image)
    truth = segmenter.truth(case["source_labels"])
    count = 1 + len(segmenter.classes)
    back, stayed = (metrics.warp_to_source(trace, result, count, follow=follow) for follow in (True, False))
    values = metrics.segmentation_scores(back, truth, segmenter.classes)
    zero = metrics.segmentation_scores(stayed, truth, segmenter.classes)
    return {**values, **{f"zero_{name}": zero[name] for name in TABLE_I}}


def truth_of(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """Errors against what is only known of synthetic cases, as far as the case has it.

    Returns:
        `epe_head_mm`, mean end-point error of the field in the brain ("head", on the translation's grid) against "ddf",
        and `zero_epe_head_mm` of a zero field; `mae` (0 to 255) of the image against "translation".
    """
    values: dict[str, Tensor] = {}
    if "ddf" in case and "head" in case and case["ddf"].shape == trace.ddf.shape:
        ddf, head = as_tensor(case["ddf"])[None].to(trace.ddf), as_tensor(case["head"])[None]
        affine = torch.as_tensor(trace.affine, dtype=torch.float64)
        values["epe_head_mm"] = metrics.end_point_error(trace.ddf[None], ddf, head, affine=affine)
        values["zero_epe_head_mm"] = metrics.end_point_error(torch.zeros_like(ddf), ddf, head, affine=affine)
    if "translation" in case:
        truth = as_tensor(case["translation"])[None].to(trace.image)
        values["mae"] = metrics.mean_absolute_error(trace.image[None], truth, data_range=RANGE, output_range=255)
    return {name: float(value) for name, value in values.items()}


def score_traceability(
    tracer: Tracer,
    cases: Any,
    segmenter: Segmenter,
    *,
    feature_network: metrics.FeatureNetwork | None = None,
    batch_size: int = 8,
    progress: str | None = None,
) -> TraceabilityTable:
    """Trace every case of a data set and measure traceability by segmentation and the distance to the target domain.

    Args:
        tracer: gives one trace per item of a batch, such as `method.trace`.
        cases: with "source", "source_labels" and "target" (an image of the target domain, of any subject), and, where
            the truth is known, "translation", "ddf" and "head".
        segmenter: of the target domain.
        feature_network: for `fid` and `sfd`; without one there is neither.
        batch_size: cases traced at once.
        progress: label of the progress bar; None shows none.

    Returns:
        Per case the columns of `segmentation_of` and `truth_of`, and `non_diffeomorphic_fraction`. The table's
        `distances` are `bhattacharyya` of the intensities of all translations and of all targets (64 bins in [-1, 1],
        entire images), `bhattacharyya_head` within the brain (for a translation, the source's brain moved by its
        field), and `fid` and `sfd`.
    """
    account = _Account(segmenter, feature_network)
    seconds = 0.0

    def timed(batch: Mapping[str, Any]) -> Sequence[Trace]:
        nonlocal seconds
        started = time.perf_counter()
        traces = tracer(batch)
        seconds += time.perf_counter() - started
        return traces

    scored = score_cases(timed, cases, scores=account, batch_size=batch_size, progress=progress)
    table = TraceabilityTable()
    table.rows = scored.rows
    table.distances = {**account.distances(), "seconds_per_case": seconds / max(len(cases), 1)}
    return table


def true_translation(batch: Mapping[str, Any]) -> list[Trace]:
    """The best that can be reached: the true image and the true field of synthetic cases.

    Args:
        batch: with "source", "ddf", and "translation", or else "target" as the source's own translation.
    """
    image = as_tensor(batch["translation"] if "translation" in batch else batch["target"])
    inverse = as_tensor(batch["inverse_ddf"]) if "inverse_ddf" in batch else None
    return traces_of(batch["source"], Prediction(image, as_tensor(batch["ddf"]), inverse))


def feature_network_of(
    name: str | os.PathLike | None, segmenter: Path, device: str | torch.device
) -> metrics.FeatureNetwork | None:
    """The feature network that is named: a file, "segmenter" for the one in the segmenter's folder, or none."""
    if name is None:
        return None
    return metrics.load_feature_network(segmenter / FEATURES if name == SEGMENTER else name, device)


def training_cases(test: TraceBench, count: int | None = None) -> TraceBench:
    """Cases of other subjects, made as the test's are: what a segmenter learns from."""
    return TraceBench(
        test.task,
        test.spatial_shape,
        TRAINING_CASES * test.cases if count is None else count,
        test.seed,
        "training",
        settings=test.settings,
        progress=test.progress,
    )


def origin_of(test: TraceBench) -> dict[str, Any]:
    """What `training_cases` are, for the record of a segmenter."""
    return {
        "task": test.task,
        "spatial_shape": list(test.spatial_shape),
        "cases": TRAINING_CASES * test.cases,
        "seed": test.seed,
        "settings": asdict(test.settings),
    }


def note_on(feature_network: str | os.PathLike | None) -> str:
    """Notes for readers of the table."""
    features = {
        None: "FID and SFD: not computed, no feature network was named.",
        SEGMENTER: "FID and SFD are of the features of the target-domain segmenter, not of Inception.",
    }
    of_features = features.get(
        None if feature_network is None else str(feature_network),
        f"FID and SFD are of the features of {feature_network}.",
    )
    return (
        "Acc counts all voxels, Dice and mIoU the classes without the background; labels were warped back by the"
        " inverse field, except for *zero field*. Bhattacharyya: -ln of the coefficient of 64-bin histograms of"
        f" [-1, 1], pooled over all images. {of_features}"
    )
