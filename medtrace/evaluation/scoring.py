"""Every number reported of one case: image quality, correspondence, regularity, and the truth where it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from monai.data import DataLoader, list_data_collate
from torch import Tensor
from tqdm import tqdm

from medtrace import metrics
from medtrace.evaluation.edges import (
    RANGE,
    SSIM_WINDOW,
    controlled_correspondence,
    deformed_correspondence,
    healthy_region,
    if_large,
)
from medtrace.evaluation.labels import label_agreement
from medtrace.fields import non_diffeomorphic_fraction
from medtrace.guard.notices import notify
from medtrace.guard.progress import Steps
from medtrace.trace import Trace

CW_SSIM_GRID = 28
"""Pixels of an image's shorter axis from which on its CW-SSIM in three scales is defined."""
DEFORMED_ABOVE = 0.3
"""Voxels of true displacement above which a point counts as deformed."""

Tracer = Callable[[Mapping[str, Any]], Sequence[Trace]]
Cases = Any  # a data set of case mappings: anything with a length and items, such as a list or a torch Dataset
Scores = Callable[[Trace, Mapping[str, Any]], Mapping[str, float]]
"""The values of one case: of its trace, given the case."""


def score_case(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
    """Score the trace of a case; see `score_cases` for the columns."""
    values = score(trace, case["target"], case.get("ddf"), healthy_region(case))
    if "source_landmarks" in case:
        values["landmark_mm"] = _landmark_error(trace, case["source_landmarks"], case["target_landmarks"])
    if "source_labels" in case and "target_labels" in case:
        dims = trace.ddf.shape[0]
        spacing = torch.as_tensor(trace.affine)[:3, :dims].norm(dim=0).tolist()
        moved = trace.transfer(torch.as_tensor(case["source_labels"]).as_subclass(Tensor))
        values |= label_agreement(moved, torch.as_tensor(case["target_labels"]).as_subclass(Tensor), spacing)
    return values


def score_cases(
    tracer: Tracer,
    dataset: Cases,
    *,
    scores: Scores = score_case,
    batch_size: int = 8,
    progress: str | None = None,
) -> metrics.CaseTable:
    """Trace every case of a data set and score it.

    Columns: `mae` and `psnr` (0 to 255), `ssim`, `nmi`, `cw_ssim` of the image against the target; `edge_ssim`,
    `edge_psnr`, `edge_nmi`, `edge_dice` (Otsu) of the warped source against the image (TraceTrans, Table 3), with
    several contrasts of the first that the case has, without pathology if the case marks it; the same of the source
    as it was, `edge_ssim_no_field` and so on;
    `non_diffeomorphic_fraction`, `sd_log_jacobian` and `inverse_consistency_mm` of the field. With a true field in the
    case also the mean end-point error in mm, `epe_mm` over the grid and `epe_deformed_mm` where the true displacement
    exceeds 0.3 voxel, the true length there (`zero_field_mm`), NaN where nothing is deformed, and `epe_still_mm` where
    it does not; and edges of the deformed part, without pathology: `edge_dice_deformed`, and of the source as it was
    and moved by the true field `..._no_field`, `..._true_field`.
    With landmarks in the case `landmark_mm`, the mean distance of the located source points from the target's. With
    labels of source and target `label_dice` and `label_hd95_mm` (see `medtrace.evaluation.labels`), for the identity
    those of unmoved labels.

    Args:
        tracer: gives one trace per item of a batch, such as `method.trace`.
        dataset: cases with "source", "target" in [-1, 1] and optionally "case", "mask" and "source_mask" (or
            TraceBench's "cavity" and "lesion"), "ddf", "source_landmarks" and "target_landmarks", (N, 3) in mm.
        scores: what is reported of a case; by default the columns above.
        batch_size: cases per call of `tracer`.
        progress: label of the progress bar; None shows none.

    Returns:
        One row per case.
    """
    table, small = metrics.CaseTable(), []
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=_batches_and_items)
    steps = Steps(f"scoring {progress}" if progress else "scoring", len(dataset))
    with tqdm(total=len(dataset), desc=progress, disable=None if progress else True, unit="case", leave=False) as bar:
        for batches in loader:
            for batch, items in batches:
                for item, trace in zip(items, tracer(batch)):
                    case = item.get("case", f"case-{bar.n:04d}")
                    table.add(case, scores(trace, item))
                    if min(trace.image.shape[1:]) < SSIM_WINDOW:
                        small.append(str(case))
                    bar.update()
                    steps.done()
    if small:
        notify(
            small[0],
            f"{len(small)} of {len(table.rows)} images are smaller than the {SSIM_WINDOW} voxels of SSIM's window;"
            " those cells are empty",
        )
    return table


