"""Small made data in the layouts of the papers' data sets."""

import json
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

EDGE = 4.0
SHAPE = (44, 52, 16)


@lru_cache(maxsize=1)
def _grid():
    return np.indices(SHAPE)


@lru_cache(maxsize=32)
def head(contrast, person=0):
    """An ellipsoid with ventricles and two tissues, of a shape and a noise of its own."""
    x, y, z = (2 * axis / size - 1 for axis, size in zip(_grid(), SHAPE))
    width, shift = 0.75 + 0.01 * (person % 7), 0.02 * (person % 3)
    brain = (x / width) ** 2 + ((y - shift) / 0.85) ** 2 + (z / 1.2) ** 2 <= 1
    white = (x / width) ** 2 + ((y - shift) / 0.85) ** 2 + 0.1 * np.sin(9 * x + person) <= 0.6
    ventricle = (abs(x) - 0.15) ** 2 + (y - shift) ** 2 <= 0.02
    of_t1 = np.where(ventricle, 150, np.where(white, 640, 440))
    values = (1000 - of_t1 if contrast == "T2" else of_t1) + np.random.default_rng([person, len(contrast)]).normal(
        0, 5, SHAPE
    )
    return np.where(brain, values, 0).astype(np.float32)


def ball(center, radius, grid=None):
    grid = _grid() if grid is None else grid
    return sum((axis - place) ** 2 for axis, place in zip(grid, center)) <= radius**2


def save(path, values, spacing=EDGE):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


def write_brats(folder, prefix="Brats18_", subjects=6):
    """BraTS 2018 or 2021: heads whose tumor spares the lower slices."""
    middle = [size // 2 for size in _grid().shape[1:]]
    for number in range(subjects):
        name = f"{prefix}{number:05d}"
        group = folder / ("HGG" if prefix == "Brats18_" else "")
        tumor = ball((middle[0] - 6 + number, middle[1], middle[2] + 4), 5)
        for contrast, made in (("t1", "T1"), ("t2", "T2")):
            values = np.where(tumor, 900.0, head(made, number)).astype(np.float32)
            save(group / name / f"{name}_{contrast}.nii.gz", values)
        save(group / name / f"{name}_seg.nii.gz", 2 * tumor.astype(np.uint8))
    return folder


def write_brats_reg(folder, subjects=4):
    for number in range(subjects):
        place = folder / f"BraTSReg_{number + 1:03d}"
        place.mkdir(parents=True)
        for date, person in (("00_0000", number), ("01_0106", number + 7)):
            save(place / f"{place.name}_{date}_t1.nii.gz", head("T1", person))
    return folder


def write_dicom(folder, values, slope=1.0, intercept=0.0):
    """A series (X, Y, Z) of stored numbers on a straight grid of 1 mm, as 3D-IRCADb-01 names its files."""
    folder.mkdir(parents=True)
    series, frame, study = (generate_uid() for _ in range(3))
    for index in range(values.shape[2]):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.PatientName = dataset.PatientID = "liver"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, index + 1
        dataset.PixelSpacing, dataset.SliceThickness = ["1", "1"], "1"
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        dataset.ImagePositionPatient = ["0", "0", str(index)]
        dataset.Columns, dataset.Rows = values.shape[:2]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = str(slope), str(intercept)
        dataset.PixelData = np.ascontiguousarray(values[:, :, index].T.astype(np.uint16)).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"image_{index}", enforce_file_format=True)


def write_ircadb(folder, patients=4):
    """Livers that all but the first have a tumor in their upper slices."""
    grid = np.indices((48, 40, 6))
    for number in range(patients):
        place = folder / f"3Dircadb1.{number + 1}"
        random = np.random.default_rng(number)
        liver = ((grid[0] - 22 - number) ** 2 + (1.3 * (grid[1] - 20)) ** 2) <= (13 + number % 2) ** 2
        tumor = ball((20, 20, 4), 2, grid) if number else np.zeros_like(liver)
        stored = 1000 + np.where(liver, 100, -50) - 60 * tumor + random.normal(0, 3, liver.shape)
        write_dicom(place / "PATIENT_DICOM", stored, intercept=-1000.0)
        write_dicom(place / "MASKS_DICOM" / "liver", 255 * (liver & ~tumor))
        if tumor.any():
            write_dicom(place / "MASKS_DICOM" / "livertumor", 255 * tumor)
    return folder


