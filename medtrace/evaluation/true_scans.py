"""The scans that a prepared data set was made from: read again, on the grid of the first source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.bias import in_corrected_intensities
from medtrace.data.dataset import read_index
from medtrace.data.fingerprint import fingerprint
from medtrace.data.lists.pair_list import SIDES, PairImage
from medtrace.data.masks import check_same_grid, read_mask
from medtrace.data.population import SCANS, role_records
from medtrace.data.preparation.case import moved_labels, onto_reference
from medtrace.data.preparation.intensity import find_foreground
from medtrace.data.preparation.maps import read_label_map
from medtrace.data.preparation.rules import Preparation
from medtrace.data.reading import read_image
from medtrace.data.scan_files import ScanFiles
from medtrace.inference.sources import SourceImages, one_source, several_sources
from medtrace.io.transforms import itk_transform_of
from medtrace.trace.validation import as_tensor
from medtrace.transforms import RigidTransform
from medtrace.transforms.itk_frame import LPS, to_matrix


@dataclass(frozen=True)
class TrueScans:
    """The scans of a pair on the grid of its first source, as they were read.

    Attributes:
        files: their paths.
        scans: contrast → (C, *spatial) of each source on its own grid, in its units.
        targets: likewise of each target, on the grid of the first source; corrected as the data set is.
        tissue: contrast → (1, *spatial) boolean, where the target shows something.
        mask: (1, *spatial) boolean that came with the pair, or None.
        labels: side → (1, *spatial) integers, both on the grid of the first source; empty without.
    """

    files: ScanFiles
    scans: dict[str, MetaTensor]
    targets: dict[str, Tensor]
    tissue: dict[str, Tensor]
    mask: Tensor | None
    labels: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def read(cls, dataset: Path, volume: str, files: ScanFiles, preparation: Preparation) -> TrueScans:
        """Read a pair of a prepared data set, its targets moved as they were when it was prepared.

        Args:
            dataset: the folder.
            volume: name of the pair.
            files: paths of its scans.
            preparation: preparation of the data set.

        Raises:
            FileNotFoundError, ValueError: if a scan is missing, cannot be read or is not the one that was prepared.
        """
        known = _fingerprints(dataset, volume, files)
        images = {image.key: _read(image, files, known.get(image.key)) for image in files.images}
        first = files.images[0]
        reference = images[first.key]
        mask = None if files.mask is None else read_mask(files.mask, reference, first.path)
        targets, tissue = {}, {}
        for image in files.of("target"):
            meaning = preparation.contrasts.get(image.contrast)
            scan = in_corrected_intensities(images[image.key], meaning)
            seen, moved = find_foreground(scan, meaning), as_tensor(scan)
            if files.align and not preparation.natural_image:
                names, motion = (image.path, first.path), _motion(dataset, volume, image)
                moved, seen, _ = onto_reference(names, scan, reference, seen, mask, motion)
            else:
                check_same_grid(scan, image.path, reference, first.path)
            targets[image.contrast], tissue[image.contrast] = moved.float(), seen
        sources = {image.contrast: images[image.key] for image in files.of("source")}
        labels = _labels(dataset, volume, files, images, preparation.natural_image)
        return cls(files, sources, targets, tissue, mask, labels)

    def sources(self, preparation: Preparation, may_lack: bool) -> SourceImages:
        """The sources as the networks of a run read them.

        Args:
            preparation: preparation of the run.
            may_lack: whether it was trained with sources dropped.
        """
        paths = {image.contrast: image.path for image in self.files.of("source")}
        if preparation.sources:
            return several_sources(preparation, paths, self.scans, self.mask, may_lack)
        name = next(iter(paths))
        return one_source(preparation, paths[name], self.scans[name], self.contrast(preparation), self.mask)

    def contrast(self, preparation: Preparation) -> str | None:
        """Contrast of the source, if a run was trained on several."""
        asked = preparation.source_contrast is None and not preparation.sources and not preparation.natural_image
        return next(iter(self.scans)) if asked and preparation.contrasts else None


def _read(image: PairImage, files: ScanFiles, known: str | None) -> MetaTensor:
    if not image.path.exists():
        raise FileNotFoundError(f"{image.path}: no such file, though the data set was prepared from it")
    scan = read_image(image.path, image.series, page=files.page, resample_tilt=files.resample_tilt)
    if known is not None and fingerprint(scan.as_tensor()) != known:
        raise ValueError(f"{image.path}: holds other voxels than when the data set was prepared; prepare it again")
    return scan


def _labels(
    dataset: Path, volume: str, files: ScanFiles, images: Mapping[str, MetaTensor], natural_image: bool
) -> dict[str, Tensor]:
    result = {}
    for side, path in files.labels.items():
        image = files.of(side)[0]
        scan = images[image.key]
        result[side] = labels = read_label_map(path, scan, image.path)
        if side == "target" and files.align and not natural_image:
            marked = MetaTensor(labels, affine=scan.affine)
            result[side] = moved_labels(marked, images[files.images[0].key], _motion(dataset, volume, image))
    return result


def _fingerprints(dataset: Path, volume: str, files: ScanFiles) -> dict[str, str]:
    """Key of an image of a pair (see `PairImage.key`) → fingerprint of its voxels when it was prepared."""
    for scan in read_index(dataset).get(SCANS, ()):
        if scan["volume"] == volume:
            return {
                image.key: record.fingerprint
                for side in SIDES
                for image, record in zip(files.of(side), role_records(scan, side))
            }
    return {}


def _motion(dataset: Path, volume: str, image: PairImage) -> RigidTransform:
    """The preparation's transform of an image onto the first."""
    name = f"{volume}.tfm" if image.key == "target" else f"{volume}_{image.key}.tfm"
    transform = itk_transform_of(dataset / "rigid" / name)
    return RigidTransform(torch.from_numpy(to_matrix(transform, LPS)), float("nan"), 0, "read from the data set")