def _batches_and_items(items: list[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]]:
    """The items in order, each run of one size as a batch."""
    runs = [list(run) for _, run in groupby(items, key=lambda item: tuple(item["source"].shape))]
    # Landmarks differ in number from case to case and cannot be collated.
    kept = [[{key: value for key, value in item.items() if "landmarks" not in key} for item in run] for run in runs]
    return [(list_data_collate(run), all_of) for run, all_of in zip(kept, runs)]


def _landmark_error(trace: Trace, source_points: Tensor, target_points: Tensor) -> float:
    located = trace.locate(torch.as_tensor(source_points, dtype=torch.float64))
    truth = torch.as_tensor(target_points, dtype=torch.float64)
    return float(metrics.landmark_error(located[None].to(truth), truth[None]))


def score(
    trace: Trace, target: Tensor, true_ddf: Tensor | None = None, healthy: Tensor | None = None
) -> dict[str, float]:
    """Score one trace; see `score_cases` for the columns.

    Args:
        trace: trace of a network, in [-1, 1], source and target on one grid.
        target: (C, *spatial) in [-1, 1].
        true_ddf: (spatial_dims, *spatial) in voxels, where it is known.
        healthy: (1, *spatial) boolean, where edges count; None is everywhere.
    """
    image, warped, ddf = (_batched(value) for value in (trace.image, trace.warped, trace.ddf))
    target = _batched(target).to(image)
    source, warped = (as_channels(value, image.shape[1]) for value in (_batched(trace.source).to(image), warped))
    counted = None if healthy is None else _batched(healthy).to(image.device)
    affine = torch.as_tensor(trace.affine, dtype=torch.float64)
    values = {
        **fidelity(image, target),
        **controlled_correspondence(source, warped, image, counted),
        "non_diffeomorphic_fraction": non_diffeomorphic_fraction(ddf),
        "sd_log_jacobian": metrics.sd_log_jacobian(ddf),
        "inverse_consistency_mm": metrics.mean_inverse_consistency(ddf, _batched(trace.inverse_ddf), affine=affine),
    }
    if true_ddf is not None:
        truth = _batched(true_ddf).to(ddf)
        region = metrics.deformed_region(truth, DEFORMED_ABOVE)
        values |= {
            "epe_mm": metrics.end_point_error(ddf, truth, affine=affine),
            "epe_deformed_mm": metrics.end_point_error(ddf, truth, affine=affine, deformed_above=DEFORMED_ABOVE),
            "zero_field_mm": metrics.end_point_error(
                torch.zeros_like(truth), truth, affine=affine, deformed_above=DEFORMED_ABOVE
            ),
        }
        if not region.all():
            values["epe_still_mm"] = metrics.end_point_error(ddf, truth, ~region, affine=affine)
        region = region if counted is None else region & counted
        values |= deformed_correspondence(source, warped, image, truth, region)
    return {name: float(value) for name, value in values.items()}


def as_channels(source: Tensor, channels: int) -> Tensor:
    """A source beside an image of other channels: its first one that is not constant, for each of them.

    Args:
        source: (B, C, *spatial); with `channels` of them it stays as it is.
        channels: channels of the image.
    """
    if source.shape[1] == channels:
        return source
    flat = source.flatten(2)
    first = (flat.amax(2) > flat.amin(2)).float().argmax(1)
    return torch.stack([item[c : c + 1].expand(channels, *item.shape[1:]) for item, c in zip(source, first)])


def fidelity(image: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Similarity of image and target over the grid: `mae` (0 to 255), `psnr`, `ssim`, `nmi`, `cw_ssim`.

    Args:
        image: (B, C, *spatial) in [-1, 1].
        target: (B, C, *spatial) in [-1, 1].
    """
    return {
        "mae": metrics.mean_absolute_error(image, target, data_range=RANGE, output_range=255),
        "psnr": metrics.peak_signal_to_noise_ratio(image, target, data_range=RANGE),
        "ssim": if_large(metrics.structural_similarity, image, target),
        "nmi": metrics.normalized_mutual_information_score(image, target, data_range=RANGE),
        "cw_ssim": if_large(metrics.complex_wavelet_structural_similarity, image, target, least=CW_SSIM_GRID),
    }


def _batched(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor)[None]
