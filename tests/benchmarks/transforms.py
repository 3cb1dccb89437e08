"""Histogram standardization, rigid alignment and the structure map beside their peers."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from medtrace.data import TraceBench
from medtrace.transforms import HistogramStandardization, RigidAlignment, structure_map
from medtrace.transforms.two_means import two_means, unit_range

from .harness import Measurement, Settings, optional

TITLE = "Intensities, alignment and structure maps"
TEXT = """
*Histogram standardization*: smooth volumes with noise and a background of one value, every voxel counted. Training
reads uncompressed NIfTI files, as torchio does; ours from tensors, which torchio cannot take, has a row too. The note
is the greatest difference of the landmarks, on the scale of 0 to 100. *Rigid alignment*: a volume and itself, turned
by 8°, 5° and 4° and shifted by up to 6 voxels; the peer is SimpleITK's three-level registration (shrink 4, 2, 1;
Mattes information, 32 bins, 10 % of the voxels, regular-step descent, scales from physical shifts). The note is the
mean distance left at the corners of the content. *Structure map*: the default map of a TraceBench slice; at most 100
ms are asked for 256². Its peer `pottslab` is called with the same γ, its result rounded to 1/255 as it does by
default; the note is the value that our functional takes at its result, over that at ours.
"""


def measurements(settings: Settings) -> Iterator[list[Measurement]]:
    """Groups of the part; the transforms work on the CPU."""
    edge, count = (24, 3) if settings.quick else (128, 20)
    volumes = [head(edge, seed) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        paths = [Path(folder) / f"{number}.nii" for number in range(count)]
        for path, volume in zip(paths, volumes, strict=True):
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
        yield training(volumes, paths)
    yield applying(volumes)
    yield alignment(edge if settings.quick else 128)
    yield structure(48 if settings.quick else 256)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of MONAI's and pydicom's readers, one for each file."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def head(edge: int, seed: int) -> Any:
    """A smooth ball with texture and noise on a background of 0; (edge, edge, edge) float32."""
    random = np.random.default_rng(seed)
    grid = np.indices((edge,) * 3, dtype=np.float32) - (edge - 1) / 2
    distance = np.sqrt(np.square(grid / np.array([0.42, 0.36, 0.39], np.float32).reshape(3, 1, 1, 1)).sum(0)) / edge
    texture = gaussian_filter(random.normal(size=(edge,) * 3).astype(np.float32), edge / 20)
    volume = 400 + 150 * texture / texture.std() + 20 * random.normal(size=(edge,) * 3)
    return np.where(distance < 1, np.maximum(volume, 1), 0).astype(np.float32)


def training(volumes: list[Any], paths: list[Path]) -> list[Measurement]:
    tensors = [torch.from_numpy(volume)[None] for volume in volumes]
    operation, size = "Histogram landmarks", f"{len(volumes)} volumes of {volumes[0].shape[0]}³"
    group = [
        Measurement(operation, size, "medtrace, from files", lambda: HistogramStandardization.train(paths), target=8),
        Measurement(
            operation, size, "medtrace, from tensors", lambda: HistogramStandardization.train(tensors), target=8
        ),
    ]
    if torchio := optional("torchio"):
        peer = torchio.HistogramStandardization
        theirs = np.asarray(peer.train(paths, progress=False))[[0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]]
        difference = np.abs(np.asarray(HistogramStandardization.train(paths).of()) - theirs).max()
        note = f"landmarks differ by {difference:.0e}"
        group.append(
            Measurement(operation, size, "torchio", lambda: peer.train(paths, progress=False), ours=False, note=note)
        )
    if optional("intensity_normalization"):
        from intensity_normalization.adapters.images import NumpyImageAdapter
        from intensity_normalization.normalizers.population.nyul import NyulNormalizer

        images = [NumpyImageAdapter(volume) for volume in volumes]
        group.append(
            Measurement(
                operation,
                size,
                "intensity-normalization, from arrays",
                lambda: NyulNormalizer().fit_population(images),
                ours=False,
            )
        )
    return group


def applying(volumes: list[Any]) -> list[Measurement]:
    tensor = torch.from_numpy(volumes[0])[None]
    operation, size = "Histogram standardization", f"a volume of {volumes[0].shape[0]}³"
    ours = HistogramStandardization(HistogramStandardization.train([volume[None] for volume in volumes[:3]]))
    group = [Measurement(operation, size, "medtrace", lambda: ours(tensor), target=3)]
    if torchio := optional("torchio"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "volume.nii"
            nibabel.save(nibabel.Nifti1Image(volumes[0], np.eye(4)), path)
            landmarks = torchio.HistogramStandardization.train([path], progress=False)
        theirs = torchio.HistogramStandardization({"image": landmarks})
        subject = torchio.Subject(image=torchio.ScalarImage(tensor=tensor))
        group.append(Measurement(operation, size, "torchio", lambda: theirs(subject), ours=False))
    return group


def alignment(edge: int) -> list[Measurement]:
    """A volume and itself after a known motion."""
    fixed = gaussian_filter(head(edge, 1), 1.0)
    center = np.full(3, (edge - 1) / 2)
    rotation = turned(np.deg2rad([8, 5, 4]))
    shift = np.array([0.045, -0.03, 0.02]) * edge
    points = np.indices(fixed.shape).reshape(3, -1)
    # moving(rotation (p − center) + center + shift) = fixed(p)
    back = rotation.T @ (points - (center + shift)[:, None]) + center[:, None]
    moving = map_coordinates(fixed, back.reshape(3, *fixed.shape), order=3, mode="nearest").astype(np.float32)
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = rotation, center + shift - rotation @ center
    corners = center[:, None] + 0.35 * edge * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1)
    aligner = RigidAlignment(resample=False)
    inputs = torch.from_numpy(moving)[None], torch.from_numpy(fixed)[None]

    def residual(matrix: Any) -> float:
        result = matrix[:3, :3] @ corners + matrix[:3, 3:]
        return float(np.linalg.norm(result - truth[:3, :3] @ corners - truth[:3, 3:], axis=0).mean())

    ours = residual(aligner.estimate(*inputs).matrix.numpy())
    theirs = residual(as_matrix(plain_registration(fixed, moving)))
    operation, size = "Rigid alignment", f"{edge}³"
    return [
        Measurement(
            operation, size, "medtrace", lambda: aligner.estimate(*inputs), target=1, note=f"{ours:.3f} voxel left"
        ),
        Measurement(
            operation,
            size,
            "SimpleITK, three levels",
            lambda: plain_registration(fixed, moving),
            ours=False,
            once=True,
            note=f"{theirs:.3f} voxel left",
        ),
    ]


def turned(angles: Any) -> Any:
    """Rotation about the first, then the second, then the third axis."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        one[i, i] = one[j, j] = math.cos(angle)
        one[i, j], one[j, i] = -math.sin(angle), math.sin(angle)
        matrix = one @ matrix
    return matrix


