"""RegGAN's paper: T1 to T2 on BraTS 2018, from pairs that are misaligned and from none."""

from __future__ import annotations

from typing import Any

from medtrace.methods.recipes import IDENTITY, Column, Pairs, PaperData, PaperRow, PaperTable, Recipe

BRATS_2018 = PaperData(
    name="brats2018",
    title="BraTS 2018",
    access="by registration with the organizers (BraTS challenge; Menze et al., IEEE TMI 2015), for research",
    layout="[HGG/]Brats18_NAME/Brats18_NAME_{t1,t2}.nii.gz, one folder per subject",
    preparation=Pairs(
        layout="brats",
        fractions=(8457 / 9436, 0.0, 979 / 9436),
        select=("t1:t2",),
        arguments={"slices": 33, "crop": None, "resize": 256, "align": False, "standardize": False},
        smoke={"slices": 1, "resize": 32},
    ),
    decided=(
        "which slices: the paper has 8457 and 979 pairs; the 33 central axial slices of each of 285 subjects come"
        " closest (8415 and 990)",
        "the split: by subject, 0.896 to 0.104, like the numbers of pairs",
        "how images were scaled to [-1, 1]: by one window of z-scores of the training subjects",
    ),
)

NAMES = {"cyclegan": "CycleGAN", "munit": "MUNIT", "unit": "UNIT", "nice_gan": "NICEGAN"}
MEASURES = ("NMAE", "PSNR", "SSIM")
COLUMNS = {
    "nmae_unit_foreground": Column("NMAE (fraction of the range)", better="min"),
    "nmae_symmetric_foreground": Column("NMAE (images in [-1, 1])", better="min"),
    "psnr_unit_foreground": Column("PSNR (dB)", better="max"),
    "ssim_unit_foreground": Column("SSIM", better="max"),
}
SCALE = (
    "The paper excludes the background and does not say on which scale NMAE is; its numbers stand beside both. As a"
    " fraction of the range, .071 beside 26 dB is impossible on the same pixels (22.97 dB at most); on images in"
    " [-1, 1] it is possible."
)
OBJECTIVE = (
    "Adversarial terms are least squares, with a weight of 1 beside 20 (correction), 10 (smoothness) and 10 (cycle);"
    " the paper's Eq. 1 prints the logarithm."
)


def _row(label: str, backbone: str, mode: str, numbers: tuple[float, float, float], **data: Any) -> PaperRow:
    """A backbone in one of the modes C, C+R, NC, NC+R and pix2pix, with NMAE, PSNR and SSIM as printed."""
    nmae, psnr, ssim = numbers
    published = {
        "nmae_unit_foreground": nmae,
        "nmae_symmetric_foreground": nmae,
        "psnr_unit_foreground": psnr,
        "ssim_unit_foreground": ssim,
    }
    settings = {f"data.{name}": value for name, value in data.items()}
    if mode == "pix2pix":
        return PaperRow(label, published, "pix2pix", settings)
    if mode == "C":
        return PaperRow(label, published, backbone, settings)
    modes = {"backbone": backbone, "cycle": mode.startswith("C"), "correction": mode.endswith("+R")}
    return PaperRow(label, published, "reggan", {**modes, **settings})


TABLE_1 = {
    "cyclegan": ((0.089, 23.5, 0.83), (0.077, 23.8, 0.85), (0.11, 20.2, 0.79), (0.072, 25.6, 0.86)),
    "munit": ((0.11, 20.6, 0.80), (0.088, 22.7, 0.83), (0.10, 21.5, 0.81), (0.079, 23.8, 0.85)),
    "unit": ((0.087, 24.6, 0.84), (0.074, 25.3, 0.86), (0.098, 23.7, 0.83), (0.071, 25.5, 0.86)),
    "nice_gan": ((0.082, 25.2, 0.83), (0.071, 26.1, 0.86), (0.089, 23.5, 0.84), (0.070, 26.3, 0.86)),
}
"""Backbone → C, C+R, NC, NC+R."""
TABLE_2 = {
    "CycleGAN(C)": (
        "C",
        (0.084, 23.9, 0.83),
        (0.095, 22.5, 0.83),
        (0.087, 23.7, 0.82),
        (0.094, 23.3, 0.81),
        (0.087, 23.9, 0.82),
        (0.110, 23.7, 0.79),
    ),
    "Pix2Pix": (
        "pix2pix",
        (0.075, 25.6, 0.85),
        (0.103, 22.3, 0.82),
        (0.139, 18.9, 0.78),
        (0.161, 16.2, 0.76),
        (0.175, 15.3, 0.74),
        (0.181, 15.0, 0.74),
    ),
    "RegGAN": (
        "NC+R",
        (0.071, 26.0, 0.86),
        (0.073, 25.6, 0.86),
        (0.071, 25.9, 0.86),
        (0.072, 25.7, 0.86),
        (0.072, 25.4, 0.86),
        (0.072, 25.2, 0.85),
    ),
}
"""Row → mode, and the noise levels 0 to 5."""
FIGURE_6 = {
    "Pix2Pix": ("pix2pix", (0.180, 15.5, 0.71)),
    "CycleGAN(C)": ("C", (0.094, 23.6, 0.83)),
    "RegGAN": ("NC+R", (0.086, 24.0, 0.83)),
}

RECIPE = Recipe(
    method="reggan",
    citation=(
        "L. Kong, C. Lian, D. Huang, Z. Li, Y. Hu, Q. Zhou: Breaking the Dilemma of Medical Image-to-image Translation."
        " NeurIPS 2021"
    ),
    data=(BRATS_2018,),
    tables=(
        PaperTable(
            "1",
            "four translators in four modes, T1 and T2 each misaligned by up to 5 degrees, 5 % and 5 %",
            BRATS_2018.name,
            "translation",
            COLUMNS,
            (
                IDENTITY,
                *(
                    _row(f"{NAMES[backbone]}, {mode}", backbone, mode, numbers, misalignment="table1", moved="both")
                    for backbone, modes in TABLE_1.items()
                    for mode, numbers in zip(("C", "C+R", "NC", "NC+R"), modes)
                ),
            ),
            (SCALE, OBJECTIVE),
        ),
        PaperTable(
            "2",
            "three modes at noise levels 0 to 5",
            BRATS_2018.name,
            "translation",
            COLUMNS,
            (
                IDENTITY,
                *(
                    _row(f"{label}, Noise.{level}", "cyclegan", mode, numbers, misalignment=str(level), moved="target")
                    for label, (mode, *levels) in TABLE_2.items()
                    for level, numbers in enumerate(levels)
                ),
            ),
            (SCALE, OBJECTIVE, "The misalignment moves T2; the paper does not say which of the two it moved here."),
        ),
        PaperTable(
            "figure6",
            "trained on random pairs of T1 and T2 (Section 4.4; numbers in Figure 6)",
            BRATS_2018.name,
            "translation",
            COLUMNS,
            (
                IDENTITY,
                *(
                    _row(label, "cyclegan", mode, numbers, partners="resampled")
                    for label, (mode, numbers) in FIGURE_6.items()
                ),
            ),
            (SCALE, OBJECTIVE),
        ),
    ),
    left_out=(
        "Figure 4 (metrics by epoch): every run folder has its losses in history.csv, but test scores only at its end.",
        "The authors' own slices, which they offer with their code (github.com/Kid-Liet/Reg-GAN); these are cut again"
        " from the challenge's volumes.",
    ),
)
