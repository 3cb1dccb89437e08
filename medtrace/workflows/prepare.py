"""Preparation of before/after images as a dataset for training (TraceTrans, Datasets)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from medtrace.data.bias import corrected_contrasts
from medtrace.data.contrasts import contrasts_of, rule_notes
from medtrace.data.dataset import INDEX, VERSION
from medtrace.data.duplicates import check_files
from medtrace.data.lists.domain_list import check_contrasts_apart, read_domain
from medtrace.data.lists.layouts import LAYOUTS, read_layout, read_side
from medtrace.data.lists.pair_list import SIDES, SPLITS, Pair, check_list
from medtrace.data.lists.splits import check_both_sides, split_by_subject, split_domains, split_of_list
from medtrace.data.population import SCANS, scan_records
from medtrace.data.preparation.case import checked_settings
from medtrace.data.preparation.learning import LEARNED, channel_notes
from medtrace.data.preparation.maps import columns_in
from medtrace.data.preparation.natural_images import (
    all_natural_images,
    check_natural_image_settings,
    common_depth,
    range_notes,
)
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.data.scan_files import write_scan_files
from medtrace.guard.progress import announce
from medtrace.storage.cases import RECORD
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write, link_or_copy, remove
from medtrace.storage.places import free_disk, stands_alone
from medtrace.storage.reservations import Contents, locked, reserve_folder
from medtrace.storage.workspaces import PARTIAL, sweep
from medtrace.workflows.many.parallel import CasesFailedError, many_line
from medtrace.workflows.preparation.faces import faces_of
from medtrace.workflows.preparation.passes import Passes, Runner
from medtrace.workflows.preparation.writing import WRITTEN, Item

PAPER_CROP = (192, 192, 128)
PAPER_FRACTIONS = (0.7, 0.0, 0.3)
LEAST_FOR_VALIDATION = 5
"""Minimum number of subjects for a validation split by default."""
ENDING = PARTIAL
"""Ending of the folder next to a dataset, or in it (`stands_alone`), with what a preparation has finished so far."""
SHOWN_SIZES = 8


class PreparationSummary(NamedTuple):
    """What `prepare` made."""

    folder: Path
    counts: dict[str, int]
    """Items (slices or volumes) per split."""
    failures: list[str]
    """One line per skipped case."""
    split: str = "random"
    """Where the split came from: "random", or "list" for the pair list's own."""
    notes: tuple[str, ...] = ()
    """Notes for the user: the range of natural images, pixels outside of it, several sizes."""


