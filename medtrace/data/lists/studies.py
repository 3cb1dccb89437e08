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

LOGGER = logging.getLogger("medtrace.data")


@dataclass(frozen=True)
class Study:
    """What a layout has of a subject at one date.

    Attributes:
        subject: who it is.
        images: contrast → file or DICOM folder.
        visit: which date, where a subject has several.
        labels: segmentation on the grid of the images.
        mask: foreground of the images.
        split: "training", "validation" or "test", where the layout has one.
    """

    subject: str
    images: Mapping[str, Path]
    visit: str = ""
    labels: Path | None = None
    mask: Path | None = None
    split: str = ""
    origin: str = field(default="", compare=False)


class Selection(NamedTuple):
    """Which contrasts make a pair: `T1,FLAIR:T2`, or `T1` of two dates."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    """Empty where the target is the same contrast at the next date."""

    @classmethod
    def of(cls, text: str) -> Selection:
        """Parse `SOURCE[,SOURCE...]:TARGET[,TARGET...]`, or `CONTRAST`.

        Raises:
            ValueError: if it is written in another way.

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
        studies: of a layout.
        select: selections, see `Selection.of`. Sources may be missing but one, where there are several.
        place: of the layout, for messages.

    Raises:
        ValueError: if nothing is asked for, a contrast is unknown, or no study has what is asked for.
    """
    known = sorted({name for study in studies for name in study.images})
    if not select:
        raise ValueError(
            f"{place}: has {', '.join(known)}; say what is to become what by --select SOURCE:TARGET, or by --select"
            " CONTRAST of two dates"
        )
    pairs: list[Pair] = []
    for text in select:
        selection = Selection.of(text)
        for name in (*selection.sources, *selection.targets):
            if name not in known:
                raise ValueError(f"select: expected contrasts among {', '.join(known)}, received {name!r}")
        suffix = f"_{check_name('select', text.replace(':', '-').replace(',', '+'))}" if len(select) > 1 else ""
        made = _within(studies, selection, suffix) if selection.targets else _between(studies, selection, suffix)
        if not made:
            raise ValueError(f"{place}: no study has what --select {text} asks for; choose among {', '.join(known)}")
        pairs += made
    return _same_labels(pairs, place)


def images_of(studies: Sequence[Study], select: Sequence[str], side: str, place: Path) -> list[Pair]:
    """Every image of a contrast, as the side of an unpaired domain.

    Args:
        studies: of a layout.
        select: contrasts; none is the only one that there is.
        side: "source" or "target".
        place: of the layout, for messages.

    Raises:
        ValueError: if a contrast is unknown, or there are several and none is asked for.
    """
    known = sorted({name for study in studies for name in study.images})
    wanted = [name for name in select if name in known] or (known if len(known) == 1 else [])
    if not wanted:
        raise ValueError(f"{place}: has {', '.join(known)}; choose the {side}s by --select CONTRAST")
    pairs = []
    for name in wanted:
        for study in (study for study in studies if name in study.images):
            pair = _pair(study, study, {}, f"_{name}" if len(wanted) > 1 else "")
            image: dict[str, Any] = {side: study.images[name], "source" if side == "target" else "target": None}
            labels: dict[str, Any] = {f"{side}_labels": study.labels}
            case = f"{pair.case}_{side}"
            pairs.append(replace(pair, **image, **labels, case=case, contrast=name, target_contrast=name))
    return _same_labels(pairs, place)


def _within(studies: Sequence[Study], selection: Selection, suffix: str) -> list[Pair]:
    pairs, lacking = [], 0
    for study in studies:
        there = [name for name in selection.sources if name in study.images]
        if not there or not all(name in study.images for name in selection.targets):
            lacking += 1
            continue
        values: dict[str, Any] = {"source": study.images[there[0]], "target": study.images[selection.targets[0]]}
        values |= {"contrast": there[0], "target_contrast": selection.targets[0]}
        if len(selection.sources) > 1 or len(selection.targets) > 1:
            values |= {
                f"{side}s": _channels(study, side, getattr(selection, f"{side}s")) for side in ("source", "target")
            }
            values["channels"] = selection.sources
        pairs.append(_pair(study, study, values, suffix))
    if lacking:
        LOGGER.warning("%d of %d studies lack a contrast that is asked for and are left out", lacking, len(studies))
    return pairs


def _channels(study: Study, side: str, names: Sequence[str]) -> tuple[PairImage | None, ...]:
    return tuple(
        PairImage(side, channel, name, study.images[name]) if name in study.images else None
        for channel, name in enumerate(names)
    )


def _between(studies: Sequence[Study], selection: Selection, suffix: str) -> list[Pair]:
    """Each date to the next of a subject that has the contrast."""
    (name,) = selection.sources
    dates: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        if name in study.images:
            dates[study.subject].append(study)
    pairs = []
    for several in dates.values():
        ordered = sorted(several, key=lambda study: study.visit)
        for before, after in itertools.pairwise(ordered):
            values = {"source": before.images[name], "target": after.images[name], "contrast": name}
            pairs.append(_pair(before, after, values, suffix))
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
