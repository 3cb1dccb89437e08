"""A paper's experiments as data: its images, their preparation, the rows of its tables and the printed numbers.

A method whose paper can be reproduced has a file `recipe.py` in its folder, which declares a `Recipe` as `RECIPE`;
`medtrace reproduce` reads it and refers to no paper by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

ScoreName = Literal["translation", "fidelity", "registration", "traceability", "information"]
Fractions = tuple[float, float, float]
Counts = tuple[int, int, int]
"""Of training, validation and test."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of a published layout, prepared as `medtrace prepare` does.

    Attributes:
        layout: name of a layout of `medtrace prepare`.
        select: contrasts that make pairs.
        fractions: fractions of subjects.
        source: contrast to translate from, if the layout may have the pair the other way round.
        labeled: only pairs whose images both have labels.
        arguments: of `medtrace.workflows.prepare.prepare`.
        smoke: likewise, replacing these in a smoke test.
    """

    kind: ClassVar[str] = "pairs"
    layout: str
    fractions: Fractions
    select: tuple[str, ...] = ()
    source: str = ""
    labeled: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CrossedSlices:
    """Slices chosen by the mask of a pathology, each healthy one paired with those that show one.

    Attributes:
        layout: "brats" (one slice a subject, tumor by the segmentation) or "ircadb" (livers by MASKS_DICOM).
        healthy: slices without pathology in training, validation and test.
        pathological: likewise with one.
        pairs: number sampled at random from all pairs of a split; None takes all.
        rotations: whether the training pairs are included four times, rotated by right angles.
        contrast: contrast of the layout.
        smoke_healthy: for a smoke test.
        smoke_pathological: likewise.
    """

    kind: ClassVar[str] = "crossed"
    layout: Literal["brats", "ircadb"]
    healthy: Counts
    pathological: Counts
    pairs: Counts | None = None
    rotations: bool = False
    contrast: str = "t1"
    smoke_healthy: Counts = (2, 1, 1)
    smoke_pathological: Counts = (2, 1, 1)


@dataclass(frozen=True)
class Domain:
    """One of two domains without pairs.

    Attributes:
        folder: below the data set's.
        layout: "b-scans" (`images/EYE_NUMBER.png` and labels of the same names in `labels/`), "acdc" (end diastole) or
            "ukbiobank" (`ID/sa_ED.nii.gz`, `ID/label_sa_ED.nii.gz`).
        contrast: name of its images' contrast.
        subjects: number of subjects; None is all.
        groups: of ACDC's patients; none is all.
    """

    folder: str
    layout: Literal["b-scans", "acdc", "ukbiobank"]
    contrast: str
    subjects: int | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domains:
    """Two domains without pairs.

    Attributes:
        source: what is translated from.
        target: what is translated to.
        fractions: fractions of the subjects of each.
        enclosed: (inner, outer) labels: in both domains the inner one is surrounded by the outer one, which detects
            labels with other numbers; None if no such pair is known.
        arguments: of `medtrace.workflows.prepare.prepare`.
        smoke: likewise, for a smoke test.
    """

    kind: ClassVar[str] = "domains"
    source: Domain
    target: Domain
    fractions: Fractions
    enclosed: tuple[int, int] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperData:
    """A data set of a paper.

    Attributes:
        name: name of the folder that holds it, where a paper has several, and of what is prepared from it.
        title: its common name.
        access: how to obtain it, and under which terms.
        layout: what its folder looks like.
        preparation: how the paper prepared it.
        decided: what the paper leaves open, and the choice made here.
    """

    name: str
    title: str
    access: str
    layout: str
    preparation: Pairs | CrossedSlices | Domains
    decided: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: as in the paper, with the printed unit.
        factor: from the measured number to the printed one.
        better: whether higher or lower is better.
    """

    heading: str
    factor: float = 1.0
    better: Literal["min", "max"] | None = None


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: a training, a control, or what medtrace does not have.

    Attributes:
        label: as in the paper.
        published: column → number as printed.
        method: the method to train, with its preset `paper`.
        settings: dotted name → value on top.
        sampling: how the trained method samples.
        control: "identity", which needs no training.
        missing: why the row is not run.
    """

    label: str
    published: Mapping[str, float] = field(default_factory=dict)
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    control: Literal["", "identity"] = ""
    missing: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.method, self.control, self.missing))) != 1:
            raise ValueError(
                f"{self.label}: expected one of method, control and missing, received none or several; give exactly one"
            )


IDENTITY = PaperRow("the source itself (not in the paper)", control="identity")
"""The control that a row must beat."""


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper, or the part of it for one data set.

    Attributes:
        number: as printed, such as "1" or "II".
        title: what it compares.
        data: name of its data set.
        scores: how a row is scored.
        columns: measured column → how it is printed.
        rows: in the paper's order.
        notes: why these numbers may differ from the printed ones.
    """

    number: str
    title: str
    data: str
    scores: ScoreName
    columns: Mapping[str, Column]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its files."""
        return f"table_{self.number}_{self.data}".lower()


@dataclass(frozen=True)
class Recipe:
    """A paper, as far as it can be reproduced.

    Attributes:
        method: name of the method's folder.
        citation: citation of the paper.
        data: its data sets.
        tables: its tables.
        left_out: the parts of the paper that are not reproduced, and why.
    """

    method: str
    citation: str
    data: tuple[PaperData, ...]
    tables: tuple[PaperTable, ...]
    left_out: tuple[str, ...] = ()

    def data_of(self, table: PaperTable) -> PaperData:
        """The data set of a table."""
        return next(one for one in self.data if one.name == table.data)

    def chosen(self, number: str | None) -> tuple[PaperTable, ...]:
        """The tables with a number; without one, all tables.

        Raises:
            ValueError: if there is none with that number.
        """
        result = tuple(table for table in self.tables if number in (None, table.number))
        if not result:
            known = ", ".join(dict.fromkeys(table.number for table in self.tables))
            raise ValueError(f"table: expected one of {known} of {self.method}, received {number!r}")
        return result
