"""One intact file of every kind that medtrace reads, and the reader that gets its broken copies."""

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
import yaml
from PIL import Image

from medtrace import io
from medtrace.data import reading
from medtrace.data.dataset import load_dataset
from medtrace.data.landmarks.points import read_landmarks
from medtrace.data.lists.layouts import read_pair_list
from medtrace.data.preparation.intensity import ContrastStandard
from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import RunRecord, read_run
from medtrace.evaluation.certificate import Certificate, Check, Status, Thresholds
from medtrace.fields import exponentiate
from medtrace.geometry import Grid
from medtrace.guard.configurations import BUNDLES, foreign_code, read_config
from medtrace.guard.weights import load_weights
from medtrace.io.foreign import Images, read_point_map
from medtrace.methods import method_class, resolve
from medtrace.metrics.frechet import load_feature_network
from medtrace.report.certificate import certificate_html, read_certificate
from medtrace.report.tables import read_rows
from medtrace.trace import Trace
from medtrace.trace.contrast import Intensity
from tests.cases import landmarks, transform_programs, transform_variants, transforms
from tests.cases.common import CASES

SHAPE = (7, 6, 5)
AFFINE = torch.tensor([[-1.2, 0, 0, 30], [0, 0.9, 0, -20], [0, 0, 2, 4], [0, 0, 0, 1.0]], dtype=torch.float64)


class Kind(NamedTuple):
    """Files of one kind: which file of a folder is broken, and what reads the folder."""

    file: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]


def volume() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(0, 1000, SHAPE).astype(np.int16)


def small_trace() -> Trace:
    torch.manual_seed(0)
    velocity = torch.randn(1, 3, *SHAPE) * 0.2
    source = torch.from_numpy(volume())[None].float()
    ddf, inverse = exponentiate(velocity)[0], exponentiate(-velocity)[0]
    return Trace.build(
        source, source * 0.9, ddf, inverse_ddf=inverse, mask=torch.ones(1, *SHAPE), velocity=velocity[0], affine=AFFINE
    )


def _nifti(name: str, data: np.ndarray | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = nibabel.Nifti1Image(volume() if data is None else data, AFFINE.numpy())
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"an extension"))
        nibabel.save(image, folder / name)

    return make


def _nifti_pair(folder: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(volume(), AFFINE.numpy()), folder / "image.img")


def _freesurfer(folder: Path) -> None:
    nibabel.save(nibabel.MGHImage(volume(), AFFINE.numpy()), folder / "image.mgz")


def _nifti2(folder: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(volume(), AFFINE.numpy()), folder / "image.nii")


def _itk(name: str, compress: bool = False) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = sitk.GetImageFromArray(volume().T)
        image.SetSpacing((1.2, 0.9, 2.0))
        sitk.WriteImage(image, str(folder / name), useCompression=compress)

    return make


def _natural_image(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        Image.fromarray((np.arange(16 * 12 * 3) % 251).astype(np.uint8).reshape(12, 16, 3)).save(folder / name)

    return make


def _dicom(folder: Path) -> None:
    from tests.test_dicom import write_series

    write_series(folder / "series", shape=(7, 6, 3))
    (folder / "series" / sorted(path.name for path in (folder / "series").iterdir())[0]).rename(
        folder / "series" / "first.dcm"
    )


def _dicom_registration(folder: Path) -> None:
    _dicom(folder)
    series = io.read_source_series(folder / "series")
    trace = small_trace()
    headers = series.headers
    io.write_dicom_registration(
        folder / "field.dcm", trace.ddf, trace.affine, series, registered=headers, source=headers
    )


def _saved(folder: Path) -> None:
    io.save_trace(small_trace(), folder / "trace")


def _transform(name: str) -> Callable[[Path], None]:
    return lambda folder: io.write_transform(folder / name, small_trace().ddf, AFFINE)


def _motion(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        motion = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0))
        sitk.WriteTransform(motion, str(folder / name))

    return make


