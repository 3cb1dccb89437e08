"""Natural images whose depth or pages are lost without a word.

    python -m tests.cases.natural images OUT [--only CASE]

`probes` are [column, row, value] of one file, `input`; `value_range` is what the preparation of `pairs.csv` must write down
(see `tolerance`). Pair lists are for `medtrace prepare OUT/CASE/pairs.csv --resize 0`.
"""

import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

from tests.cases.common import case, main

SIZE = 40


def blob(seed, width=SIZE, height=SIZE):
    """A smooth natural image in [0, 1], (height, width), that reaches both ends."""
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


def natural_image_right(name, values, accept=("read",), tolerance=1e-3, **more):
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
    Right: value_range [0, 4095] (measured over the training natural images, or asked for), within 1 %
    """
    pair_list(folder, lambda v, path, k: Image.fromarray(np.round(v * 4095).astype(np.uint16)).save(path))
    return natural_image_right(
        "000_source.png", np.round(blob(0) * 4095), value_range=[0, 4095], range_tolerance=41, list="pairs.csv"
    )


@case
def float_hounsfield_tiff(folder):
    """CT slices as 32-bit float TIFF, -900 to 2100 HU.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#565, junyanz/pytorch-CycleGAN-and-pix2pix#903
    Before: read rightly, but `prepare` takes [0, 65535]: negative values (a large fraction of the pixels) are clipped to 0, the rest lies in 0 to 0.03
    Right: value_range [-900, 2100] within 1 %, and no pixel clipped (share at the ends at most 1 %); or a refusal that asks for the range
    """
    pair_list(folder, lambda v, path, k: Image.fromarray((v * 3000 - 900).astype(np.float32)).save(path), ending="tif")
    return natural_image_right(
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
    pages = [Image.fromarray(np.round(blob(0) * 255 * fraction).astype(np.uint8)) for fraction in (1, 0.5, 0.25)]
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
    return natural_image_right("rgb16.tif", red, ("read", "refuse"))


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
    """Natural images of six sizes in one list, 64 x 64 to 100 x 33, prepared with `--resize 0`.
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


def write_png16(path, values):
    """PNG of (rows, columns[, 2 to 4]) uint16, written from the format's description: Pillow writes no such color."""
    values = values[..., None] if values.ndim == 2 else values
    rows, columns, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", columns, rows, 16, kind, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def color(values, dtype=np.uint16):
    """Red as given, green at 0.8 and blue at 0.5 of it."""
    return np.stack([values, np.round(values * 0.8), np.round(values * 0.5)], -1).astype(dtype)


def refused(name, *message):
    return {"entry": "read_image", "input": name, "accept": ["refuse"], "names_in_message": [name], "message": message}


@case
def fourteen_bit_tiff(folder):
    """14-bit values (0 to 16383) in 16-bit TIFF files, big-endian.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#321
    Before: value_range [0, 65535]: a network sees a quarter of [-1, 1]
    Right: value_range [0, 16383] within 1 %
    """

    def save(values, path, k):
        tifffile.imwrite(path, np.round(values * 16383).astype(np.uint16), byteorder=">", photometric="minisblack")

    pair_list(folder, save, ending="tif")
    return natural_image_right(
        "000_source.tif", np.round(blob(0) * 16383), value_range=[0, 16383], range_tolerance=164, list="pairs.csv"
    )


@case
def ten_bit_with_brighter_tests(folder):
    """10-bit values in 16-bit PNG with a split of the list; the tests reach 1023, the trainings 511.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#321
    Before: value_range [0, 65535]
    Right: value_range [0, 511], from the trainings alone; how many pixels of the tests lie above is said
    """
    pair_list(
        folder, lambda v, path, k: Image.fromarray(np.round(v * (1023 if k > 3 else 511)).astype(np.uint16)).save(path)
    )
    split(folder, ["training"] * 4 + ["test"] * 2)
    clipped = sum(int((np.round(side * 1023) > 511).sum()) for k in (4, 5) for side in (blob(k), 1 - blob(k)))
    return natural_image_right(
        "000_source.png",
        np.round(blob(0) * 511),
        value_range=[0, 511],
        range_tolerance=5,
        list="pairs.csv",
        clipped=clipped,
    )


