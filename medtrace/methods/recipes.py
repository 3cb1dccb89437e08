"""What a paper did, as data: its images, their preparation, the rows of its tables and the numbers that it printed.

A method whose paper can be run again has a file `recipe.py` in its folder, which declares a `Recipe` as `RECIPE`;
`medtrace reproduce` reads it and knows no paper by name.
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
        source: contrast that is translated from, where the layout may have the pair the other way round.
        labeled: only pairs whose images both have labels.
        arguments: of `medtrace.workflows.prepare.prepare`.
        smoke: likewise, in place of these where only the path is tried.
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
        pairs: drawn at random of all pairs of a split; None takes them all.
        rotations: whether the training pairs are there four times, turned by right angles.
        contrast: contrast of the layout.
        smoke_healthy: where only the path is tried.
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
        contrast: what its images are called.
        subjects: how many are taken; None is all.
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
        enclosed: (inner, outer) labels: the inner one is in both domains surrounded by the outer one, by which labels
            that are numbered in another way are found out; None where nothing of the kind is known.
        arguments: of `medtrace.workflows.prepare.prepare`.
        smoke: likewise, where only the path is tried.
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
        name: name of the folder that holds it, where a paper has several, and of what is prepared of it.
        title: what people call it.
        access: how it is had, and under which terms.
        layout: what its folder looks like.
        preparation: what the paper did with it.
        decided: what the paper leaves open, and what is done here.
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
        heading: as the paper has it, with the unit that is printed.
        factor: from the measured number to the printed one.
        better: which end is good.
    """

    heading: str
    factor: float = 1.0
    better: Literal["min", "max"] | None = None


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: a training, a control, or what medtrace does not have.

    Attributes:
        label: as the paper has it.
        published: column → number as printed.
        method: that is trained, by its preset `paper`.
        settings: dotted name → value on top.
        sampling: how the trained method is to sample.
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
            raise ValueError(f"{self.label}: expected one of method, control and missing, received others; give one")


IDENTITY = PaperRow("the source itself (not in the paper)", control="identity")
"""What a row has to beat."""


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper, or the part of it that is of one data set.

    Attributes:
        number: as printed, such as "1" or "II".
        title: what it compares.
        data: name of its data set.
        scores: how a row is measured.
        columns: measured column → how it is printed.
        rows: in the paper's order.
        notes: what stands between these numbers and the printed ones.
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
    """A paper, as far as it can be run again.

    Attributes:
        method: name of the folder that it lies in.
        citation: citation of the paper.
        data: its data sets.
        tables: its tables.
        left_out: what of the paper is not done, and why.
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
        """The tables of a number; all of them without one.

        Raises:
            ValueError: if there is none of that number.
        """
        result = tuple(table for table in self.tables if number in (None, table.number))
        if not result:
            known = ", ".join(dict.fromkeys(table.number for table in self.tables))
            raise ValueError(f"table: expected one of {known} of {self.method}, received {number!r}")
        return result
