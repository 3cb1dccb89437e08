"""Draw real slices beside their structure maps by all three methods.

python docs/figures/structure_maps.py docs/images/structure_maps.png --folder IMAGES

IMAGES holds, at any depth, volumes of the MS data of Lesjak et al. 2018 (T1.nii.gz, FLAIR.nii.gz in a folder for each
patient; the middle axial slice is drawn) and slices of ITK's examples (BrainT1Slice.png, BrainProtonDensitySlice.png).
Without a folder, only slices of TraceBench are drawn.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from monai.transforms import LoadImage

from medtrace.data.tracebench import TraceBench
from medtrace.report import save_figure
from medtrace.transforms import SliceExtraction, StructureMap

NAMES = ("T1.nii.gz", "FLAIR.nii.gz", "BrainT1Slice.png", "BrainProtonDensitySlice.png")
METHODS = ("potts", "otsu", "kmeans")


def slice_of(path: Path) -> torch.Tensor:
    """The middle axial slice of a volume, or the one of a PNG: (1, H, W), array axis 1 to be drawn upwards."""
    image = LoadImage(image_only=True, ensure_channel_first=True)(path)
    return SliceExtraction("axial", count=1)(image)[0] if image.ndim == 4 else image[:1].flip(2)


def real_slices(folder: Path) -> dict[str, torch.Tensor]:
    """The slices below a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.name in NAMES)
    if not paths:
        raise SystemExit(f"folder: expected at least one of {', '.join(NAMES)} below {folder}, found none")
    return {_title(path): slice_of(path) for path in paths}


def bench_slices() -> dict[str, torch.Tensor]:
    """Two slices of TraceBench, by name."""
    bench = TraceBench("metamorphic", (64, 64), 2, seed=0, split="test")
    return {f"TraceBench {number}": bench[number]["source"] for number in range(2)}


def _title(path: Path) -> str:
    """The patient's folder and the contrast, or the name of a PNG."""
    return path.stem if path.suffix == ".png" else f"{path.parent.name} {path.name.split('.')[0]}"


def draw(slices: dict[str, torch.Tensor], gamma: float | None) -> Figure:
    """One row for each slice: the slice, then its maps."""
    settings = {} if gamma is None else {"gamma": gamma}
    figure = Figure(figsize=(8, 2.1 * len(slices)), layout="constrained")
    axes = figure.subplots(len(slices), 1 + len(METHODS), squeeze=False)
    for row, (name, image) in zip(axes, slices.items()):
        panels = [image, *(StructureMap(method, **settings)(image) for method in METHODS)]
        for axis, panel, title in zip(row, panels, (name, *METHODS)):
            axis.imshow(panel[0].T, cmap="gray", origin="lower")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="PNG, PDF or SVG to write")
    parser.add_argument("--folder", type=Path, action="append", default=[], help="where images lie; repeatable")
    parser.add_argument("--gamma", type=float, help="of the Potts map, in place of the default")
    arguments = parser.parse_args()
    slices = {name: image for folder in arguments.folder for name, image in real_slices(folder).items()}
    save_figure(draw(slices | bench_slices(), arguments.gamma), arguments.path, dpi=90)