def prepare(
    source: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    sources: str | os.PathLike | None = None,
    targets: str | os.PathLike | None = None,
    select: Sequence[str] = (),
    layout: str | None = None,
    source_contrast: str | Sequence[str] = (),
    target_contrast: str | Sequence[str] = (),
    spatial_dims: int = 2,
    slices: int = 11,
    axis: str = "axial",
    crop: Sequence[int] | None = PAPER_CROP,
    pad: bool = False,
    spacing: Sequence[float] | None = None,
    resize: int | None = None,
    align: bool = True,
    standardize: bool = True,
    bias_correction: Sequence[str] = (),
    fractions: Sequence[float] | Mapping[str, float] | None = None,
    seed: int = 0,
    value_range: Sequence[float] | None = None,
    page: int | None = None,
    skip_failed: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    resample_tilt: bool = False,
    faces: bool = False,
    largest_face: bool = False,
) -> PreparationSummary:
    """Prepare pairs of scans or natural images, split by subject: as in the list, otherwise at random.

    Scans: the target is aligned rigidly to the source and resampled on its grid; both are reoriented to RAS, then
    brought to [0, 1] each by the rule of its contrast (a CT by a fixed window of HU; others by Nyul's landmarks and the
    window of z, which come from training subjects only), cropped about the center and, with `spatial_dims=2`, cut into
    central slices. Natural images (PNG, JPEG, BMP, TIFF; the paper's faces) are resized and their value range mapped to
    [0, 1]. Stored intensities are in [0, 1], with background at 0. Lesions and labels are resampled too, with
    nearest-neighbor interpolation.

    No image may belong to two subjects, or be both source and target of a pair: the bytes of all files are compared
    before anything is written, and the voxels when they are read.

    The folder holds `dataset.json` (one list of items per split, and where the split came from), `preparation.json`
    (how to prepare a new source), `images/` (NIfTI; a slice is a one-slice volume with its own affine), `rigid/`
    (ITK transforms from source to target points) and `landmarks/` (CSV, RAS mm, both dates in the source's frame).
    The paths of the scans are stored next to it, in `FOLDER.scans.json`.

    There are two passes over the pairs: first every pair is read and aligned, and the training subjects' intensities
    are learned; then every pair is written. A failing pair does not stop the others. Finished pairs are kept in
    `out` with the ending ".partial" until the dataset is complete, so that a second call, after a repair or a
    crash, does only what is missing: a pair counts as finished if the bytes of its files, the settings and, for the
    second pass, all learned values are the same, and its results are unchanged.

    Args:
        source: a pair list, or a folder or JSON file in a known layout (see `medtrace.data.lists.layouts`).
        sources: instead of pairs, the images of the domain to translate from, see `domain_list.read_domains`; with
            `targets`. A subject in both is in one split.
        targets: likewise for the domain to translate to.
        out: the dataset's folder; it appears complete or not at all.
        select: which contrasts of a layout make pairs: `SOURCE[,SOURCE...]:TARGET[,TARGET...]`, or one contrast of two
            dates. In BraTS-Reg the contrasts to use, by default t1. For two domains the contrasts of either.
        layout: name of the layout, one of `layouts.LAYOUTS`; None recognizes it.
        source_contrast: `NAME[=UNIT[:LOW:HIGH]]` (see `medtrace.trace.Contrast.of`), one or several: what the sources
            are, if the list does not say, or the units of contrasts that it names. A DICOM series of modality CT is in
            HU by default; a file whose values look like HU is refused until its unit is given.
        target_contrast: likewise of the targets.
        spatial_dims: 2 for slices, 3 for volumes.
        slices: how many central slices of each volume.
        axis: "axial", "coronal" or "sagittal".
        crop: voxels right-left, front-back and up-down to which larger volumes are cropped; None keeps their size.
        pad: whether smaller volumes are padded to `crop`.
        spacing: voxel size in mm to which sources are first resampled, in the same axis order.
        resize: edge of square slices; None is 256 for natural images and no resizing for scans; 0 does not resize.
        align: whether targets are aligned; otherwise they must be on the source's grid. Natural images are never
            aligned.
        standardize: whether Nyul's standardization comes before the z-score.
        bias_correction: names of contrasts in arbitrary units, or "all" of them: every image of these is divided by the
            bias field that N4 finds in it before anything else, here and by the run (see `medtrace.data.bias`).
        fractions: fractions of subjects, see `split_by_subject`; None is `default_fractions`. Not allowed with a list
            that has its own split.
        seed: seed of the random split.
        value_range: the values of natural images that become 0 and 1. None takes 0 to 255 for natural images of 8 bits,
            and for others
            the smallest and the largest value of the training natural images; `preparation.json` says which.
        page: which page of the natural images to use, from 1, if they have several.
        skip_failed: make the dataset without the cases that fail. Otherwise all cases are tried, and if any fails no
            dataset is made.
        overwrite: replace an earlier dataset.
        workers: processes that share the cases; the dataset is the same for any number.
        scheduler: address of a Dask scheduler whose workers process the cases instead (see `parallel.run_cases`).
        progress: show a bar on stderr.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        faces: crop photographs to the face first (see `medtrace.data.faces.cut_to_faces`), into the folder `out` with
            the ending ".faces", which `evaluate` needs; the face's mask becomes the pair's.
        largest_face: if a photograph has several faces, take the largest; otherwise these are refused.

    Returns:
        Counts per split, the cases that were left out, where the split came from, and notes.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        OSError: if another preparation of `out` is running.
        ValueError: if a setting or an image cannot be used; the message names it. If cases failed, it is a
            `CasesFailedError`, whose `failures` has a line for each.
    """
    place = Path.absolute if scheduler is not None else Path
    if source is not None and sources is None and targets is None:
        pairs, result = read_layout(place(Path(source)), select, layout)
    elif source is None and sources is not None and targets is not None:
        pairs, result = _domains(place(Path(sources)), place(Path(targets)), select), "two lists"
    else:
        raise ValueError("source: expected pairs, or else sources and targets; give one or the other")
    natural_images = all_natural_images(pairs)
    check_natural_image_settings(natural_images, value_range, page)
    found = faces_of(pairs, natural_images, Path(out), faces=faces, largest=largest_face, resize=resize, page=page)
    if found.failures and not skip_failed:
        raise CasesFailedError(found.failures, len(pairs), "repair the list, or skip them with --skip-failed")
    pairs = found.pairs
    declared = [[texts] if isinstance(texts, str) else list(texts) for texts in (source_contrast, target_contrast)]
    if natural_images and bias_correction:
        raise ValueError("bias_correction: expected none with natural images, received some; leave it out")
    if natural_images and any(declared):
        raise ValueError(
            "contrast: expected none with natural images, whose unit is their range of values; see value_range"
        )
    pairs, contrasts = (pairs, {}) if natural_images else contrasts_of(pairs, *declared)
    contrasts = corrected_contrasts(contrasts, bias_correction) if bias_correction else contrasts
    paired = all(pair.paired for pair in pairs)
    if not paired and not natural_images:
        check_contrasts_apart(pairs)
    settings = checked_settings(
        spatial_dims, slices, axis, crop, pad, spacing, resize, align, standardize, resample_tilt, page, contrasts
    )
    split, origin = _split(pairs, fractions, seed)
    people = len({pair.subject for pair in pairs})
    line = many_line(f"preparing, {people} subjects", len(pairs), workers, scheduler)
    announce(f"{line}, read and then written", disk=free_disk(out), out=Path(out).name)
    with (
        _partial_folder(out, overwrite) as partial,
        Progress(console=Console(stderr=True), disable=not progress) as bar,
    ):
        check_files(pairs)
        depth = common_depth(pairs, page) if natural_images else None
        threads = None if workers == 1 and scheduler is None else 1
        passes = Passes(split, settings, natural_images, columns_in(pairs), partial, threads, value_range, depth)
        run = Runner(workers, scheduler, bar)
        learned, failures = passes.learn(run)
        failures = found.failures + failures
        _stop_unless(skip_failed, failures, pairs, partial)
        preparation = passes.preparation(learned, failures)
        items, more = passes.write(run, preparation, learned)
        failures += more
        _stop_unless(skip_failed, failures, pairs, partial)
        if not items["training"] and split["training"]:
            raise ValueError(f"no training case could be prepared: {failures[0]}")
        notices = {name: one.notices for name, one in learned.items() if one.notices}
        with atomic_directory(out, _contents(overwrite), last=(INDEX,)) as dataset:
            scans = scan_records(split, learned)
            _assemble(dataset, partial, items, preparation, origin, notices, scans, paired)
        write_scan_files(out, pairs, align=align, resample_tilt=resample_tilt, page=page)
    counts = {name: len(items[name]) for name in SPLITS}
    written = [item for name in SPLITS for item in items[name]]
    notes = _size_notes(written, spatial_dims)
    unchanged = [name for name, one in learned.items() if len(one.digests) == 2 and len({*one.digests}) == 1]
    if unchanged:
        notes.append(f"{len(unchanged)} pair(s) hold the same image twice, moved or turned (first: {unchanged[0]})")
    if natural_images and preparation.value_range is not None:
        clipped = {item.entry["case"]: item.clipped for item in written}
        values, about = preparation.value_range, (preparation.range_origin, preparation.depth)
        notes = range_notes(values, *about, learned, clipped) + notes
    if not paired:
        notes.append(_domain_note(pairs, items))
    notes = found.notes + channel_notes(preparation, pairs) + notes
    notes = rule_notes(preparation.contrasts, preparation.targets) + notes if preparation.contrasts else notes
    if result != LAYOUTS["list"].title:
        notes.insert(0, f"read as {result}: {len(pairs)} case(s)")
    return PreparationSummary(Path(out), counts, failures, origin["from"], tuple(notes))


