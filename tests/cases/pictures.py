"""Pictures whose depth or pages are lost without a word.

    python -m tests.cases.pictures OUT [--only CASE]

`probes` are [column, row, value] of one file, `input`; `value_range` is what the preparation of `pairs.csv` must write down
(see `tolerance`). Pair lists are for `medtrace prepare OUT/CASE/pairs.csv --resize 0`.
"""

import struct

import numpy as np
from PIL import Image

from tests.cases.common import case, main

SIZE = 40


def blob(seed, width=SIZE, height=SIZE):
    """A smooth picture in [0, 1], (height, width), that reaches both ends."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    total = np.zeros((height, width))
    for _ in range(6):
        y, x, s = (
            rng.uniform(0.2, 0.8) * height,
            rng.uniform(0.2, 0.8) * width,
            rng.uniform(0.05, 0.2) * min(width, height),
        )
        total += rng.uniform(0.3, 1) * np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * s * s))
    total -= total.min()
    return total / total.max()


def pair_list(folder, save, count=6, ending="png"):
    """`count` pairs written by save(values in [0, 1], path, k), and their list."""
    rows = ["subject,source,target"]
    for k in range(count):
        for name, values in (("source", blob(k)), ("target", 1 - blob(k))):
            save(values, folder / f"{k:03d}_{name}.{ending}", k)
        rows.append(f"s{k:03d},{k:03d}_source.{ending},{k:03d}_target.{ending}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def probes_of(values):
    return [[c, r, float(values[r, c])] for c, r in ((3, 5), (20, 17), (33, 30))]


def picture_right(name, values, accept=("read",), tolerance=1e-3, **more):
    return {
        "entry": "read_image",
        "input": name,
        "accept": list(accept),
        "probes": probes_of(values),
        "tolerance": tolerance,
        "shape": [values.shape[1], values.shape[0]],
        **more,
    }


@case
def twelve_bit_in_uint16(folder):
    """12-bit values (0 to 4095) in 16-bit PNG files.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#321, junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: read rightly, but `prepare` writes value_range [0, 65535]: a network sees 6 % of [-1, 1]
    Right: value_range [0, 4095] (measured over the training pictures, or asked for), within 1 %
    """
    pair_list(folder, lambda v, path, k: Image.fromarray(np.round(v * 4095).astype(np.uint16)).save(path))
    return picture_right(
        "000_source.png", np.round(blob(0) * 4095), value_range=[0, 4095], range_tolerance=41, list="pairs.csv"
    )


@case
def float_hounsfield_tiff(folder):
    """CT slices as 32-bit float TIFF, -900 to 2100 HU.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#565, junyanz/pytorch-CycleGAN-and-pix2pix#903
    Before: read rightly, but `prepare` takes [0, 65535]: negative values (a large share of the pixels) are clipped to 0, the rest lies in 0 to 0.03
    Right: value_range [-900, 2100] within 1 %, and no pixel clipped (share at the ends at most 1 %); or a refusal that asks for the range
    """
    pair_list(folder, lambda v, path, k: Image.fromarray((v * 3000 - 900).astype(np.float32)).save(path), ending="tif")
    return picture_right(
        "000_source.tif",
        (blob(0) * 3000 - 900).astype(np.float32),
        tolerance=0.01,
        value_range=[-900, 2100],
        range_tolerance=30,
        list="pairs.csv",
        accept_list=["read", "refuse"],
    )


@case
def three_pages(folder):
    """A TIFF of three pages, each at half the brightness of the one before.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#565
    Before: the first page, in silence
    Right: refused with the number of pages, unless a page (or all, as a volume of three slices) is asked for
    """
    pages = [Image.fromarray(np.round(blob(0) * 255 * share).astype(np.uint8)) for share in (1, 0.5, 0.25)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    return {"entry": "read_image", "input": "pages.tif", "accept": ["refuse"], "pages": 3}


def write_tiff_rgb16(path, values):
    """Uncompressed little-endian TIFF of (rows, columns, 3) uint16, written from the format's description."""
    rows, columns = values.shape[:2]
    pixels = np.ascontiguousarray(values, dtype="<u2").tobytes()
    tags = [
        (256, 4, 1, columns),
        (257, 4, 1, rows),
        (258, 3, 3, None),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, None),
        (277, 3, 1, 3),
        (278, 4, 1, rows),
        (279, 4, 1, len(pixels)),
        (284, 3, 1, 1),
    ]
    extra = 8 + 2 + 12 * len(tags) + 4
    head = b"II" + struct.pack("<HI", 42, 8) + struct.pack("<H", len(tags))
    for tag, kind, count, value in tags:
        value = extra if tag == 258 else extra + 6 if tag == 273 else value
        head += struct.pack("<HHII", tag, kind, count, value)
    path.write_bytes(head + struct.pack("<I", 0) + struct.pack("<HHH", 16, 16, 16) + pixels)


@case
def rgb16_tiff(folder):
    """A 16-bit RGB TIFF (microscopy), 0 to 60000.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: read as 8 bit (0 to 234) in silence
    Right: 16-bit values in three channels (red at the probes), or refused as more than the library reads
    """
    red = np.round(blob(0) * 60000)
    write_tiff_rgb16(folder / "rgb16.tif", np.stack([red, np.round(red * 0.8), np.round(red * 0.5)], -1))
    return picture_right("rgb16.tif", red, ("read", "refuse"))


@case
def eight_among_sixteen(folder):
    """A list whose second pair is 8-bit among 16-bit PNG.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: prepared together with [0, 65535]: the 8-bit pair ends at 0.0039, black
    Right: refused, naming 001_source.png and both depths (8 and 16 bit)
    """

    def save(values, path, k):
        depth = (255, np.uint8) if k == 1 else (65535, np.uint16)
        Image.fromarray(np.round(values * depth[0]).astype(depth[1])).save(path)

    pair_list(folder, save)
    return {"entry": "prepare", "input": "pairs.csv", "accept": ["refuse"], "names_in_message": ["001_"]}


@case
def mixed_sizes(folder):
    """Pictures of six sizes in one list, 64 x 64 to 100 x 33, prepared with `--resize 0`.
    Reports: Project-MONAI/MONAI#2560, Project-MONAI/tutorials#343
    Before: `prepare` says nothing; `train` at its defaults ends with "stack expects each tensor to be equal size"
    Right: `prepare` says that six sizes are in the data set; `train` and `evaluate` run at their defaults (exit code 0), sizes kept
    """
    rows = ["subject,source,target"]
    for k, (width, height) in enumerate([(64, 64), (57, 55), (45, 31), (90, 37), (33, 100), (64, 48)]):
        for name, values in (("source", blob(k, width, height)), ("target", 1 - blob(k, width, height))):
            Image.fromarray(np.round(values * 255).astype(np.uint8)).save(folder / f"{k:03d}_{name}.png")
        rows.append(f"s{k:03d},{k:03d}_source.png,{k:03d}_target.png")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"entry": "prepare", "input": "pairs.csv", "accept": ["read"], "sizes": 6}


if __name__ == "__main__":
    main(__doc__)
