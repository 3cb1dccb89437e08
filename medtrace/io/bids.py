"""Traces as BIDS derivatives: names made of entities, sidecars, and the description of the data set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from medtrace import __version__
from medtrace.data.preparation.intensity import find_foreground
from medtrace.io.nifti import write_image
from medtrace.io.transforms import write_transform
from medtrace.storage.files import atomic_write, make_directory
from medtrace.trace import Trace
from medtrace.trace.contrast import ARBITRARY, Contrast

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
NAME = "medtrace"
SUFFIXES = {
    "t1": "T1w",
    "t2": "T2w",
    "pd": "PDw",
    "flair": "FLAIR",
    "t2star": "T2starw",
    "pdt2": "PDT2",
}
"""A contrast's name, in lower case and without a "w" behind it → its BIDS suffix."""
SPACES = ("orig", "predicted", "target")
_LABEL = re.compile(r"[A-Za-z0-9]+")
_BEFORE_SPACE = ("sub", "ses", "task", "acq", "ce", "rec", "run", "echo", "part")
"""Entities that an anatomical derivative may have before `space`, in BIDS's order; others do not name one."""


@dataclass(frozen=True)
class BidsName:
    """The entities of a BIDS file.

    Attributes:
        entities: key → label, such as {"sub": "01", "ses": "pre"}; `sub` is needed.
        suffix: such as "T1w".

    Raises:
        ValueError: if there is no subject, or a label or the suffix is not letters and digits.

    Example:
        >>> name = BidsName.of("sub-01_ses-pre_run-2_T1w.nii.gz")
        >>> name.entities, name.suffix, name.folder
        ({'sub': '01', 'ses': 'pre', 'run': '2'}, 'T1w', 'sub-01/ses-pre/anat')
        >>> name.file("T2w", space="predicted", desc="translated")
        'sub-01_ses-pre_run-2_space-predicted_desc-translated_T2w'
    """

    entities: Mapping[str, str]
    suffix: str

    def __post_init__(self) -> None:
        if "sub" not in self.entities:
            raise ValueError("bids: expected a subject, received none; give one, or a name such as sub-01_T1w")
        for key, label in {**self.entities, "suffix": self.suffix}.items():
            if not _LABEL.fullmatch(label):
                raise ValueError(f"bids: {key}: expected letters and digits, received {label!r}; rename it")

    @classmethod
    def of(cls, name: str) -> BidsName:
        """Read a file's name, or that of a trace's folder, without its ending.

        Raises:
            ValueError: if it is not of BIDS.
        """
        stem = name.split(".", 1)[0]
        *parts, suffix = stem.split("_")
        pairs = [part.split("-", 1) for part in parts]
        if not pairs or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"bids: expected a name such as sub-01_ses-pre_T1w, received {name!r}; give a subject")
        return cls(dict(pairs), suffix)

    @property
    def folder(self) -> str:
        """The folder of its files: `sub-01[/ses-pre]/anat`."""
        parts = [f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities]
        return "/".join([*parts, "anat"])

    def file(self, suffix: str, **more: str) -> str:
        """The name of a derivative, without its ending: the source's entities, then `more` in the order given."""
        kept = [f"{key}-{self.entities[key]}" for key in _BEFORE_SPACE if key in self.entities]
        return "_".join([*kept, *(f"{key}-{label}" for key, label in more.items()), suffix])


def suffix_of(contrast: Contrast | None, source: Contrast | None, source_suffix: str) -> str:
    """The suffix of a translated image.

    Args:
        contrast: contrast of the image, None where it is not on record.
        source: of the source, likewise.
        source_suffix: suffix of the source's file.

    Raises:
        ValueError: if the image is of another contrast than the source, which BIDS has no suffix for.

    Example:
        >>> suffix_of(Contrast("T2"), Contrast("T1"), "T1w"), suffix_of(None, None, "T1w")
        ('T2w', 'T1w')
    """
    if contrast is None or (source is not None and source.name == contrast.name):
        return source_suffix
    known = SUFFIXES.get(contrast.name.lower().removesuffix("w"))
    if known is None:
        raise ValueError(
            f"suffix: expected one for the contrast {contrast.name!r}, for which BIDS has none by that name; name one,"
            f" such as {', '.join(sorted(set(SUFFIXES.values())))}"
        )
    return known