def split(folder, splits):
    """Add the column split to the list."""
    lines = (folder / "pairs.csv").read_text(encoding="utf-8").splitlines()
    lines = [lines[0] + ",split", *(f"{line},{name}" for line, name in zip(lines[1:], splits))]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@case
def eight_bit(folder):
    """8-bit natural images of which none is brighter than 200: a control.
    Reports: none
    Before: value_range [0, 255]
    Right: value_range [0, 255], what the file declares
    """
    pair_list(folder, lambda v, path, k: Image.fromarray(np.round(v * 200).astype(np.uint8)).save(path))
    return natural_image_right(
        "000_source.png", np.round(blob(0) * 200), value_range=[0, 255], range_tolerance=0, list="pairs.csv"
    )


@case
def eight_bit_of_small_numbers(folder):
    """Values 0 to 4 in 8-bit PNG, such as a map of five classes.
    Reports: none
    Before: value_range [0, 255]: nearly black
    Right: value_range [0, 4], measured and said
    """
    pair_list(folder, lambda v, path, k: Image.fromarray(np.round(v * 4).astype(np.uint8)).save(path))
    return natural_image_right(
        "000_source.png", np.round(blob(0) * 4), value_range=[0, 4], range_tolerance=0, list="pairs.csv"
    )


@case
def signed_hounsfield_tiff(folder):
    """CT slices as signed 16-bit TIFF, -1024 to 3071 HU.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#903
    Before: value_range [0, 65535]: negative values are clipped
    Right: value_range [-1024, 3071] within 1 %
    """
    pair_list(
        folder, lambda v, path, k: tifffile.imwrite(path, np.round(v * 4095 - 1024).astype(np.int16)), ending="tif"
    )
    return natural_image_right(
        "000_source.tif",
        np.round(blob(0) * 4095 - 1024),
        value_range=[-1024, 3071],
        range_tolerance=41,
        list="pairs.csv",
    )


@case
def double_precision_tiff(folder):
    """Parametric maps from -0.5 to 2.5 as 64-bit float TIFF.
    Reports: none
    Before: "cannot identify image file"
    Right: read, value_range [-0.5, 2.5] within 1 %
    """
    pair_list(folder, lambda v, path, k: tifffile.imwrite(path, v * 3 - 0.5), ending="tif")
    return natural_image_right(
        "000_source.tif", blob(0) * 3 - 0.5, value_range=[-0.5, 2.5], range_tolerance=0.03, list="pairs.csv"
    )


@case
def half_precision_tiff(folder):
    """A 16-bit float TIFF.
    Reports: none
    Before: "cannot identify image file"
    Right: read
    """
    values = (blob(0) * 100).astype(np.float16)
    tifffile.imwrite(folder / "half.tif", values)
    return natural_image_right("half.tif", values)


@case
def signed_eight_bit_tiff(folder):
    """A signed 8-bit TIFF, -100 to 100.
    Reports: none
    Before: read as unsigned: -100 becomes 156
    Right: read
    """
    values = np.round(blob(0) * 200 - 100).astype(np.int8)
    tifffile.imwrite(folder / "signed.tif", values)
    return natural_image_right("signed.tif", values)


@case
def long_integers_tiff(folder):
    """A 32-bit TIFF of counts up to 4 million, in big-endian order.
    Reports: none
    Before: read rightly
    Right: read, since float32 holds these numbers
    """
    values = np.round(blob(0) * 4e6).astype(np.uint32)
    tifffile.imwrite(folder / "counts.tif", values, byteorder=">")
    return natural_image_right("counts.tif", values)


@case
def integers_beyond_float32(folder):
    """A 32-bit TIFF of odd numbers about 3 billion.
    Reports: none
    Before: read as negative numbers
    Right: refused: float32 holds no such numbers
    """
    tifffile.imwrite(folder / "far.tif", (np.round(blob(0) * 1e6) * 2 + 3_000_000_001).astype(np.uint32))
    return refused("far.tif", "float32")


