"""Follow-ups of real heads: two dates of a person, and where experts saw that lesions had changed.

The longitudinal data of Lesjak et al. (Neuroinformatics 2016), read as `medtrace.evaluation.real.heads` reads them:
`{study1,study2}_FLAIR.nii.gz`, `study2_FLAIR_to_common_space.txt`, `brainmask.nii.gz` and `gt.nii.gz`, the mask of
change on the grid of the common space.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.data.nifti import read_nifti
from medtrace.evaluation.real.heads import without_bias
from medtrace.registration import register_images
from medtrace.trace.geometry import pull
from medtrace.trace.validation import as_tensor
from medtrace.transforms.histogram_standardization import HistogramStandardization

TRUTH, FLAIR = "gt.nii.gz", "FLAIR"
MASKED = "patient01"
"""The person whose brain mask fits; the others get it by a registration of the FLAIRs."""
WORKED_MM = 2.0
"""Voxels on which registrations work."""
RIM_MM = 4.0
"""Of the brain mask, in from its border, that is not scored: a mask that was carried is not exact there."""


@dataclass(frozen=True)
class FollowUp:
    """A person at two dates.

    Attributes:
        person: name of the person.
        dates: files of the FLAIR of the first and of the second date.
        to_common: ITK transform that resamples the second onto the grid of `truth`.
        truth: file of the mask of change.
        mask: file of the brain mask on that grid.
    """

    person: str
    dates: tuple[Path, Path]
    to_common: Path
    truth: Path
    mask: Path


@dataclass(frozen=True)
class DatedPair:
    """Both dates in memory, (1, *spatial) each.

    Attributes:
        person: name of the person.
        first: first date, on its own grid.
        second: second date, on the grid of the truth.
        first_affine, affine: affines of these grids, voxel to RAS mm.
        truth: boolean, where lesions changed.
    """

    person: str
    first: Tensor
    second: Tensor
    first_affine: Tensor
    affine: Tensor
    truth: Tensor

    @property
    def spacing(self) -> tuple[float, ...]:
        """Of the second date's grid, mm."""
        return tuple(float(edge) for edge in self.affine[:3, :3].norm(dim=0))


def find_follow_ups(folder: str | os.PathLike) -> list[FollowUp]:
    """The persons with a FLAIR at both dates and a mask of change.

    Raises:
        FileNotFoundError: if there are none, or the one whose brain mask fits is missing.
    """
    root = Path(folder)
    root = root / "open_ms" if (root / "open_ms").is_dir() else root
    result = []
    for person in sorted([*root.glob("longitudinal/raw/patient*"), *root.glob("longitudinal/patient*")]):
        apart = person.parents[1] / "coregistered" / person.name
        beside = apart if (apart / TRUTH).is_file() else person
        dates = person / f"study1_{FLAIR}.nii.gz", person / f"study2_{FLAIR}.nii.gz"
        common = person / f"study2_{FLAIR}_to_common_space.txt"
        files = (*dates, common, beside / TRUTH, beside / "brainmask.nii.gz")
        if all(file.is_file() for file in files):
            result.append(FollowUp(person.name, dates, *files[2:]))
    if MASKED not in [one.person for one in result]:
        raise FileNotFoundError(
            f"{root}: expected persons with two FLAIRs and {TRUTH} in longitudinal, {MASKED} among them, found"
            f" {', '.join(one.person for one in result) or 'none'}; give the folder of the open MS data"
        )
    return result


def read_pair(one: FollowUp) -> DatedPair:
    """Both dates of a person and the truth."""
    truth = sitk.ReadImage(str(one.truth))
    second = sitk.Resample(
        sitk.ReadImage(str(one.dates[1]), sitk.sitkFloat32), truth, sitk.ReadTransform(str(one.to_common))
    )
    first = read_nifti(one.dates[0])
    return DatedPair(
        one.person,
        as_tensor(first),
        _tensor(second),
        torch.as_tensor(first.affine, dtype=torch.float64).as_subclass(Tensor),
        torch.as_tensor(read_nifti(one.truth).affine, dtype=torch.float64).as_subclass(Tensor),
        _tensor(truth) > 0,
    )


def brain_of(one: FollowUp, pair: DatedPair, fitting: tuple[FollowUp, DatedPair]) -> Tensor:
    """Boolean (1, *spatial) brain mask on the grid of the truth.

    Args:
        one, pair: the person.
        fitting: the person whose mask fits; for that person, the result is the mask itself.
    """
    mask = _tensor(sitk.ReadImage(str(fitting[0].mask))) > 0
    if one.person == fitting[0].person:
        return mask
    found = register_images(
        fitting[1].second,
        pair.second,
        fitting[1].affine,
        pair.affine,
        alignment="affine",
        spacing=WORKED_MM + 1,
        check_starts=False,
    )
    return pull(mask.float(), found.ddf, torch.linalg.solve(fitting[1].affine, pair.affine)) > 0.5


def prepared(image: Tensor, affine: Tensor, brain: Tensor) -> Tensor:
    """An image without the bias field that N4 finds in its brain (`heads.without_bias`)."""
    spacing = [float(edge) for edge in affine[:3, :3].norm(dim=0)]
    parts = []
    for values in (image[0], brain[0].float()):
        part = sitk.GetImageFromArray(np.transpose(values.numpy()))
        part.SetSpacing(spacing)
        parts.append(part)
    return _tensor(without_bias(*parts))


def standardized(
    images: Sequence[Tensor], brains: Sequence[Tensor], others: Sequence[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Images on the scale of other persons' (Nyul's landmarks of these, in the brain).

    Args:
        images, brains: images and brain masks of the person.
        others: images and brain masks of others, from which the landmarks are learned.
    """
    landmarks = HistogramStandardization.train([image for image, _ in others], [mask for _, mask in others])
    change = HistogramStandardization(landmarks)
    return [torch.as_tensor(change(image, mask)).as_subclass(Tensor) for image, mask in zip(images, brains)]


def _tensor(image: sitk.Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.transpose(sitk.GetArrayFromImage(image)))).float()[None]