def write_bids_derivatives(
    trace: Trace,
    folder: Path | str,
    name: BidsName,
    *,
    suffix: str | None = None,
    space: str = "predicted",
    method: str | None = None,
    source: str | None = None,
    skull_stripped: bool | None = None,
) -> list[Path]:
    """Write a trace as files of one subject, as a data set of BIDS derivatives has them.

    | file | what |
    |---|---|
    | `..._space-S_desc-translated_SUFFIX.nii.gz` | the image |
    | `..._space-S_desc-warped_SUFFIX.nii.gz` | the source moved by the field alone, with the source's suffix |
    | `..._space-S_desc-appearance_mask.nii.gz` | where intensity may change, of a trace that has a mask |
    | `..._from-orig_to-S_mode-image_xfm.h5` | ITK transform that resamples the source into `space-S` |
    | `..._from-S_to-orig_mode-image_xfm.h5` | the inverse |

    Every file has a sidecar, with the transform, the unit, the method and the version. Transforms are named as fMRIPrep
    names them; BIDS itself does not describe them yet, so `.bidsignore` lists them (see `describe_derivatives`).

    Args:
        trace: what to write.
        folder: folder of the data set, in which `name.folder` is created if missing; each file appears complete
            or not at all.
        name: name of the source.
        suffix: suffix of the image; by default that of its contrast (`suffix_of`).
        space: the label of the image's grid and anatomy: "predicted" for a translation, "target" for a registration.
        method: what made the trace.
        source: BIDS URI of the source, such as "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"; None leaves it out.
        skull_stripped: whether the images show no skull; None decides by exact zeros at their border, and the sidecar
            says so.

    Returns:
        The files, sorted.

    Raises:
        TypeError: if it is not a Trace.
        FileExistsError: if the data set has files of these names.
        ValueError: if a label is not letters and digits, or no suffix is known.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see Trace.build")
    if not _LABEL.fullmatch(space):
        raise ValueError(f"space: expected letters and digits, received {space!r}; rename it")
    given, made = trace.source_contrasts, trace.contrasts
    suffix = suffix or suffix_of(made[0] if made else None, given[0] if given else None, name.suffix)
    images = {
        name.file(suffix, space=space, desc="translated"): (trace.image, made, "Image predicted from the source."),
        name.file(name.suffix, space=space, desc="warped"): (
            trace.warped,
            given,
            "The source moved by the displacement alone.",
        ),
    }
    transforms = {
        name.file("xfm", **{"from": "orig", "to": space, "mode": "image"}): (trace.ddf, trace.affine),
        name.file("xfm", **{"from": space, "to": "orig", "mode": "image"}): (trace.inverse_ddf, trace.source_affine),
    }
    shared = _Shared(name, space, next(iter(images)), next(iter(transforms)), method, source)
    place = make_directory(Path(folder) / name.folder)
    first = place / f"{shared.image}.nii.gz"
    if first.exists():
        raise FileExistsError(f"{first}: already exists; write to another data set, or rename the trace")
    files = []
    for stem, (image, contrasts, words) in images.items():
        write_image(place / f"{stem}.nii.gz", image, trace.affine)
        stripped = _skull_stripped(image, skull_stripped)
        files += [place / f"{stem}.nii.gz", shared.sidecar(place, stem, words, Units=_unit(contrasts), **stripped)]
    if trace.mask is not None:
        stem = name.file("mask", space=space, desc="appearance")
        write_image(place / f"{stem}.nii.gz", (trace.mask > 0.5).to(trace.mask), trace.affine, "uint8")
        words = "Where the intensity may change."
        files += [place / f"{stem}.nii.gz", shared.sidecar(place, stem, words, Type="ROI")]
    for stem, (ddf, affine) in transforms.items():
        write_transform(place / f"{stem}.h5", ddf, affine)
        files += [place / f"{stem}.h5", shared.sidecar(place, stem, _TRANSFORM, Units="mm")]
    return sorted(files)


_TRANSFORM = (
    "ITK displacement-field transform (LPS mm) in the resampling direction: it maps points of the 'to' space to points"
    " of the 'from' space."
)


@dataclass(frozen=True)
class _Shared:
    """The common entries of a trace's sidecars."""

    name: BidsName
    space: str
    image: str
    transform: str
    method: str | None
    source: str | None

    def sidecar(self, place: Path, stem: str, words: str, **more: Any) -> Path:
        """Write the sidecar of a file."""
        here = f"bids::{self.name.folder}"
        content: dict[str, Any] = {"Description": words}
        if self.source is not None:
            content["Sources"] = [self.source]
        if not stem.endswith("_xfm"):
            content["SpatialReference"] = f"{here}/{self.image}.nii.gz"
        content |= {
            **more,
            "Transform": f"{here}/{self.transform}.h5",
            "Method": self.method or NAME,
            "SoftwareName": NAME,
            "SoftwareVersion": __version__,
        }
        return atomic_write(place / f"{stem}.json", json.dumps(content, indent=2) + "\n")


def _unit(contrasts: tuple[Contrast, ...] | None) -> str:
    return contrasts[0].unit if contrasts else ARBITRARY


def _skull_stripped(image: Tensor, told: bool | None) -> dict[str, Any]:
    if told is not None:
        return {"SkullStripped": told}
    zeros = not bool(find_foreground(image).all())
    return {"SkullStripped": zeros, "SkullStrippedOrigin": "measured: whether exact zeros are on the image's border"}


def describe_derivatives(folder: Path, raw: str | None = None) -> None:
    """Write `dataset_description.json`, `README.md` and `.bidsignore` of a data set of derivatives.

    Args:
        folder: folder of the data set.
        raw: where the raw data set is, as a path or URL, which sidecars call `bids:raw:`; None where it is not known.
    """
    content: dict[str, Any] = {
        "Name": "medtrace: traces of translated and registered images",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": NAME, "Version": __version__, "Description": "Traceable medical image translation"}],
    }
    if raw is not None:
        content |= {"SourceDatasets": [{"URL": raw}], "DatasetLinks": {"raw": raw}}
    atomic_write(folder / DESCRIPTION, json.dumps(content, indent=2) + "\n")
    atomic_write(folder / "README.md", _README)
    atomic_write(folder / ".bidsignore", "*_xfm.*\n")


_README = """# Traces made by medtrace

`space-predicted` is the anatomy that a translation predicts, on the source's grid; `space-target` is that of the image
which a source was registered to; `orig` is the source as it was. `_xfm.h5` files are ITK transforms in the resampling
direction. Research only; not for diagnosis or the planning of treatment.
"""