@case
def white_is_zero_tiff(folder):
    """A 16-bit TIFF in which 0 is white (radiographs).
    Reports: none
    Before: read with black and white exchanged
    Right: refused, or inverted
    """
    values = np.round(blob(0) * 60000).astype(np.uint16)
    tifffile.imwrite(folder / "negative.tif", values, photometric="miniswhite")
    return refused("negative.tif", "MINISWHITE", "white")


@case
def two_pages_in_a_list(folder):
    """A list of TIFF with two pages each, a natural image and its smaller copy.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#565
    Before: the first page, in silence
    Right: refused with the number of pages; `--page 1` reads it
    """

    def save(values, path, k):
        pages = [Image.fromarray(np.round(values[::step, ::step] * 255).astype(np.uint8)) for step in (1, 2)]
        pages[0].save(path, save_all=True, append_images=pages[1:])

    pair_list(folder, save, ending="tif")
    return {
        "entry": "prepare",
        "input": "pairs.csv",
        "accept": ["refuse"],
        "pages": 2,
        "names_in_message": ["000_source"],
    }


@case
def animated_png(folder):
    """A PNG of two frames.
    Reports: none
    Before: the first frame, in silence
    Right: refused with the number of frames
    """
    frames = [Image.fromarray(np.round(blob(k) * 255).astype(np.uint8)) for k in (0, 1)]
    frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:])
    return {"entry": "read_image", "input": "animated.png", "accept": ["refuse"], "pages": 2}


@case
def imagej_stack(folder):
    """A stack of five planes as ImageJ stores large ones: one entry, whose description reports how many follow.
    Reports: none
    Before: the first plane, in silence
    Right: refused with the number of planes
    """
    stack = np.stack([np.round(blob(k) * 60000) for k in range(5)]).astype(np.uint16)
    tifffile.imwrite(folder / "stack.tif", stack, metadata={"axes": "ZYX"}, truncate=True)
    return {"entry": "read_image", "input": "stack.tif", "accept": ["refuse"], "pages": 5}


@case
def rgb16_png(folder):
    """A 16-bit RGB PNG, 0 to 60000.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: read as 8 bit in silence
    Right: 16-bit values in three channels
    """
    red = np.round(blob(0) * 60000)
    write_png16(folder / "rgb16.png", color(red))
    return natural_image_right("rgb16.png", red)


@case
def rgba16_png(folder):
    """A 16-bit RGB PNG with an opaque alpha channel.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: read as 8 bit in silence
    Right: 16-bit values in three channels, or refused
    """
    red = np.round(blob(0) * 60000)
    write_png16(folder / "rgba16.png", np.concatenate([color(red), np.full((SIZE, SIZE, 1), 65535)], -1))
    return natural_image_right("rgba16.png", red, ("read", "refuse"))


@case
def rgb16_planes_tiff(folder):
    """A 16-bit RGB TIFF, big-endian, its colors stored one plane after the other, compressed.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: "cannot identify image file"
    Right: 16-bit values in three channels
    """
    red = np.round(blob(0) * 60000)
    planes = color(red).transpose(2, 0, 1)
    tifffile.imwrite(
        folder / "planes.tif", planes, photometric="rgb", planarconfig="separate", byteorder=">", compression="zlib"
    )
    return natural_image_right("planes.tif", red)


@case
def transparent16_png(folder):
    """A 16-bit gray PNG with transparency that is used.
    Reports: none
    Before: read as 8 bit, or refused
    Right: refused
    """
    gray = np.round(blob(0) * 60000)
    write_png16(folder / "clear.png", np.stack([gray, np.where(gray > 30000, 65535, 0)], -1).astype(np.uint16))
    return refused("clear.png", "transparen")