def _weights(name: str, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        states = {"method": torch.nn.Conv2d(2, 3, 3).state_dict(), "epoch": 3, "name": "x", "scale": [1.5, None]}
        torch.save(states, folder / name, **options)

    return make


def _safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    states = torch.nn.Conv2d(2, 3, 3).state_dict()
    save_file({f"method.{name}": value for name, value in states.items()}, folder / "weights.safetensors")


def _script(folder: Path) -> None:
    torch.jit.script(torch.nn.Conv2d(1, 2, 3)).save(str(folder / "features.ts"))


def _pairs(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _nifti("a.nii")(folder)
        _nifti("b.nii")(folder)
        rows = [{"subject": f"s{k}", "case": f"s{k}_1", "source": "a.nii", "target": "b.nii"} for k in range(4)]
        rows = [{**row, "contrast": "t1", "mask": "a.nii", "split": "training"} for row in rows]
        with (folder / name).open("w", newline="") as file:
            if name.endswith(".json"):
                json.dump({"pairs": rows}, file, indent=1)
                return
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return make


def _dataset(folder: Path) -> None:
    _nifti("a.nii.gz", volume().astype(np.float32) / 1000)(folder)
    entry = {"subject": "s", "case": "s_1", "volume": "s_1", "contrast": "t1", "source": "a.nii.gz"}
    index = {"version": 1, "spatial_dims": 3, "channels": 1, "split": {"from": "random"}}
    index |= {"training": [{**entry, "target": "a.nii.gz"}], "validation": [], "test": []}
    (folder / "dataset.json").write_text(json.dumps(index, indent=1))


def _preparation(folder: Path) -> None:
    standard = ContrastStandard((-2.0, 3.0), (1.0, 50.0, 99.0), (0.0, 50.0, 100.0))
    Preparation(
        2, Intensity.STANDARDIZED, {"t1": standard}, spacing=(1.0, 1.0, 2.0), spatial_shape=(64, 64), channels=1
    ).save(folder / "preparation.json")


def _record(folder: Path) -> None:
    settings = resolve(method_class("tracetrans").settings_type, ["tracebench", "smoke"])
    RunRecord("tracetrans", settings).write(folder)


def _config(folder: Path) -> None:
    text = (BUNDLES / "tracetrans" / "configs" / "train.yaml").read_text()
    (folder / "config.yaml").write_text(text)


def _certificate(folder: Path) -> None:
    check = Check("folding", Status.WARN, "folds", {"folded": 1.0}, {"folded": {"warn": 0.0, "fail": 0.5}})
    (folder / "certificate.json").write_text(json.dumps(Certificate("case", (check,)).as_dict(), indent=1))


def _thresholds(folder: Path) -> None:
    (folder / "limits.yaml").write_text(
        yaml.safe_dump({"disagreement_voxels": {"warn": 0.5, "fail": 1.5}, "probes": 3})
    )


def _landmarks(folder: Path) -> None:
    (folder / "points.csv").write_text("Landmark,X,Y,Z\n1,1.5,-2,3\n2,4,5.25,6\n")


def _points(folder: Path) -> Any:
    names, points = read_landmarks(folder / "points.csv")
    return points if names else None


def _markups(folder: Path) -> None:
    points = [{"id": "1", "label": "a", "position": [1.5, -2, 3]}, {"id": "2", "label": "b", "position": [4, 5.25, 6]}]
    lists = [{"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}]
    (folder / "points.mrk.json").write_text(json.dumps({"markups": lists}, indent=1))


def _foreign(module: Any, name: str, file: str, format: str | None = None) -> Kind:
    """A transform of another program, of the generators of failing inputs."""
    grid = Grid((30, 28, 12), torch.from_numpy(transforms.TARGET))
    images = Images(Grid((30, 28, 12), torch.from_numpy(transforms.SOURCE)), grid)
    make = CASES[module.__name__][name]
    return Kind(file, make, lambda folder: read_point_map(folder / file, images, format).displacement())


def _rows(folder: Path) -> None:
    (folder / "scores.csv").write_text("case,mae,psnr\na,1.5,20\nb,2.5,21\n")


def _npz(folder: Path) -> None:
    field = np.random.default_rng(0).normal(size=(3, 4, 3, 3)).astype(np.float16)
    np.savez_compressed(folder / "disp.npz", field)


def _at(read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    return lambda folder: read(folder / name)


def _features(folder: Path) -> Any:
    return load_feature_network(folder / "features.ts") and None


def _misbehaves(how: Callable[[], Any]) -> Kind:
    """A reader that fails at anything but its intact file, for the test of the runner."""

    def make(folder: Path) -> None:
        (folder / "file").write_text("intact")

    return Kind(
        "file", make, lambda folder: None if (folder / "file").read_text(errors="replace") == "intact" else how()
    )


def _forever() -> None:
    while True:
        pass


BAD: dict[str, Kind] = {
    "bad crash": _misbehaves(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    "bad memory": _misbehaves(lambda: bytearray(8 << 30)),
    "bad error": _misbehaves(lambda: 1 // 0),
    "bad hang": _misbehaves(_forever),
}

KINDS: dict[str, Kind] = {
    "nifti": Kind("image.nii", _nifti("image.nii"), _at(reading.read_image, "image.nii")),
    "nifti.gz": Kind("image.nii.gz", _nifti("image.nii.gz"), _at(reading.read_image, "image.nii.gz")),
    "nifti pair": Kind("image.hdr", _nifti_pair, _at(reading.read_image, "image.img")),
    "mgz": Kind("image.mgz", _freesurfer, _at(reading.read_image, "image.mgz")),
    "nifti2": Kind("image.nii", _nifti2, _at(io.read_nifti_image, "image.nii")),
    "nrrd": Kind("image.nrrd", _itk("image.nrrd"), _at(reading.read_image, "image.nrrd")),
    "nrrd gzip": Kind("image.nrrd", _itk("image.nrrd", True), _at(reading.read_image, "image.nrrd")),
    "nhdr": Kind("image.nhdr", _itk("image.nhdr"), _at(reading.read_image, "image.nhdr")),
    "mha": Kind("image.mha", _itk("image.mha"), _at(reading.read_image, "image.mha")),
    "mha packed": Kind("image.mha", _itk("image.mha", True), _at(reading.read_image, "image.mha")),
    "mhd": Kind("image.mhd", _itk("image.mhd"), _at(reading.read_image, "image.mhd")),
    "dicom": Kind("series/first.dcm", _dicom, _at(reading.read_image, "series/first.dcm")),
    "dicom folder": Kind("series/first.dcm", _dicom, _at(reading.read_image, "series")),
    "dicom headers": Kind("series/first.dcm", _dicom, _at(io.read_source_series, "series")),
    "dicom registration": Kind("field.dcm", _dicom_registration, _at(io.read_dicom_registration, "field.dcm")),
    "png": Kind("image.png", _natural_image("image.png"), _at(reading.read_image, "image.png")),
    "jpeg": Kind("image.jpg", _natural_image("image.jpg"), _at(reading.read_image, "image.jpg")),
    "tiff": Kind("image.tif", _natural_image("image.tif"), _at(reading.read_image, "image.tif")),
    "bmp": Kind("image.bmp", _natural_image("image.bmp"), _at(reading.read_image, "image.bmp")),
    "trace.json": Kind("trace/trace.json", _saved, _at(io.load_trace, "trace")),
    "trace field": Kind("trace/ddf.nii.gz", _saved, _at(io.load_trace, "trace")),
    "itk h5": Kind("ddf.h5", _transform("ddf.h5"), _at(io.read_transform, "ddf.h5")),
    "ants warp": Kind("ddf.nii.gz", _transform("ddf.nii.gz"), _at(io.read_transform, "ddf.nii.gz")),
    "tfm": Kind("motion.tfm", _motion("motion.tfm"), _at(io.read_motion, "motion.tfm")),
    "motion h5": Kind("motion.h5", _motion("motion.h5"), _at(io.read_motion, "motion.h5")),
    "ants mat": Kind("motion.mat", _motion("motion.mat"), _at(io.read_motion, "motion.mat")),
    "slicer nrrd": Kind(
        "ddf.nrrd",
        lambda folder: io.write_slicer_nrrd(folder / "ddf.nrrd", small_trace().ddf, AFFINE),
        _at(io.read_slicer_nrrd, "ddf.nrrd"),
    ),
    "fsl warp": Kind(
        "ddf.nii.gz",
        lambda folder: io.write_fsl_warp(folder / "ddf.nii.gz", small_trace().ddf, AFFINE, AFFINE, SHAPE),
        lambda folder: io.read_fsl_warp(folder / "ddf.nii.gz", AFFINE, SHAPE),
    ),
    "learn2reg npz": Kind("disp.npz", _npz, lambda folder: io.read_learn2reg(folder / "disp.npz", AFFINE)),
    "x5": Kind(
        "ddf.x5",
        lambda folder: io.write_x5(folder / "ddf.x5", small_trace().ddf, AFFINE),
        _at(io.read_x5, "ddf.x5"),
    ),
    "checkpoint": Kind("weights.pt", _weights("weights.pt"), _at(load_weights, "weights.pt")),
    "legacy checkpoint": Kind(
        "weights.pt",
        _weights("weights.pt", _use_new_zipfile_serialization=False),
        _at(load_weights, "weights.pt"),
    ),
    "safetensors": Kind("weights.safetensors", _safetensors, _at(load_weights, "weights.safetensors")),
    "torchscript": Kind("features.ts", _script, _features),
    "pairs csv": Kind("pairs.csv", _pairs("pairs.csv"), _at(read_pair_list, "pairs.csv")),
    "pairs json": Kind("pairs.json", _pairs("pairs.json"), _at(read_pair_list, "pairs.json")),
    "dataset.json": Kind("dataset.json", _dataset, lambda folder: load_dataset(folder)[0]),
    "preparation": Kind("preparation.json", _preparation, _at(Preparation.load, "preparation.json")),
    "config": Kind("config.yaml", _config, lambda folder: foreign_code(read_config(folder / "config.yaml")) and None),
    "run": Kind("run.json", _record, lambda folder: read_run(folder) and None),
    "certificate": Kind(
        "certificate.json",
        _certificate,
        lambda folder: certificate_html(read_certificate(folder / "certificate.json")),
    ),
    "thresholds": Kind("limits.yaml", _thresholds, _at(Thresholds.load, "limits.yaml")),
    "landmarks": Kind("points.csv", _landmarks, _points),
    "fcsv": Kind("points.fcsv", CASES[landmarks.__name__]["slicer_fcsv_lps"], _at(read_landmarks, "points.fcsv")),
    "markups": Kind("points.mrk.json", _markups, _at(read_landmarks, "points.mrk.json")),
    "elastix": _foreign(transform_programs, "elastix_chain", "TransformParameters.1.txt"),
    "elastix Euler": _foreign(transforms, "elastix_parameters", "TransformParameters.0.txt", "elastix"),
    "lta": _foreign(transform_programs, "lta_of_voxels", "register.lta"),
    "flirt": _foreign(transforms, "flirt_matrix", "flirt.mat", "flirt"),
    "spm": _foreign(transforms, "spm_y", "y_source.nii"),
    "composite": _foreign(transform_variants, "itk_bspline", "spline.h5"),
    "scores": Kind("scores.csv", _rows, _at(read_rows, "scores.csv")),
}
