"""Columns of an evaluation in words: label, unit, and whether higher or lower is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from medtrace.evaluation.paired_rows import larger_is_better, without_contrast

KEY = (
    "mae",
    "ssim",
    "psnr",
    "landmark_mm",
    "epe_mm",
    "epe_deformed_mm",
    "label_dice",
    "drift_mm",
    "non_diffeomorphic_fraction",
)
"""Columns shown in charts and in the table of cases, if present."""
_LABELS = {
    "mae": "mean absolute error",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "nmi": "normalized mutual information",
    "cw_ssim": "complex-wavelet SSIM",
    "non_diffeomorphic_fraction": "folded voxels",
    "sd_log_jacobian": "SD of the log Jacobian",
    "inverse_consistency_mm": "inverse-consistency error",
    "epe_mm": "end-point error",
    "epe_deformed_mm": "end-point error where tissue moves",
    "epe_still_mm": "end-point error where nothing moves",
    "zero_field_mm": "true displacement where tissue moves",
    "landmark_mm": "landmark error",
    "label_dice": "Dice of labels",
    "label_hd95_mm": "95th percentile Hausdorff distance of labels",
    "drift_mm": "drift",
    "common_drift_mm": "common drift",
    "edge_dice": "Dice of edges (warped source, image)",
    "edge_ssim": "SSIM of edges (warped source, image)",
    "edge_psnr": "PSNR of edges (warped source, image)",
    "edge_nmi": "mutual information of edges (warped source, image)",
    "delivered_mae": "mean absolute error",
    "delivered_psnr": "PSNR",
    "delivered_ssim": "SSIM",
}
_UNITS = {"mae": "0–255", "non_diffeomorphic_fraction": "fraction", "psnr": "dB", "edge_psnr": "dB"}
_SHORT = {
    "mae": "MAE",
    "non_diffeomorphic_fraction": "folded",
    "landmark_mm": "landmarks",
    "epe_mm": "EPE",
    "epe_deformed_mm": "EPE, moved",
    "label_dice": "Dice",
}


class Measure(NamedTuple):
    """A column of scores, for readers."""

    label: str
    unit: str
    larger_is_better: bool | None
    """None if neither direction is better."""
    short: str

    @property
    def title(self) -> str:
        """The label with its unit."""
        return self.label + (f" ({self.unit})" if self.unit else "")

    @property
    def arrow(self) -> str:
        """An arrow to the better direction."""
        return {True: "↑", False: "↓", None: ""}[self.larger_is_better]


def measure_of(column: str, delivered: Mapping[str, Any] | None = None) -> Measure:
    """A column in words.

    Args:
        column: of a table of scores.
        delivered: for delivered scans, each contrast's entry, with its unit.

    Example:
        >>> measure_of("landmark_mm").title, measure_of("mae").arrow
        ('landmark error (mm)', '↓')
    """
    whole, contrast = without_contrast(column)
    if contrast:
        measure = measure_of(whole, {name: facts for name, facts in (delivered or {}).items() if name == contrast})
        return Measure(f"{measure.label} of {contrast}", measure.unit, measure.larger_is_better, measure.short)
    label = _LABELS.get(column) or column.removesuffix("_mm").removesuffix("_hu").replace("_", " ")
    unit = _UNITS.get(column, "")
    if not unit:
        parts = column.split("_")
        unit = "mm" if parts[-1] == "mm" else "HU" if parts[-1] == "hu" else "dB" if "psnr" in parts else ""
    if column == "delivered_mae":
        unit = ", ".join(dict.fromkeys(str(one["unit"]) for one in (delivered or {}).values()))
    short = _SHORT.get(column, label) + (f", {unit}" if unit and column != "non_diffeomorphic_fraction" else "")
    return Measure(label, unit, larger_is_better(column), short)