@case
def turned_tiff(folder):
    """A 16-bit RGB TIFF whose Orientation says that it is on its side.
    Reports: none
    Before: 8 bit, upright
    Right: 16-bit values, upright
    """
    red = np.round(blob(0, 36, 44) * 60000)
    lying = np.rot90(color(red), 1)
    tifffile.imwrite(folder / "lying.tif", lying, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    return natural_image_right("lying.tif", red)


@case
def cmyk_jpeg(folder):
    """A CMYK JPEG, as printers want it.
    Reports: none
    Before: converted without its profile, in silence
    Right: refused
    """
    Image.fromarray(color(np.round(blob(0) * 255), np.uint8)).convert("CMYK").save(folder / "print.jpg")
    return refused("print.jpg", "CMYK")


@case
def twelve_bit_jpeg(folder):
    """A JPEG whose header says 12 bits per sample.
    Reports: none
    Before: "cannot identify image file <_io.BytesIO object ...>"
    Right: refused with the 12 bits as the reason
    """
    path = folder / "deep.jpg"
    Image.fromarray(np.round(blob(0) * 255).astype(np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(content)
    return refused("deep.jpg", "12")


@case
def palette_png(folder):
    """A PNG whose palette holds grays in reverse order.
    Reports: none
    Before: read rightly
    Right: the colors of the palette, not its indices
    """
    values = np.round(blob(0) * 255).astype(np.uint8)
    natural_image = Image.fromarray(255 - values).convert("P")
    natural_image.putpalette([255 - k // 3 for k in range(768)])
    natural_image.save(folder / "palette.png")
    return natural_image_right("palette.png", values)


@case
def one_bit_png(folder):
    """A PNG of 1 bit.
    Reports: none
    Before: read as 0 and 255
    Right: read as 0 and 255, or as 0 and 1
    """
    values = blob(0) > 0.5
    Image.fromarray(values).save(folder / "one.png")
    return natural_image_right("one.png", values * 255.0)


@case
def float_among_sixteen(folder):
    """A list whose last target is a float TIFF among 16-bit ones.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: prepared together with [0, 65535]
    Right: refused, naming 005_target.tif and both depths
    """

    def save(values, path, k):
        real = path.name == "005_target.tif"
        tifffile.imwrite(path, values.astype(np.float32) if real else np.round(values * 65535).astype(np.uint16))

    pair_list(folder, save, ending="tif")
    return {
        "entry": "prepare",
        "input": "pairs.csv",
        "accept": ["refuse"],
        "names_in_message": ["005_target", "16-bit", "32-bit float"],
    }


@case
def sixteen_bit_first_among_eight(folder):
    """The first pair of a list has 16-bit color, the others 8-bit.
    Reports: junyanz/pytorch-CycleGAN-and-pix2pix#1209
    Before: all read as 8 bit in silence
    Right: refused, naming the first pair's file, which is the odd one, and both depths
    """

    def save(values, path, k):
        if k == 0:
            write_png16(path, color(np.round(values * 65535)))
        else:
            Image.fromarray(color(np.round(values * 255), np.uint8)).save(path)

    pair_list(folder, save)
    return {
        "entry": "prepare",
        "input": "pairs.csv",
        "accept": ["refuse"],
        "names_in_message": ["000_source", "8-bit", "16-bit"],
    }


@case
def portrait_and_landscape(folder):
    """Natural images of 48 x 32 and 32 x 48, of one depth, in color.
    Reports: Project-MONAI/MONAI#2560
    Before: `train` at its defaults ends with "stack expects each tensor to be equal size"
    Right: two sizes; `train` and `evaluate` run at their defaults
    """
    rows = ["subject,source,target"]
    for k in range(6):
        shape = (48, 32) if k % 2 else (32, 48)
        for name, values in (("source", blob(k, *shape)), ("target", 1 - blob(k, *shape))):
            Image.fromarray(color(np.round(values * 255), np.uint8)).save(folder / f"{k:03d}_{name}.png")
        rows.append(f"s{k:03d},{k:03d}_source.png,{k:03d}_target.png")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"entry": "prepare", "input": "pairs.csv", "accept": ["read"], "sizes": 2}


if __name__ == "__main__":
    main(__doc__)
