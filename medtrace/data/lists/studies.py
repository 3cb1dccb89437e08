"""Studies of published layouts, each of a subject at a date with one image a contrast, and the pairs chosen of them."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from medtrace.data.lists.names import check_name
from medtrace.data.lists.pair_list import LABELS, Pair, PairImage
from medtrace.data.lists.variants import contrast_of, matching, single, spelled_out
from medtrace.data.lists.visits import in_order, session_of, session_of_all

LOGGER = logging.getLogger("medtrace.data")


@dataclass(frozen=True)
class Study:
    """A layout's images of a subject at one date.

    Attributes:
        subject: who it is.
        images: contrast → file or DICOM folder.
        visit: which date, where a subject has several.
        labels: segmentation on the grid of the images.
        lesion: likewise of pathology.
        mask: foreground of the images.
        split: "training", "validation" or "test", where the layout has one.
        volumes: contrast → which volume of its file, where that holds several.
        variants: name of an image by which it differs from others of its contrast (see `variants`) → file; those of
            a contrast of which there is one are in `images` too.
        time: of the visit, in the layout's own unit and from its own day zero, where it is on record.
    """

    subject: str
    images: Mapping[str, Path]
    visit: str = ""
    labels: Path | None = None
    mask: Path | None = None
    split: str = ""
    origin: str = field(default="", compare=False)
    lesion: Path | None = None
    volumes: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Path] = field(default_factory=dict)
    time: float | None = None

    @property
    def names(self) -> set[str]:
        """Contrasts, also those of which there are several images."""
        return {*self.images, *map(contrast_of, self.variants)}

    def image(self, name: str, side: str = "source", channel: int = 0) -> PairImage | None:
        """The image of a contrast or, of several, of a variant; None if there is none.

        Raises:
            ValueError: if there are several.
        """
        if name in self.images:
            return PairImage(side, channel, name, self.images[name], self.volumes.get(name))
        found = matching(self.variants, name)
        if len(found) > 1:
            longest = max(found, key=len)
            raise ValueError(
                f"{self.origin}: expected one {name} per subject and date, received {', '.join(found)}; select one by"
                f" its entities, such as --select {longest}, or each as a separate case, such as --select"
                f" {single(longest)}; or write a pair list that specifies which"
            )
        return PairImage(side, channel, contrast_of(name), self.variants[found[0]]) if found else None


class Selection(NamedTuple):
    """The contrasts that make a pair: `T1,FLAIR:T2`, `T1` at two dates, or `ses-pre_T1:ses-post_T1` at the two
    named."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    """Empty where the target is the same contrast at the next date."""

    @classmethod
    def of(cls, text: str) -> Selection:
        """Parse `SOURCE[,SOURCE...]:TARGET[,TARGET...]`, or `CONTRAST`.

        Raises:
            ValueError: if it is written in any other way.

        Example:
            >>> Selection.of("T1,FLAIR:T2")
            Selection(sources=('T1', 'FLAIR'), targets=('T2',))
        """
        before, colon, after = text.partition(":")
        sides = [tuple(name.strip() for name in side.split(",")) for side in (before, after)]
        names = [*sides[0], *(sides[1] if colon else ())]
        if not all(names) or len(set(names)) < len(names) or (not colon and len(names) > 1):
            raise ValueError(
                f"select: expected SOURCE[,SOURCE...]:TARGET, or one CONTRAST of two dates, received {text!r}; write"
                " such as T1,FLAIR:T2"
            )
        return cls(sides[0], sides[1] if colon else ())


def pairs_of(studies: Sequence[Study], select: Sequence[str], place: Path) -> list[Pair]:
    """The pairs that selections make of studies; studies that lack what is asked for are left out, which is said.

    Args:
        studies: studies of a layout.
        select: selections, see `Selection.of`. Where there are several sources, all but one may be missing.
        place: of the layout, for messages.

    Raises:
        ValueError: if nothing is selected, a contrast is unknown, or no study has what is selected.
    """
    known = sorted({name for study in studies for name in study.names})
    if not select:
        raise ValueError(
            f"{place}: has {', '.join(known)}; specify what becomes what with --select SOURCE:TARGET, or with"
            " --select CONTRAST for two dates"
        )
    pairs: list[Pair] = []
    variants = [name for study in studies for name in study.variants]
    select = [one for text in select for one in spelled_out(text, variants)]
    for text in select:
        selection = Selection.of(text)
        for name in (session_of(name)[1] for name in (*selection.sources, *selection.targets)):
            if name not in known and not matching(variants, name):
                raise ValueError(f"select: expected contrasts among {', '.join(known)}, received {name!r}")
        _check_apart(selection)
        suffix = f"_{check_name('select', text.replace(':', '-').replace(',', '+'))}" if len(select) > 1 else ""
        made = _within(studies, selection, suffix) if selection.targets else _between(studies, selection, suffix)
        if not made:
            raise ValueError(f"{place}: no study has what --select {text} asks for; choose among {', '.join(known)}")
        pairs += made
    return _same_labels(pairs, place)


def images_of(studies: Sequence[Study], select: Sequence[str], side: str, place: Path) -> list[Pair]:
    """Every image of a contrast, as the side of an unpaired domain.

    Args:
        studies: studies of a layout.
        select: contrasts; none selects the only one there is.
        side: "source" or "target".
        place: of the layout, for messages.

    Raises:
        ValueError: if a contrast is unknown, or there are several and none is selected.
    """
    known = sorted({name for study in studies for name in study.names})
    variants = [name for study in studies for name in study.variants]
    select = [one for text in select for one in spelled_out(text, variants)]
    asked = [name for name in select if name in known or matching(variants, name)]
    wanted = asked or (known if len(known) == 1 else [])
    if not wanted:
        raise ValueError(f"{place}: has {', '.join(known)}; choose the {side}s with --select CONTRAST")
    pairs = []
    for name in wanted:
        for study in studies:
            found = study.image(name, side)
            if found is None:
                continue
            pair = _pair(study, study, {}, f"_{name}" if len(wanted) > 1 else "")
            image: dict[str, Any] = {side: found.path, "source" if side == "target" else "target": None}
            image |= {f"{side}_series": found.series, "contrast": found.contrast, "target_contrast": found.contrast}
            pairs.append(replace(pair, **image, case=f"{pair.case}_{side}"))
    return _same_labels(pairs, place)


def _within(studies: Sequence[Study], selection: Selection, suffix: str) -> list[Pair]:
    """Pairs of one date, or of the two that the selection names."""
    dates, names = zip(*map(session_of_all, selection))
    if any(dates) and not all(dates):
        raise ValueError(
            f"select: expected a date on both sides or neither, received {', '.join(filter(None, dates))} alone; write"
            " such as ses-pre_T1w:ses-post_T1w"
        )
    if any(dates):
        at = {(study.subject, study.visit): study for study in studies}
        subjects = dict.fromkeys(study.subject for study in studies)
        both = [tuple(at.get((subject, date)) for date in dates) for subject in subjects]
        lacking = sum(None in sides for sides in both)
        sides_of = [(before, after) for before, after in both if before is not None and after is not None]
    else:
        lacking, sides_of = 0, [(study, study) for study in studies]
    pairs = []
    for before, after in sides_of:
        sources, targets = (
            tuple(study.image(name, side, channel) for channel, name in enumerate(of_side))
            for study, side, of_side in zip((before, after), ("source", "target"), names)
        )
        there = [image for image in sources if image is not None]
        if not there or None in targets:
            lacking += 1
            continue
        values = {**_image("source", there[0]), **_image("target", targets[0])}
        if len(selection.sources) > 1 or len(selection.targets) > 1:
            values |= {"sources": sources, "targets": targets, "channels": tuple(map(contrast_of, names[0]))}
        pairs.append(_pair(before, after, values, suffix))
    if lacking:
        count = lacking + len(pairs)
        what = "subjects lack a date or contrast" if any(dates) else "studies lack a contrast"
        LOGGER.warning("%d of %d %s that is selected and are left out", lacking, count, what)
    return pairs


def _image(side: str, image: PairImage | None) -> dict[str, Any]:
    if image is None:
        return {}
    contrast = "contrast" if side == "source" else "target_contrast"
    return {side: image.path, f"{side}_series": image.series, contrast: image.contrast}


def _check_apart(selection: Selection) -> None:
    for names in selection:
        contrasts = [contrast_of(session_of(name)[1]) for name in names]
        if len(set(contrasts)) < len(contrasts):
            raise ValueError(
                f"select: expected images of one side in several contrasts, received {', '.join(names)}; a network"
                " distinguishes its channels by their contrasts: select one of each"
            )


def _between(studies: Sequence[Study], selection: Selection, suffix: str) -> list[Pair]:
    """Each date to the next of a subject that has the contrast."""
    (name,) = selection.sources
    dates: dict[str, list[tuple[Study, PairImage]]] = defaultdict(list)
    for study in studies:
        if (image := study.image(name)) is not None:
            dates[study.subject].append((study, image))
    pairs = []
    for several in dates.values():
        if len(several) < 2:
            continue
        visits, times = [study.visit for study, _ in several], [study.time for study, _ in several]
        ordered = [several[position] for position in in_order(visits, times, several[0][0].origin)]
        for (before, source), (after, target) in itertools.pairwise(ordered):
            pairs.append(_pair(before, after, {**_image("source", source), **_image("target", target)}, suffix))
    return pairs


def _pair(before: Study, after: Study, values: Mapping[str, Any], suffix: str) -> Pair:
    subject = check_name(f"{before.origin}: subject", before.subject)
    visits = dict.fromkeys(study.visit for study in (before, after) if study.visit)
    case = "_".join([subject, *visits]) + suffix
    values = {"source": None, "target": None, **values}
    return Pair(
        subject=subject,
        case=check_name(f"{before.origin}: case", case),
        mask=before.mask,
        source_labels=before.labels,
        target_labels=after.labels,
        source_lesion=before.lesion,
        target_lesion=after.lesion,
        split=before.split,
        origin=before.origin,
        **values,
    )


def _same_labels(pairs: list[Pair], place: Path) -> list[Pair]:
    """Labels of all or of none: those of some would not fit into a batch."""
    for name in LABELS:
        there = [pair for pair in pairs if getattr(pair, name) is not None]
        if there and len(there) < len(pairs):
            LOGGER.warning("%s: %d of %d cases have %s, which are left out", place, len(there), len(pairs), name)
            without: dict[str, Any] = {name: None}
            pairs = [replace(pair, **without) for pair in pairs]
    if any(pair.split for pair in pairs) and not all(pair.split for pair in pairs):
        pairs = [replace(pair, split="") for pair in pairs]
    return pairs