def write_oct(folder, eyes=4):
    """B-scans of two devices with two layers."""
    rows, columns = np.indices((48, 40))
    for device, brightness in (("atlantis", 90), ("sina", 140)):
        for eye in range(eyes):
            random = np.random.default_rng([eye, brightness])
            bottom = 22 + eye + 3 * np.sin(columns / 8 + eye)
            labels = np.where(rows > bottom + 8, 2, np.where(rows > bottom, 1, 0)).astype(np.uint8)
            scan = brightness * (labels == 1) + 40 * (labels == 2) + random.normal(20, 6, labels.shape)
            for part, values in (("images", scan.clip(0, 255).astype(np.uint8)), ("labels", labels)):
                (folder / device / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / device / part / f"eye{eye}_01.png")
    return folder


def write_learn2reg(folder, pairs=4):
    """AbdomenMRCT: MR fixed, CT moving, on one grid."""
    grid = np.indices((40, 36, 8))
    listed, about = [], []
    for number in range(pairs):
        liver, spleen = ball((14 + number, 18, 4), 8, grid), ball((29, 18, 4), 5, grid)
        labels = (liver + 2 * spleen).astype(np.uint8)
        random = np.random.default_rng(number)
        body = ball((20, 18, 4), 17, grid)
        values = {
            "0000": np.where(body, 200 + 150 * liver + 300 * spleen, 0) + random.uniform(0, 4, body.shape) * body,
            "0001": np.where(body, 20 + 40 * liver + 60 * spleen, -1000) + random.uniform(0, 4, body.shape) * body,
        }
        names = {}
        for modality, voxels in values.items():
            names[modality] = f"imagesTr/AbdomenMRCT_{number:04d}_{modality}.nii.gz"
            label = names[modality].replace("images", "labels")
            save(folder / names[modality], voxels.astype(np.float32))
            save(folder / label, labels)
            about.append({"image": names[modality], "label": label})
        listed.append({"fixed": names["0000"], "moving": names["0001"]})
    content = {"modality": {"0": "MR", "1": "CT"}, "training": about, "training_paired_images": listed}

    (folder / "AbdomenMRCT_dataset.json").write_text(json.dumps(content))
    return folder


def write_hearts(folder, subjects=4):
    grid = np.indices((36, 40, 3))
    for number in range(subjects):
        for domain, bright in (("acdc", 300), ("ukbiobank", 700)):
            random = np.random.default_rng([number, bright])
            wall, cavity = ball((18, 20 + number, 1), 9, grid), ball((18, 20 + number, 1), 5, grid)
            right = ball((8, 20, 1), 5, grid) & ~wall
            labels = np.where(cavity, 3, np.where(wall, 2, right)).astype(np.uint8)
            scan = (60 + bright * (labels == 3) + 0.4 * bright * (labels == 1)) + random.uniform(0, 9, labels.shape)
            if domain == "acdc":
                place = folder / domain / "training" / f"patient{number + 1:03d}"
                place.mkdir(parents=True)
                (place / "Info.cfg").write_text(f"ED: 1\nES: 2\nGroup: {'DCM' if number else 'NOR'}\n")
                for frame in ("01", "02"):
                    save(place / f"{place.name}_frame{frame}.nii.gz", (scan + int(frame)).astype(np.float32))
                    save(place / f"{place.name}_frame{frame}_gt.nii.gz", labels)
            else:
                save(folder / domain / f"{number:07d}" / "sa_ED.nii.gz", scan.astype(np.float32))
                save(folder / domain / f"{number:07d}" / "label_sa_ED.nii.gz", labels)
    return folder


def write_faces(folder, people=4):
    rows = ["subject,source,target"]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(people):
        for side in ("before", "after"):
            values = np.random.default_rng([number, len(side)]).integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(values).save(folder / f"{number}_{side}.png")
        rows.append(f"{number},{number}_before.png,{number}_after.png")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_plasticine(folder: Path):
    write_oct(folder / "oct")
    write_learn2reg(folder / "chest")
    write_hearts(folder / "cardiac")
    return folder


def write_metaregnet(folder: Path):
    write_brats(folder / "brats2021", "BraTS2021_", subjects=8)
    write_ircadb(folder / "ircadb")
    return folder


def write_tracetrans(folder: Path):
    write_brats_reg(folder / "brats-reg")
    write_faces(folder / "faces")
    return folder


PAPERS = {
    "metaregnet": write_metaregnet,
    "plasticine": write_plasticine,
    "reggan": write_brats,
    "tracetrans": write_tracetrans,
}
"""Paper → writes its data in a folder."""
