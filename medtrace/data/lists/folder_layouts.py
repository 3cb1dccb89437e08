"""Layouts of published data sets that their folders tell: BIDS, BraTS, SynthRAD, ACDC, 3D-IRCADb, nnU-Net."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medtrace.data.lists.names import check_name
from medtrace.data.lists.studies import Study
from medtrace.data.lists.tables import read_text
from medtrace.data.lists.variants import contrast_of
from medtrace.data.lists.visits import times_of_sessions
from medtrace.guard.volume_files import VOLUMES

_NIFTI = (".nii.gz", ".nii")
_BRATS = re.compile(r"(Brats18_|BraTS2021_).+")
_BRATS_CONTRASTS = ("t1", "t1ce", "t2", "flair")
_SYNTHRAD = re.compile(r"[12]([BP][A-C]|(AB|HN|TH)[A-E])\d{3}")
"""Task, region (brain, pelvis; abdomen, head and neck, thorax), center, number."""
_MEDICAL = (*_NIFTI, ".mha")
_SYNTHRAD_CONTRASTS = {"mr": "MR", "cbct": "CBCT", "ct": "CT"}
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def stem(path: Path) -> str:
    """The name of an image without its ending."""
    name = path.name
    ending = next((ending for ending in sorted(VOLUMES, key=len, reverse=True) if name.lower().endswith(ending)), None)
    return name[: -len(ending)] if ending else path.stem


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: if it is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); take an intact copy") from error


def _folders(place: Path, pattern: re.Pattern[str], depth: int) -> list[Path]:
    """Folders of a name, up to some levels below, in order."""
    result: list[Path] = []
    for entry in sorted(entry for entry in place.iterdir() if entry.is_dir()):
        if pattern.fullmatch(entry.name):
            result.append(entry)
        elif depth > 1:
            result += _folders(entry, pattern, depth - 1)
    return result


def _image(folder: Path, name: str, endings: Sequence[str] = _NIFTI) -> Path | None:
    return next((path for path in (folder / f"{name}{ending}" for ending in endings) if path.exists()), None)


def is_bids(place: Path) -> bool:
    """Whether a folder is a BIDS data set: it has dataset_description.json with BIDSVersion."""
    path = place / "dataset_description.json"
    return path.is_file() and "BIDSVersion" in read_json(path)


def read_bids(place: Path) -> list[Study]:
    """Anatomical images and PET: `sub-01/[ses-pre/]anat/sub-01_ses-pre_T1w.nii.gz`; a contrast is the suffix, with
    `-ce` where a contrast agent was given (entity `ce`). Several of a contrast at one date (runs, acquisitions) are
    variants, which are asked for by their other entities. Sessions follow each other by `acq_time` of
    `sub-01/sub-01_sessions.tsv`, where that has it."""
    studies = []
    for subject in sorted(place.glob("sub-*/")):
        sessions = sorted(subject.glob("ses-*/")) or [subject]
        times = times_of_sessions(subject / f"{subject.name}_sessions.tsv")
        for session in sessions:
            variants = dict[str, Path]()
            for path in sorted([*session.glob("anat/*.nii*"), *session.glob("pet/*.nii*")]):
                variants.setdefault(_bids_name(path), path)  # a .nii beside its .nii.gz
            count = Counter(map(contrast_of, variants))
            images = {contrast_of(name): path for name, path in variants.items() if count[contrast_of(name)] == 1}
            if variants:
                visit = session.name.removeprefix("ses-") if session != subject else ""
                name = subject.name.removeprefix("sub-")
                when = times.get(visit)
                studies.append(Study(name, images, visit, origin=str(session), variants=variants, time=when))
    return studies


def _bids_name(path: Path) -> str:
    """An image's entities without subject, session and agent, and its contrast."""
    *entities, suffix = stem(path).split("_")
    kept = [entity for entity in entities if not entity.startswith(("sub-", "ses-", "ce-"))]
    agent = "-ce" if any(entity.startswith("ce-") for entity in entities) else ""
    return "_".join([*kept, suffix + agent])


def is_brats(place: Path) -> bool:
    """Whether a folder holds cases of BraTS 2018 (also below HGG and LGG) or 2021."""
    return bool(_folders(place, _BRATS, 2))


def read_brats(place: Path) -> list[Study]:
    """`[HGG/]Brats18_X/Brats18_X_t1.nii.gz` or `BraTS2021_00000/BraTS2021_00000_t1.nii.gz`; contrasts t1, t1ce, t2,
    flair, and the segmentation `seg` as labels."""
    studies = []
    for folder in _folders(place, _BRATS, 2):
        result = {name: _image(folder, f"{folder.name}_{name}") for name in (*_BRATS_CONTRASTS, "seg")}
        images = {name: path for name, path in result.items() if path is not None and name != "seg"}
        studies.append(Study(folder.name, images, labels=result["seg"], origin=str(folder)))
    return studies


def is_synthrad(place: Path) -> bool:
    """Whether a folder holds cases of SynthRAD: 1BA001 or 1HNA001 with ct and mr or cbct."""
    return any(_image(folder, name, _MEDICAL) for folder in _folders(place, _SYNTHRAD, 3) for name in ("mr", "cbct"))


