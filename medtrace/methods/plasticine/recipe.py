"""Plasticine's paper: retinal OCT, chest MR to CT and hearts, measured by a segmenter of the target domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtrace.methods.recipes import Column, Domain, Domains, Pairs, PaperData, PaperRow, PaperTable, Recipe

SPLIT = (0.7, 0.0, 0.3)
OPEN_SPLIT = "the split: 7 to 3 by subject, random with seed 0; the paper gives none"
OCT = PaperData(
    name="oct",
    title="retinal OCT (ATLANTIS to SINA)",
    access=(
        "SINA: open (Chiu et al., IOVS 2012; Duke University). ATLANTIS: a local data set, not available; your own"
        " B-scans from another device can replace it"
    ),
    layout=(
        "oct/{atlantis,sina}/{images,labels}/EYE_NUMBER.png: B-scans, and under the same names their layers as whole"
        " numbers (boundaries filled in), the same ones in both"
    ),
    preparation=Domains(
        source=Domain("atlantis", "b-scans", "ATLANTIS"),
        target=Domain("sina", "b-scans", "SINA"),
        fractions=SPLIT,
        arguments={"resize": 256},
        smoke={"resize": 32},
    ),
    decided=(OPEN_SPLIT, "eyes: the part of a name before its first _"),
)
CHEST = PaperData(
    name="chest",
    title="chest MR to CT (Learn2Reg)",
    access="by registration at learn2reg.grand-challenge.org (AbdomenMRCT; CHAOS, TCIA and BCV, each with its terms)",
    layout="a Learn2Reg folder: imagesTr, labelsTr, and AbdomenMRCT_dataset.json with training_paired_images",
    preparation=Pairs(
        layout="learn2reg",
        fractions=SPLIT,
        source="MR",
        labeled=True,
        arguments={
            "slices": 11,
            "crop": (192, 192, 192),
            "pad": True,
            "resize": 256,
            "align": False,
            "standardize": False,
            "target_contrast": ("CT=HU",),
        },
        smoke={"slices": 1, "resize": 32},
    ),
    decided=(
        OPEN_SPLIT,
        "the middle slices: eleven axial ones",
        "the labels: as the data set has them (liver, spleen, kidneys); the paper's are heart, lung and liver",
    ),
)
CARDIAC = PaperData(
    name="cardiac",
    title="cardiac MR (ACDC to UK Biobank)",
    access="ACDC: by registration with its organizers (Bernard et al., IEEE TMI 2018). UK Biobank: by application, with"
    " a fee",
    layout=(
        "cardiac/acdc/[training/]patient001/{Info.cfg,patient001_frame01.nii.gz,patient001_frame01_gt.nii.gz} and"
        " cardiac/ukbiobank/ID/{sa_ED,label_sa_ED}.nii.gz, labels numbered as ACDC's: 1 right ventricle, 2 myocardium,"
        " 3 left ventricle"
    ),
    preparation=Domains(
        source=Domain("acdc", "acdc", "ACDC", subjects=40, groups=("MINF", "DCM", "HCM")),
        target=Domain("ukbiobank", "ukbiobank", "UKBiobank", subjects=100),
        fractions=SPLIT,
        enclosed=(3, 2),
        arguments={"slices": 3, "crop": (256, 256, 3), "pad": True, "standardize": False},
        smoke={"slices": 1, "crop": (32, 32, 1)},
    ),
    decided=(
        OPEN_SPLIT,
        "the slices: three in the middle of the short axis, cut or padded to 256 x 256 at their own voxel size",
        "which subjects: the first of each in the order of their names",
    ),
)
LAMBDA: Mapping[str, dict[str, Any]] = {"oct": {"smoothness_weight": 0.1}, "chest": {}, "cardiac": {}}
"""The smoothness weight is 1 where it is not said."""

SEGMENTED = {
    "accuracy": Column("Acc", better="max"),
    "dice": Column("Dice", better="max"),
    "miou": Column("mIoU", better="max"),
}
DISTANCES = {
    "fid": Column("FID", better="min"),
    "sfd": Column("SFD", better="min"),
    "bhattacharyya": Column("Bhattacharyya", better="min"),
}
OWN_FEATURES = (
    "FID and SFD use the features of the target domain's segmenter; the printed ones use Inception's. They are"
    " not comparable."
)
SEGMENTER = (
    "The segmenter is MONAI's BasicUNet, trained on the target domain's training slices; the paper names a U-Net."
)
LENGTH = (
    "The paper does not say how long it trained; each row is trained by its preset `paper` (Plasticine: 500 epochs)."
)
METHODS: Mapping[str, Mapping[str, Any]] = {
    "Without Translation": {"control": "identity"},
    "Arar et al.": {"method": "nemar"},
    "CycleGAN": {"method": "cyclegan"},
    "MUNIT": {"method": "munit"},
    "DualGAN": {"method": "dualgan"},
    "NAGAN": {"method": "nagan"},
    "StarGAN v2": {"method": "stargan_v2"},
    "DDIB": {"method": "ddib"},
    "UNSB": {"method": "unsb"},
    "Plasticine": {"method": "plasticine"},
}
NO_PAIRS = "not run: learns from pairs, which these data do not have"
TABLE_I = {
    "oct": (
        (0.854, 0.538, 0.420),
        (0.840, 0.550, 0.427),
        (0.875, 0.624, 0.497),
        (0.811, 0.422, 0.323),
        (0.839, 0.500, 0.390),
        (0.955, 0.748, 0.681),
        (0.754, 0.312, 0.231),
        (0.881, 0.560, 0.469),
        (0.850, 0.474, 0.385),
        (0.978, 0.801, 0.742),
    ),
    "chest": (
        (0.832, 0.337, 0.253),
        (0.904, 0.511, 0.388),
        (0.930, 0.683, 0.549),
        (0.924, 0.651, 0.517),
        (0.818, 0.348, 0.260),
        (0.841, 0.557, 0.432),
        (0.907, 0.552, 0.421),
        (0.889, 0.565, 0.427),
        (0.940, 0.696, 0.578),
        (0.963, 0.789, 0.683),
    ),
    "cardiac": (
        (0.956, 0.253, 0.237),
        (0.948, 0.451, 0.367),
        (0.958, 0.489, 0.399),
        (0.946, 0.410, 0.333),
        (0.954, 0.275, 0.249),
        (0.956, 0.271, 0.248),
        (0.944, 0.439, 0.353),
        (0.946, 0.236, 0.223),
        (0.957, 0.494, 0.413),
        (0.957, 0.502, 0.407),
    ),
}
TABLE_III = {
    "oct": (
        (138.43, 172.99, 0.182),
        (121.52, 201.30, 0.139),
        (119.77, 124.18, 0.071),
        (257.54, 249.75, 0.313),
        (174.12, 139.53, 0.177),
        (174.15, 167.85, 0.244),
        (285.32, 261.84, 0.355),
        (222.34, 207.93, 0.243),
        (96.28, 95.51, 0.059),
    ),
    "chest": (
        (124.53, 81.66, 0.313),
        (117.59, 69.13, 0.300),
        (101.48, 46.13, 0.286),
        (256.27, 201.43, 0.386),
        (239.70, 187.14, 0.320),
        (289.93, 244.77, 0.329),
        (97.98, 63.70, 0.339),
        (266.69, 215.58, 0.337),
        (90.00, 50.04, 0.294),
    ),
    "cardiac": (
        (235.49, 128.20, 0.136),
        (247.03, 88.73, 0.109),
        (212.86, 61.14, 0.059),
        (295.77, 170.08, 0.259),
        (245.50, 92.06, 0.122),
        (371.24, 249.85, 0.185),
        (240.45, 97.23, 0.253),
        (217.78, 65.24, 0.098),
        (221.36, 61.68, 0.118),
    ),
}


def _rows(data: str, columns: Mapping[str, Column], printed: tuple[tuple[float, ...], ...]) -> tuple[PaperRow, ...]:
    labels = tuple(METHODS)[-len(printed) :]
    rows = []
    for label, numbers in zip(labels, printed):
        known = dict(METHODS[label])
        if label == "Plasticine":
            known["settings"] = LAMBDA[data]
        if known.get("method") == "nemar" and data != CHEST.name:
            known = {"missing": NO_PAIRS}
        rows.append(PaperRow(label, dict(zip(columns, numbers)), **known))
    return tuple(rows)


def _tables(data: PaperData) -> tuple[PaperTable, ...]:
    """The parts of Tables I and III that are of a data set."""
    name = data.name
    return (
        PaperTable(
            "I",
            f"segmentation, {data.title}",
            name,
            "traceability",
            SEGMENTED,
            _rows(name, SEGMENTED, TABLE_I[name]),
            (SEGMENTER, LENGTH),
        ),
        PaperTable(
            "III",
            f"image synthesis, {data.title}",
            name,
            "traceability",
            DISTANCES,
            _rows(name, DISTANCES, TABLE_III[name]),
            (OWN_FEATURES, LENGTH),
        ),
    )


BOTH = {**SEGMENTED, **DISTANCES}
TABLE_IV = PaperTable(
    "IV",
    "translation of the deformed source, retinal OCT",
    OCT.name,
    "traceability",
    BOTH,
    (
        PaperRow(
            "Combination",
            dict(zip(BOTH, (0.796, 0.408, 0.305, 289.06, 248.44, 0.165))),
            "two_stage",
            LAMBDA["oct"],
        ),
        PaperRow(
            "Plasticine", dict(zip(BOTH, (0.978, 0.801, 0.742, 96.28, 95.51, 0.059))), "plasticine", LAMBDA["oct"]
        ),
    ),
    (
        OWN_FEATURES,
        "The paper's combination has two networks, trained separately, as has this one; the paper does not say which"
        " registration it was. Here it is Plasticine's deformation, which sees the source alone, and the translation"
        " follows it.",
    ),
)
NMI = {
    "nmi_forward": Column("MI(x∘φ, y)", better="max"),
    "nmi_inverse": Column("MI(y∘φ⁻¹, x)", better="max"),
}
TABLE_V = PaperTable(
    "V",
    "with and without the estimated noise, chest MR to CT",
    CHEST.name,
    "information",
    NMI,
    (
        PaperRow("with ε̂", {"nmi_forward": 0.5832, "nmi_inverse": 0.6645}, "plasticine"),
        PaperRow(
            "w/o ε̂", {"nmi_forward": 0.5827, "nmi_inverse": 0.6641}, "plasticine", {"deformation.use_noise": False}
        ),
    ),
    ("What is measured is NMI (Eq. A.13), which is 1 or more; the printed .58 follows another convention.",),
)

RECIPE = Recipe(
    method="plasticine",
    citation=(
        "T. Zhang, X. Cheng, J. Cheng, S. Zheng, H. Zhao, H. Fu, A. F. Frangi, J. Liu, J. Duan: Plasticine: A Traceable"
        " Diffusion Model for Medical Image Translation"
    ),
    data=(OCT, CHEST, CARDIAC),
    tables=(*_tables(OCT), *_tables(CHEST), *_tables(CARDIAC), TABLE_IV, TABLE_V),
    left_out=(
        "Arar et al. on retinal OCT and hearts: `nemar` learns from pairs, and these domains have none.",
        "Table VI: scores by three clinicians.",
        "FID and SFD of Inception: its weights are not part of medtrace (see `traceability --features`).",
    ),
)
