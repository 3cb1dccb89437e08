"""The trace of a translated image that registration found, and the worst that is to be said of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medtrace.data.contrasts import BY_DEFAULT
from medtrace.evaluation.certificate.record import Certificate
from medtrace.registration import Line, Verdict, explain
from medtrace.registration.contrast import ONE_CONTRAST
from medtrace.registration.register import Registration
from medtrace.trace import Contrast, Trace

GRADES = ("PASS", "WARN", "FAIL")
HELD_OUT = "held-out blocks"


def trace_by_registration(
    source: Tensor,
    image: Tensor,
    source_affine: Tensor,
    affine: Tensor,
    result: Registration,
    mask: Tensor | None = None,
    contrasts: tuple[Contrast, Contrast] | None = None,
    tissue: Tensor | None = None,
) -> Trace:
    """The trace of an image whose field a registration found.

    Args:
        source: (C, *spatial), the source that was translated, in its units.
        image: (C, *spatial), its translation, in its own units.
        source_affine: (4, 4) voxel to RAS mm.
        affine: likewise of the image.
        result: result of the registration of the source to the image.
        mask: (1, *spatial) on the image's grid, where intensity may change.
        contrasts: contrasts of source and image; None if both have the same.
        tissue: (1, *spatial) on the image's grid, where the change of contrast is estimated; None finds it.
    """
    channels = source.shape[0]
    return Trace.build(
        source=source,
        image=image,
        ddf=result.ddf,
        inverse_ddf=result.inverse_ddf,
        mask=None if mask is None else (mask > 0.5).to(torch.float32),
        affine=affine,
        source_affine=source_affine,
        tissue=tissue,
        source_contrasts=None if contrasts is None else (contrasts[0],) * channels,
        contrasts=None if contrasts is None else (contrasts[1],) * channels,
    )


def lines_of(result: Registration) -> tuple[Line, ...]:
    """The findings about a registration, including those of held-out blocks."""
    return (*explain(result.verdict, result.alignment), *_held_out(result))


def worst_grade(verdict: Verdict, lines: Sequence[Line], certificate: Certificate) -> str:
    """The worst of the registration's verdict, its lines and the certificate's verdict."""
    grades = (verdict.grade, *(line.grade for line in lines), str(certificate.verdict))
    return max(grades, key=GRADES.index)


def contrasts_by_likeness(
    declared: tuple[Contrast, Contrast], verdict: Verdict
) -> tuple[tuple[Contrast, Contrast] | None, str]:
    """The contrasts of a trace, None for one of both images, and how they are known.

    Args:
        declared: contrasts of source and image (see `medtrace.data.contrasts.contrasts_of`).
        verdict: verdict of their registration.
    """
    before, after = declared
    if BY_DEFAULT not in (before.origin, after.origin):
        return declared, f"contrasts {before} and {after}, as declared or as DICOM says"
    correlation = verdict.figures["contrast_correlation"]
    if correlation >= ONE_CONTRAST and before.unit == after.unit:
        return None, (
            f"treated as one contrast and unit: intensities correlate by {correlation:.2f};"
            " if not, declare them by --source-contrast and --image-contrast"
        )
    return declared, (
        f"treated as two contrasts, so no difference is reported: intensities correlate by {correlation:.2f};"
        " declare them by --source-contrast and --image-contrast"
    )


def _held_out(result: Registration) -> tuple[Line, ...]:
    """The findings of the held-out blocks."""
    evidence = result.evidence
    if evidence is None or not evidence.blocks:
        return ()
    told = (
        f"squared local correlation in {evidence.blocks} held-out blocks: {evidence.gain:+.4f} ± {evidence.error:.4f}"
    )
    figures = {"held_out_gain": evidence.gain, "held_out_error": evidence.error, "kept": evidence.kept}
    if evidence.grade == "NONE":
        text = f"nothing moves measurably, so no deformation is kept; with the one that was found, {told}"
        return (Line(HELD_OUT, "PASS", text, figures),)
    text = f"{told}; {100 * evidence.kept:.0f} % of the deformation's energy is confirmed by them"
    if evidence.grade == "WARN":
        text = f"what the deformation explains is within the noise: {text}"
    return (Line(HELD_OUT, evidence.grade, text, figures),)
