"""Layouts of published data sets that a JSON file reports: MONAI's data lists (Decathlon) and Learn2Reg's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtrace.data.lists.folder_layouts import channel_names, read_json, stem
from medtrace.data.lists.names import check_name
from medtrace.data.lists.pair_list import SPLITS, Pair, existing
from medtrace.data.lists.studies import Study
from medtrace.geometry.volume import read_volume_grid
from medtrace.guard.volume_files import VOLUMES

_SUBJECTS = ("subject", "subject_id", "patient", "patient_id", "id")
_PAIRED = {"training_paired_images": "training", "registration_val": "validation", "registration_test": "test"}


def json_of(place: Path) -> Path | None:
    """The file that describes a data set: itself, or dataset.json in a folder."""
    path = place / "dataset.json" if place.is_dir() else place
    return path if path.suffix.lower() == ".json" and path.is_file() else None


def _content(path: Path | None) -> Mapping[str, Any]:
    """The content of a JSON file; empty if it cannot be read or contains something else."""
    try:
        content = {} if path is None else read_json(path)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def is_learn2reg(place: Path) -> bool:
    """Whether it is a data set of Learn2Reg: its JSON lists pairs of fixed and moving images."""
    content = _content(json_of(place))
    return any(
        isinstance(content.get(name), list)
        and any(isinstance(item, dict) and "fixed" in item for item in content[name])
        for name in _PAIRED
    )


def read_learn2reg_pairs(place: Path) -> list[Pair]:
    """The pairs of a Learn2Reg data set: moving images are sources and fixed ones targets, each part
    (`training_paired_images`, `registration_val`, `registration_test`) a split. Labels, masks and
    keypoints (in voxels) are those that `training` and `test` name for an image; keypoints of both or of none.

    Raises:
        FileNotFoundError: if an image does not exist.
        ValueError: if the list cannot be read.
    """
    path = json_of(place)
    if path is None:
        raise ValueError(f"{place}: expected Learn2Reg's JSON file, or the folder of its dataset.json")
    content = read_json(path)
    names = channel_names({"modality": content.get("modality", {})}, path)
    about = {
        str(item["image"]): item
        for part in ("training", "test", "validation")
        for item in content.get(part, ())
        if isinstance(item, Mapping) and "image" in item
    }
    pairs = []
    for part, split in _PAIRED.items():
        for number, item in enumerate(content.get(part, ()), start=1):
            where = f"{path}: {part} entry {number}"
            files: dict[str, Any] = {
                side: existing(f"{where}: {key}", path.parent, str(item[key])) for side, key in _SIDES.items()
            }
            maps: dict[str, Any] = {
                f"{side}_labels": _map(where, path, about.get(str(item[key])), "label") for side, key in _SIDES.items()
            }
            points: dict[str, Any] = {
                f"{side}_landmarks": _map(where, path, about.get(str(item[key])), "keypoints")
                for side, key in _SIDES.items()
            }
            cases = [stem(file).rpartition("_") for file in files.values()]
            subjects = dict.fromkeys(case[0] or case[2] for case in cases)
            contrasts = [names.get(int(case[2])) if case[2].isdigit() else None for case in cases]
            pairs.append(
                Pair(
                    subject=check_name(where, "+".join(subjects)),
                    case=check_name(where, "+".join(stem(file) for file in files.values())),
                    **files,
                    **maps,
                    **(points if None not in points.values() else {}),
                    landmark_space="voxel",
                    mask=_map(where, path, about.get(str(item["moving"])), "mask"),
                    contrast=contrasts[0] or Pair.contrast,
                    target_contrast=contrasts[1] or "",
                    split=split,
                    origin=where,
                )
            )
    return pairs


_SIDES = {"source": "moving", "target": "fixed"}


def _map(where: str, path: Path, item: Mapping[str, Any] | None, name: str) -> Path | None:
    value = None if item is None else item.get(name)
    return existing(f"{where}: {name}", path.parent, value) if isinstance(value, str) else None


def is_decathlon(place: Path) -> bool:
    """Whether it is a data list of MONAI: its JSON has a list called `training`."""
    content = _content(json_of(place))
    return isinstance(content.get("training"), list) and "spatial_dims" not in content


def read_decathlon(place: Path) -> list[Study]:
    """The cases of a MONAI data list: `{"training": [{"image": ..., "label": ...}, ...], "test": [...]}`.

    Every entry that is a path names a contrast by its key: `{"T1": ..., "T2": ...}`. `image` is named by `modality`
    (or `channel_names`), and may be a list of files, one for each, or one file of four axes that holds a volume
    for each, as in the Medical Segmentation Decathlon; `label` holds labels and `mask` a mask. A case's subject is its
    `subject`, `subject_id`, `patient_id` or `id`, else the image's name.

    Raises:
        FileNotFoundError: if an image does not exist.
        ValueError: if an entry cannot be read, such as one file of three axes for several modalities.
    """
    path = json_of(place)
    if path is None:
        raise ValueError(f"{place}: expected MONAI's data list, a JSON file, or the folder of its dataset.json")
    content = read_json(path)
    names = channel_names(content, path)
    studies = []
    for split in SPLITS:
        for number, item in enumerate(content.get(split, ()), start=1):
            where = f"{path}: {split} entry {number}"
            entry = {"image": item} if isinstance(item, str) else item
            if not isinstance(entry, Mapping):
                raise ValueError(f"{where}: expected an object, received {item!r:.40}; name its image")
            studies.append(_study(where, path, entry, names, split))
    if len({study.split for study in studies}) < 2:
        return [replace(study, split="") for study in studies]
    return studies


def _study(where: str, path: Path, entry: Mapping[str, Any], names: Mapping[int, str], split: str) -> Study:
    images: dict[str, Path] = {}
    volumes: dict[str, str] = {}
    for key, value in entry.items():
        if key in ("label", "mask", "fold", *_SUBJECTS):
            continue
        files: Sequence[Any] = value if isinstance(value, list) else [value]
        if not files or not all(isinstance(file, str) for file in files):
            continue  # a number, a box: MONAI's lists may hold anything beside images
        called = list(names.values()) if key == "image" and names else [key] * len(files)
        if key == "image" and len(files) == 1 < len(called):
            _check_volumes(where, path.parent, str(files[0]), called)
            files = list(files) * len(called)
            volumes = {name: str(number) for number, name in enumerate(called, start=1)}
        if len(called) != len(files) or len(set(called)) < len(called):
            raise ValueError(
                f"{where}: {key}: expected one file for each of {', '.join(dict.fromkeys(called))}, received"
                f" {len(files)}; split it into one file per contrast"
            )
        images |= {name: existing(f"{where}: {key}", path.parent, file) for name, file in zip(called, files)}
    if not images:
        raise ValueError(f"{where}: expected an image, received {', '.join(entry) or 'nothing'}; name one")
    subject = next((str(entry[name]) for name in _SUBJECTS if name in entry), stem(next(iter(images.values()))))
    labels, mask = (_map(where, path, entry, name) for name in ("label", "mask"))
    return Study(subject, images, labels=labels, mask=mask, split=split, origin=where, volumes=volumes)


def _check_volumes(where: str, folder: Path, file: str, called: Sequence[str]) -> None:
    """Check that a file holds a volume for each of several modalities."""
    image = existing(f"{where}: image", folder, file)
    told = f"{where}: image: expected one file for each of {', '.join(dict.fromkeys(called))}, or one of four axes"
    if not image.name.lower().endswith(VOLUMES):
        raise ValueError(f"{told}, received {image}; split it into one file per contrast")
    shape = read_volume_grid(image).shape
    count = shape[3] if len(shape) > 3 else 1
    if count != len(called) or len(set(called)) < len(called):
        raise ValueError(f"{told} that holds {len(called)} volumes, received {count} in {image}; correct modality")