def plain_registration(fixed: Any, moving: Any) -> Any:
    """SimpleITK's registration as its examples set it up."""
    images = [sitk.GetImageFromArray(image) for image in (fixed, moving)]
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(*images)


def as_matrix(transform: Any) -> Any:
    """4x4 in array order; SimpleITK's axes run the other way round."""
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.asarray(transform.TransformPoint(tuple(unit))) - origin for unit in np.eye(3).tolist()]
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.stack(columns, axis=1)[::-1, ::-1], origin[::-1]
    return matrix


def structure(edge: int) -> list[Measurement]:
    image = TraceBench("domain", (edge, edge), cases=1, seed=3)[0]["source"].as_tensor()
    values = unit_range(image[0].numpy().astype(np.float64))
    operation, size = "Structure map", f"{edge}²"
    limit = 0.1 if edge == 256 else None
    group = [Measurement(operation, size, "medtrace", lambda: structure_map(image), target_seconds=limit)]
    if optional("pottslab"):
        group.append(pottslab(operation, size, values))
    return group


def pottslab(operation: str, size: str, values: Any) -> Measurement:
    from medtrace.transforms.potts import direction_steps, direction_weights, minimize_potts, potts_energy

    solver = optional("pottslab").min_l2_potts_2d
    gamma = 5e-4 * values.shape[0] * two_means(values).contrast ** 2
    steps = direction_steps(2, "diagonals")

    def run() -> Any:
        return solver(values, gamma)

    result = potts_energy(np.asarray(run()).reshape(values.shape), values, gamma, steps, direction_weights(steps))
    note = f"functional {result / minimize_potts(values, gamma).energy:.3f} times ours"
    return Measurement(operation, size, "pottslab, 8 neighbors", run, ours=False, note=note)