def _domains(sources: Path, targets: Path, select: Sequence[str]) -> list[Pair]:
    """The images of two domains, each from a list, a folder or a known layout."""
    pairs = []
    for side, place in zip(SIDES, (sources, targets)):
        of_layout = read_side(place, side, select) if place.exists() else None
        pairs += read_domain(side, place) if of_layout is None else of_layout
    check_list(sources, pairs)
    return pairs


def _domain_note(pairs: Sequence[Pair], items: Mapping[str, Sequence[Item]]) -> str:
    told = []
    for name in SPLITS:
        sides = Counter(side for item in items[name] for side in SIDES if side in item.entry)
        if items[name]:
            told.append(f"{name} {sides['source']} sources and {sides['target']} targets")
    both = [{pair.subject for pair in pairs if pair.first.side == side} for side in SIDES]
    return f"unpaired domains: {', '.join(told)}; {len(both[0] & both[1])} subject(s) are in both, each in one split"


def _size_notes(items: Sequence[Item], spatial_dims: int) -> list[str]:
    sizes = Counter(item.shape[1 : 1 + spatial_dims] for item in items)
    if len(sizes) < 2:
        return []
    shown = [f"{' x '.join(map(str, size))} ({count})" for size, count in sorted(sizes.items())]
    more = f" and {len(shown) - SHOWN_SIZES} more" if len(shown) > SHOWN_SIZES else ""
    return [
        f"the data set has {len(sizes)} sizes: {', '.join(shown[:SHOWN_SIZES])}{more}; a batch holds images of one size"
    ]


def _stop_unless(skip: bool, failures: Sequence[str], pairs: Sequence[Pair], partial: Path) -> None:
    if failures and not skip:
        raise CasesFailedError(failures, len(pairs), f"finished cases are kept in {partial} for the next attempt")


