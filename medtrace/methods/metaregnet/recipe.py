"""MetaRegNet's paper: healthy slices registered to slices with a tumor, of brains and of livers."""

from __future__ import annotations

from medtrace.methods.recipes import IDENTITY, Column, CrossedSlices, PaperData, PaperRow, PaperTable, Recipe

BRAIN = PaperData(
    name="brats2021",
    title="BraTS 2021",
    access="by registration with the organizers (RSNA-ASNR-MICCAI BraTS 2021; Baid et al., arXiv 2107.02314), for"
    " research",
    layout="BraTS2021_00000/BraTS2021_00000_{t1,seg}.nii.gz, one folder per subject",
    preparation=CrossedSlices(
        layout="brats", healthy=(95, 5, 20), pathological=(95, 5, 20), pairs=(240, 5, 20), contrast="t1"
    ),
    decided=(
        "the contrast: T1, which the paper does not name",
        "the slices: of each subject one axial slice, chosen by seed 0 to be healthy (of those without tumor, the one"
        " with most brain) or pathological (the one with most tumor)",
        "intensities: each volume from its minimum and maximum to [0, 1]; no crop",
    ),
)
LIVER = PaperData(
    name="ircadb",
    title="3D-IRCADb-01",
    access="open, CC BY-NC-ND (IRCAD, Strasbourg)",
    layout="3Dircadb1.1/{PATIENT_DICOM,MASKS_DICOM/liver,MASKS_DICOM/livertumor...}, unzipped, one folder per patient",
    preparation=CrossedSlices(
        layout="ircadb",
        healthy=(12, 3, 5),
        pathological=(3, 1, 2),
        rotations=True,
        contrast="CT",
        smoke_pathological=(1, 1, 1),
    ),
    decided=(
        "the slices: of each patient the axial slice without tumor that has most liver; of as many patients of a split"
        " as it needs with a tumor, also the slice with most of it",
        "the crop: voxels outside the liver are air, and all slices are cropped to one square around the liver's box",
        "m1 and m2 of the depth conversion: -1000 and 4000 HU, the range that the paper names",
    ),
)

COLUMNS = {
    "ssd_total": Column("SSD-total (1e-1)", 10.0, "min"),
    "ssd_healthy": Column("SSD-healthy (1e-1)", 10.0, "min"),
    "dice": Column("Dice", better="max"),
    "folds": Column("foldings", better="min"),
    "time_ms": Column("time (ms)", better="min"),
}
NOTES = (
    "SSD is the mean squared difference over the region's pixels, of intensities in [0, 1]: the average that the paper"
    " names. Healthy leaves the tumor out.",
    "The paper gives neither batch size nor epochs; both are the library's defaults (8 and 500).",
)


def _table(
    data: str, title: str, masked: dict[str, float], own: dict[str, float], columns: tuple[str, ...]
) -> PaperTable:
    rows = (
        IDENTITY,
        PaperRow("VM-CFM", masked, "voxelmorph", {"masking": True}),
        PaperRow("MetaRegNet", own, "metaregnet"),
    )
    return PaperTable("1", title, data, "registration", {name: COLUMNS[name] for name in columns}, rows, NOTES)


RECIPE = Recipe(
    method="metaregnet",
    citation="A. Joshi, Y. Hong: MetaRegNet: Metamorphic Image Registration Using Flow-Driven Residual Networks",
    data=(BRAIN, LIVER),
    tables=(
        _table(
            BRAIN.name,
            "brains",
            {"ssd_total": 0.13, "ssd_healthy": 0.1, "folds": 88.585, "time_ms": 21},
            {"ssd_total": 0.08, "ssd_healthy": 0.07, "folds": 3.62, "time_ms": 23},
            ("ssd_total", "ssd_healthy", "folds", "time_ms"),
        ),
        _table(
            LIVER.name,
            "livers",
            {"ssd_total": 1.5, "ssd_healthy": 0.07, "dice": 0.88, "folds": 23.16, "time_ms": 22},
            {"ssd_total": 0.40, "ssd_healthy": 0.04, "dice": 0.95, "folds": 1.00, "time_ms": 24},
            ("ssd_total", "ssd_healthy", "dice", "folds", "time_ms"),
        ),
    ),
    left_out=("The paper's own choice of slices, which it does not list.",),
)
