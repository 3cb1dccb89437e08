"""The bias field of a scan: brightness that the receiving coil gives to places, and no tissue has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.preparation.intensity import find_foreground
from medtrace.geometry.resampling import spacing_of
from medtrace.trace.contrast import Contrast
from medtrace.trace.validation import as_tensor

SHRINK_MM, ITERATIONS = 4.0, (50, 50, 50, 50)
"""Spacing at which a bias field is fitted, and iterations at each of its levels."""
ALL = "all"


def without_bias(image: sitk.Image, mask: sitk.Image) -> sitk.Image:
    """An image divided by the smooth bias field that N4 finds in it (Tustison et al., IEEE TMI 2010).

    Args:
        image: float32, in any unit.
        mask: mask of the tissue, on the same grid.
    """
    shrink = [min(size, max(1, round(SHRINK_MM / edge))) for size, edge in zip(image.GetSize(), image.GetSpacing())]
    inside = sitk.Cast((mask > 0) & (image > 0), sitk.sitkUInt8)
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(ITERATIONS)
    corrector.SetNumberOfThreads(1)  # the same field on any machine
    corrector.Execute(sitk.Shrink(image, shrink), sitk.Shrink(inside, shrink))
    return image / sitk.Exp(corrector.GetLogBiasFieldAsImage(image))


def in_corrected_intensities(scan: MetaTensor, contrast: Contrast | None) -> MetaTensor:
    """A scan as its contrast's rule wants it: without its bias field where `bias_corrected`, else as it is.

    N4 uses the voxels above 0 of `find_foreground`, separately for each channel.

    Args:
        scan: (C, *spatial), in its units.
        contrast: what its numbers mean, None if unknown.

    Raises:
        ValueError: if N4 finds no field.

    Example:
        >>> scan = MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.eye(4))
        >>> in_corrected_intensities(scan, Contrast.of("T1")) is scan
        True
    """
    if contrast is None or not contrast.bias_corrected:
        return scan
    values, tissue = as_tensor(scan).float(), find_foreground(scan, contrast)[0]
    flat = values.ndim == 4 and values.shape[-1] == 1
    spacing = [float(edge) for edge in spacing_of(scan.affine)][: values.ndim - 1]
    if flat:
        values, tissue, spacing = values[..., 0], tissue[..., 0], spacing[:2]
    try:
        corrected = torch.stack([_corrected(channel, tissue, spacing) for channel in values])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"bias correction: N4 finds no field in the {contrast} image ({reason}); check the image, or prepare"
            " without bias correction"
        ) from error
    meta = {name: value for name, value in scan.meta.items() if name != "affine"}
    return MetaTensor(corrected[..., None] if flat else corrected, affine=scan.affine, meta=meta)


def corrected_contrasts(contrasts: Mapping[str, Contrast], names: Sequence[str]) -> dict[str, Contrast]:
    """Contrasts, some of which are to be corrected.

    Args:
        contrasts: by name.
        names: names of those to correct; "all" is every one in arbitrary units.

    Raises:
        ValueError: if one is unknown, or its numbers have a fixed unit, as a CT's do.
    """
    chosen = [name for name, one in contrasts.items() if one.relative] if ALL in names else list(names)
    for name in chosen:
        if name not in contrasts:
            known = ", ".join(map(repr, contrasts))
            raise ValueError(f"bias_correction: expected 'all' or some of {known}, received {name!r}")
        if not contrasts[name].relative:
            raise ValueError(
                f"bias_correction: expected contrasts in arbitrary units, received {contrasts[name]}, whose numbers"
                " no coil affects; leave it out"
            )
    if ALL in names and not chosen:
        raise ValueError("bias_correction: expected a contrast in arbitrary units, received none; leave it out")
    return {name: replace(one, bias_corrected=name in chosen) for name, one in contrasts.items()}


def _corrected(channel: Tensor, tissue: Tensor, spacing: Sequence[float]) -> Tensor:
    axes = tuple(reversed(range(channel.ndim)))
    image, mask = (
        sitk.GetImageFromArray(value.permute(axes).contiguous().numpy())
        for value in (channel.cpu(), tissue.to(torch.uint8).cpu())
    )
    for one in (image, mask):
        one.SetSpacing(list(spacing))
    return torch.from_numpy(sitk.GetArrayFromImage(without_bias(image, mask))).permute(axes).contiguous()