def read_synthrad(place: Path) -> list[Study]:
    """`[Task1/brain/]1BA001/{mr,cbct,ct,mask}.nii.gz` of 2023, `[Task1/HN/]1HNA001/{mr,cbct,ct,mask}.mha` of 2025;
    contrasts MR, CBCT, CT, and the outline of the body as mask."""
    studies = []
    for folder in _folders(place, _SYNTHRAD, 3):
        result = {contrast: _image(folder, name, _MEDICAL) for name, contrast in _SYNTHRAD_CONTRASTS.items()}
        images = {contrast: path for contrast, path in result.items() if path is not None}
        studies.append(Study(folder.name, images, mask=_image(folder, "mask", _MEDICAL), origin=str(folder)))
    return studies


def is_acdc(place: Path) -> bool:
    """Whether a folder holds patients of ACDC, with Info.cfg."""
    return any((folder / "Info.cfg").is_file() for folder in _folders(place, re.compile(r"patient\d{3}"), 3))


def read_acdc(place: Path) -> list[Study]:
    """`[training/]patient001/patient001_frame01.nii.gz`: end diastole (visit ED) and end systole (ES), whose frames
    Info.cfg names, with `_gt` as labels; contrast cine. The folders training and testing are the split.

    Raises:
        ValueError: if Info.cfg names no frames, or one is missing.
    """
    studies = []
    for folder in _folders(place, re.compile(r"patient\d{3}"), 3):
        info = dict(line.split(":", 1) for line in read_text(folder / "Info.cfg").splitlines() if ":" in line)
        split = {"training": "training", "testing": "test"}.get(folder.parent.name, "")
        for time, visit in enumerate(("ED", "ES")):
            number = info.get(visit, "").strip()
            image = _image(folder, f"{folder.name}_frame{number.zfill(2)}")
            if not number.isdigit() or image is None:
                raise ValueError(
                    f"{folder / 'Info.cfg'}: {visit}: expected the number of an existing frame, received"
                    f" {number!r}; take an intact copy"
                )
            labels = _image(folder, f"{folder.name}_frame{number.zfill(2)}_gt")
            about: dict[str, Any] = {"split": split, "origin": str(folder), "time": float(time)}
            studies.append(Study(folder.name, {"cine": image}, visit, labels, **about))
    return studies


def is_ircadb(place: Path) -> bool:
    """Whether a folder holds patients of 3D-IRCADb-01."""
    return bool(_folders(place, re.compile(r"3Dircadb1\.\d+"), 2))


def read_ircadb(place: Path) -> list[Study]:
    """`3Dircadb1.1/PATIENT_DICOM/`, a CT of each patient; MASKS_DICOM are its labels and lesion (see
    `medtrace.data.structures`).

    Raises:
        ValueError: if PATIENT_DICOM is still a zip file.
    """
    studies = []
    for folder in _folders(place, re.compile(r"3Dircadb1\.\d+"), 2):
        scan, masks = (_unzipped(folder / name) for name in ("PATIENT_DICOM", "MASKS_DICOM"))
        if scan is None:
            raise ValueError(f"{folder}: expected the folder PATIENT_DICOM, found none; unzip PATIENT_DICOM.zip there")
        studies.append(Study(folder.name, {"CT": scan}, labels=masks, lesion=masks, origin=str(folder)))
    return studies


def _unzipped(folder: Path) -> Path | None:
    """A folder, or that of the same name in it, as some programs unpack; None if there is none."""
    inner = folder / folder.name
    return next((place for place in (inner, folder) if place.is_dir()), None)


def is_nnunet(place: Path) -> bool:
    """Whether a folder is a raw data set of nnU-Net: dataset.json, and imagesTr with channels in files of their own."""
    images = place / "imagesTr"
    return (
        (place / "dataset.json").is_file()
        and images.is_dir()
        and any(_CHANNEL.fullmatch(stem(p)) for p in images.iterdir())
    )


def read_nnunet(place: Path) -> list[Study]:
    """`imagesTr/CASE_0000.nii.gz` with the channels that dataset.json names (`channel_names`, or `modality` of version
    1), `labelsTr/CASE.nii.gz` as labels; imagesTs is the test split."""
    content = read_json(place / "dataset.json")
    names = channel_names(content, place / "dataset.json")
    studies = []
    for part, split in (("Tr", "training"), ("Ts", "test")):
        cases: dict[str, dict[str, Path]] = {}
        for path in sorted(_entries(place / f"images{part}")):
            if matched := _CHANNEL.fullmatch(stem(path)):
                contrast = names.get(int(matched[2]), f"channel{int(matched[2])}")
                cases.setdefault(matched[1], {})[contrast] = path
        for case, images in cases.items():
            endings = [path.name[len(stem(path)) :] for path in images.values()]
            labels = _image(place / f"labels{part}", case, endings)
            studies.append(Study(case, images, labels=labels, split=split, origin=str(place)))
    if all(study.split == "training" for study in studies):
        return [Study(s.subject, s.images, labels=s.labels, origin=s.origin) for s in studies]
    return studies


def channel_names(content: Any, path: Path) -> dict[int, str]:
    """Names of the channels that a dataset.json reports, by their numbers."""
    result = content.get("channel_names") or content.get("modality") or {} if isinstance(content, dict) else {}
    if not isinstance(result, dict) or not all(str(key).isdigit() for key in result):
        raise ValueError(f"{path}: channel_names: expected numbers with names, received {result!r:.80}; correct it")
    return {int(key): check_name(f"{path}: channel", re.sub(r"\W+", "_", str(name))) for key, name in result.items()}


def _entries(folder: Path) -> Iterator[Path]:
    return iter(()) if not folder.is_dir() else (path for path in folder.iterdir() if not path.name.startswith("."))