@contextmanager
def _partial_folder(out: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """The folder of the finished cases, with the dataset's path reserved; it is removed if no case is finished or the
    dataset exists."""
    with reserve_folder(out, _contents(overwrite), make_parents=True) as reserved:
        place = reserved.place
        partial = (place if stands_alone(place) else place.parent) / f"{place.name}{ENDING}"
        whole = False
        try:
            with locked(partial):
                _sweep(partial)
                yield partial
                whole = True
        finally:
            _sweep(partial)  # from workers that died
            if whole or not any(partial.glob(f"*/*/{RECORD}")):
                remove(partial)


def _sweep(partial: Path) -> None:
    for name in (LEARNED, WRITTEN):
        sweep(partial / name)


def _assemble(
    dataset: Path,
    partial: Path,
    items: Mapping[str, Sequence[Item]],
    preparation: Preparation,
    origin: Mapping[str, Any],
    notices: Mapping[str, Sequence[str]],
    scans: Sequence[Mapping[str, Any]],
    paired: bool,
) -> None:
    """Assemble the cases' files into a dataset; the cases are kept for another attempt."""
    written = [item for name in SPLITS for item in items[name]]
    for case in dict.fromkeys(item.entry["volume"] for item in written):
        for file in (partial / WRITTEN / case).glob("*/*"):
            link_or_copy(file, dataset / file.parent.name / file.name)
    preparation = replace(preparation, **_common_grid(written, preparation.spatial_dims))
    preparation.save(dataset / FILE)
    index = {
        "version": VERSION,
        "spatial_dims": preparation.spatial_dims,
        "channels": preparation.in_channels,
        "target_channels": preparation.out_channels,
        "split": origin,
        **({} if paired else {"unpaired": True}),
        **({"notices": dict(notices)} if notices else {}),
        SCANS: list(scans),
        **{name: [item.entry for item in items[name]] for name in SPLITS},
    }
    atomic_write(dataset / INDEX, json.dumps(index, indent=1) + "\n")


def _split(
    pairs: Sequence[Pair], fractions: Sequence[float] | Mapping[str, float] | None, seed: int
) -> tuple[dict[str, list[Pair]], dict[str, Any]]:
    """The pairs of each split, and where the split came from."""
    published = split_of_list(pairs)
    if published is None:
        shares = default_fractions(len({pair.subject for pair in pairs})) if fractions is None else fractions
        deal = split_by_subject if all(pair.paired for pair in pairs) else split_domains
        dealt = deal(pairs, shares, seed)
        named = dict(shares) if isinstance(shares, Mapping) else dict(zip(SPLITS, shares))
        return dealt, {"from": "random", "fractions": named, "seed": seed}
    if fractions is not None:
        raise ValueError(
            f"fractions: expected none, because the list has its own split, received {fractions!r}; leave them"
            " out, or the list's column split"
        )
    if not all(pair.paired for pair in pairs):
        check_both_sides(published)
    return published, {"from": "list"}


def default_fractions(subjects: int) -> tuple[float, float, float]:
    """Default fractions of subjects: about a tenth for validation and a fifth for the test, at least one
    subject each; fewer than five subjects are split 7:3 without validation.

    Example:
        >>> default_fractions(10)
        (0.7, 0.1, 0.2)
    """
    if subjects < LEAST_FOR_VALIDATION:
        return PAPER_FRACTIONS
    validation, test = max(1, round(0.1 * subjects)), max(1, round(0.2 * subjects))
    return ((subjects - validation - test) / subjects, validation / subjects, test / subjects)


def _common_grid(items: Sequence[Item], spatial_dims: int) -> dict[str, Any]:
    """Shape and spacing that all written images share; None if they differ."""
    shapes = {item.shape[1 : 1 + spatial_dims] for item in items}
    spacings = np.array([item.spacing for item in items])
    middle = np.median(spacings, axis=0)
    alike = bool(np.all(np.abs(spacings / middle - 1) < 0.01))
    return {
        "spatial_shape": next(iter(shapes)) if len(shapes) == 1 else None,
        "spacing": tuple(round(float(value), 6) for value in middle) if alike else None,
    }


def _contents(overwrite: bool) -> Contents:
    """Check what a dataset may replace: nothing, or with `overwrite` another dataset."""

    def check(out: str | os.PathLike, names: Sequence[str]) -> None:
        foreign = sorted(set(names) - {INDEX, FILE, "images", "rigid", "landmarks"})
        if foreign or (names and INDEX not in names):
            raise FileExistsError(
                f"{out}: is in use by something else, such as {[*foreign, *names][0]!r}; choose another folder"
            )
        if names and not overwrite:
            raise FileExistsError(f"{out}: holds a dataset already; choose another folder, or pass overwrite=True")

    return check
