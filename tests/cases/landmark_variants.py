"""More landmark files: the same kinds as in `landmarks`, in other clothes.

    python -m tests.cases.landmark_variants OUT [--only CASE]

As there. `image` is a volume on which the points have to lie, `message` what a refusal has to say.
"""

import json

import nibabel as nib
import numpy as np

from tests.cases.common import case, main, oblique_affine
from tests.cases.landmarks import LPS, NAMES, RAS, fcsv, refused, right


def table(folder, header, rows, delimiter=",", name="points.csv", encoding="utf-8"):
    lines = [delimiter.join(map(str, row)) for row in ([header] if header else []) + rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return name


def markups(folder, lists, name="points.mrk.json"):
    (folder / name).write_text(json.dumps({"markups": lists}), encoding="utf-8")
    return name


def markup(points, names=NAMES, system="LPS", kind="Fiducial", status=None, **more):
    control = [
        {"id": str(k), "label": name, "position": point, "positionStatus": (status or {}).get(name, "defined")}
        for k, (name, point) in enumerate(zip(names, points), 1)
    ]
    return {"type": kind, "coordinateSystem": system, "coordinateUnits": "mm", "controlPoints": control, **more}


@case
def semicolons_and_mark(folder):
    """Semicolons, a byte order mark and blank lines, as spreadsheets write them.
    Reports: none
    Before: refused: KeyError('Landmark')
    Right: the three points
    """
    rows = [[], *([name, *point] for name, point in zip(NAMES, RAS)), []]
    return right(table(folder, ["Landmark", "X", "Y", "Z"], rows, ";", encoding="utf-8-sig"), "RAS")


@case
def tabs_with_units(folder):
    """Tabs, and columns X (mm), Y (mm), Z (mm) in another order.
    Reports: none
    Before: refused
    Right: the three points
    """
    rows = [[z, x, y, name] for name, (x, y, z) in zip(NAMES, LPS)]
    return right(table(folder, ["Z (mm)", "X (mm)", "Y (mm)", "Point"], rows, "\t"), "LPS")


@case
def columns_name_their_axes(folder):
    """Columns label, R, A, S, as copied out of 3D Slicer's table.
    Reports: none
    Before: refused
    Right: the three points in RAS, whatever else is said
    """
    rows = [[name, *point] for name, point in zip(NAMES, RAS)]
    return right(table(folder, ["label", "R", "A", "S"], rows))


@case
def decimal_commas(folder):
    """Semicolons, with decimal commas.
    Reports: none
    Before: refused, for another reason
    Right: refused, with the row and the word comma
    """
    rows = [[name, *(str(value).replace(".", ",") for value in point)] for name, point in zip(NAMES, RAS)]
    table(folder, ["Landmark", "X", "Y", "Z"], rows, ";")
    return refused("points.csv") | {"message": ["comma"]}


@case
def decimal_commas_between_commas(folder):
    """Commas, with decimal commas: more cells than columns.
    Reports: none
    Before: read wrongly: X, Y and Z are the halves of two numbers
    Right: refused, with the row
    """
    rows = [[name, *(str(value).replace(".", ",") for value in point)] for name, point in zip(NAMES, RAS)]
    table(folder, ["Landmark", "X", "Y", "Z"], rows)
    return refused("points.csv") | {"message": ["row 2"]}


@case
def not_a_number(folder):
    """NaN for a point that was not found.
    Reports: none
    Before: refused, without the row
    Right: refused, with the row
    """
    rows = [[NAMES[0], *RAS[0]], [NAMES[1], "nan", 2.0, 3.5]]
    table(folder, ["Landmark", "X", "Y", "Z"], rows)
    return refused("points.csv") | {"message": ["row 3"]}


@case
def name_twice(folder):
    """Two landmarks of one name, of which a dictionary keeps one.
    Reports: none
    Before: accepted; the first is lost without a word
    Right: refused, with the name and both rows
    """
    table(folder, ["Landmark", "X", "Y", "Z"], [["nose", *point] for point in RAS])
    return refused("points.csv") | {"message": ["nose", "rows 2 and 3"]}


@case
def pairs_of_points(folder):
    """Learn2Reg's keypoints of a pair: six numbers a row, no header.
    Reports: MDL-UzL/L2R#3
    Before: refused: KeyError('Landmark')
    Right: refused, saying that these are pairs
    """
    table(folder, None, [[*point, *point] for point in RAS])
    return refused("points.csv") | {"message": ["pairs"]}


@case
def nobody_says_the_axes(folder):
    """x,y,z without a header, and no space given.
    Reports: none
    Before: refused: KeyError('Landmark')
    Right: refused, asking for the axes
    """
    table(folder, None, RAS)
    return refused("points.csv") | {"space": None, "message": ["landmark_space"]}


@case
def learn2reg_voxels(folder):
    """Learn2Reg's CSV in voxels of an oblique image.
    Reports: MDL-UzL/L2R#3
    Before: refused
    Right: three points in the order of the file, by the image's affine
    """
    affine = oblique_affine((1.2, 1.5, 2.0), (-60.0, -50.0, -40.0), (5, -4, 8))
    nib.save(nib.Nifti1Image(np.zeros((100, 80, 70), np.int16), affine), folder / "image.nii.gz")
    voxels = (np.array(RAS) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    table(folder, None, voxels.tolist())
    return right("points.csv", "voxel", None) | {"image": "image.nii.gz"}


@case
def on_another_image(folder):
    """Points of another image of the same shape, whose origin lies 500 mm away.
    Reports: none
    Before: accepted without a word
    Right: refused, with the landmark, the distance and both files
    """
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [420.0, -80.0, -60.0]
    nib.save(nib.Nifti1Image(np.zeros((80, 80, 80), np.int16), affine), folder / "image.nii.gz")
    table(folder, ["Landmark", "X", "Y", "Z"], [[name, *point] for name, point in zip(NAMES, RAS)])
    return refused("points.csv") | {"image": "image.nii.gz", "message": ["image.nii.gz", " mm outside"]}


@case
def in_other_axes(folder):
    """LPS points read as RAS, which puts them beside an image of the right half.
    Reports: SlicerMorph/SlicerMorph#82
    Before: accepted without a word
    Right: refused, with the axes
    """
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-80.0, -5.0, -60.0]
    nib.save(nib.Nifti1Image(np.zeros((70, 40, 90), np.int16), affine), folder / "image.nii.gz")
    table(folder, ["Landmark", "X", "Y", "Z"], [[f"p{k}", -40.0 + k, -45.0, 3.0] for k in range(3)])
    return refused("points.csv") | {"image": "image.nii.gz", "message": ["landmark_space"]}


@case
def ants_with_labels(folder):
    """ANTs' CSV with all of its columns; labels repeat.
    Reports: ANTsX/ANTs#1193
    Before: refused
    Right: the three points in RAS, named by their row, without anything said
    """
    rows = [[*point, 0, 1, 0.5, 1, 1] for point in LPS]
    table(folder, ["x", "y", "z", "t", "label", "mass", "volume", "count"], rows)
    return right("points.csv", None, None)


@case
def ants_of_two_times(folder):
    """ANTs' CSV with points of two times.
    Reports: none
    Before: refused
    Right: refused: one time is wanted
    """
    table(folder, ["x", "y", "z", "t"], [[*point, k] for k, point in enumerate(LPS)])
    return refused("points.csv") | {"message": ["time"]}


@case
def fcsv_of_slicer_3(folder):
    """3D Slicer 3's .fcsv: other columns, no coordinate system, which was RAS.
    Reports: zarquon42b/Morpho#17
    Before: refused
    Right: the three points
    """
    lines = [
        "# Fiducial List file /data/points.fcsv",
        "# name = L",
        f"# numPoints = {len(RAS)}",
        "# visibility = 1",
        "# columns = label,x,y,z,sel,vis",
        *(f"{name},{x},{y},{z},1,1" for name, (x, y, z) in zip(NAMES, RAS)),
    ]
    (folder / "points.fcsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return right("points.fcsv")


@case
def fcsv_of_other_columns(folder):
    """An .fcsv under the name .csv, LPS by number, its columns in another order, a name in quotes.
    Reports: zarquon42b/Morpho#17
    Before: refused
    Right: the three points
    """
    lines = [
        "# Markups fiducial file version = 4.11",
        "# CoordinateSystem = 1",
        "# columns = id,label,desc,z,y,x",
        *(f'{k},"{name}","a, b",{z},{y},{x}' for k, (name, (x, y, z)) in enumerate(zip(NAMES, LPS))),
    ]
    (folder / "points.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    return right("points.csv")


@case
def fcsv_in_voxels(folder):
    """An .fcsv whose coordinates are IJK.
    Reports: none
    Before: refused
    Right: refused, with what was received
    """
    fcsv(folder, "2", RAS)
    return refused("points.fcsv") | {"message": ["'2'"]}


@case
def fcsv_without_axes(folder):
    """An .fcsv that does not say its coordinate system.
    Reports: none
    Before: refused
    Right: refused, asking for it
    """
    fcsv(folder, "LPS", LPS)
    text = (folder / "points.fcsv").read_text(encoding="utf-8").splitlines()
    (folder / "points.fcsv").write_text("\n".join(line for line in text if "System" not in line), encoding="utf-8")
    return refused("points.fcsv") | {"space": None, "message": ["landmark_space"]}


@case
def markups_of_two_systems(folder):
    """Two lists in one .mrk.json, one in LPS and one in RAS, and a curve's control point among them.
    Reports: SlicerMorph/SlicerMorph#82
    Before: refused
    Right: the three points in RAS, each list by its own axes
    """
    lists = [
        markup(LPS[:1], NAMES[:1]),
        markup(RAS[1:2], NAMES[1:2], "RAS"),
        markup(LPS[2:], NAMES[2:], kind="Curve"),
    ]
    return right(markups(folder, lists))


@case
def markups_not_set(folder):
    """A point that 3D Slicer shows in its list but that was never set: positionStatus undefined, at 0, 0, 0.
    Reports: none
    Before: refused
    Right: the three others, and a line that names the one left out
    """
    names, points = [*NAMES[:2], "chin", NAMES[2]], [*LPS[:2], [0.0, 0.0, 0.0], LPS[2]]
    return right(markups(folder, [markup(points, names, status={"chin": "undefined"})])) | {"said": ["chin"]}


@case
def markups_of_a_box(folder):
    """A region of interest, which is not a list of points.
    Reports: none
    Before: refused
    Right: refused, with its kind
    """
    markups(folder, [markup(LPS, kind="ROI")])
    return refused("points.mrk.json") | {"message": ["ROI"]}


@case
def markups_of_nobody(folder):
    """JSON that is not a markup.
    Reports: none
    Before: refused, or no landmarks at all
    Right: refused
    """
    (folder / "points.json").write_text(json.dumps({"points": RAS}), encoding="utf-8")
    return refused("points.json")


@case
def markups_of_no_point(folder):
    """A .mrk.json whose list is empty.
    Reports: none
    Before: no landmarks, and no error
    Right: refused: a file without a point is an error
    """
    markups(folder, [markup([], [])])
    return refused("points.mrk.json") | {"message": ["without a point"]}


@case
def table_of_a_natural_image(folder):
    """BIRL's table: an index without a header, X and Y in pixels of a natural image, which are LPS mm there.
    Reports: none
    Before: refused
    Right: the points at the height of the natural image, 0
    """
    rows = [[k, x + 60, y + 60] for k, (x, y, _) in enumerate(LPS)]
    result = right(table(folder, ["", "X", "Y"], rows), "LPS", ["0", "1", "2"])
    return result | {"points_ras": [[-(x + 60), -(y + 60), 0.0] for x, y, _ in LPS]}


@case
def no_third_column(folder):
    """Landmark, X, Y for a volume.
    Reports: none
    Before: refused
    Right: refused, with the columns that are expected
    """
    nib.save(nib.Nifti1Image(np.zeros((80, 80, 80), np.int16), np.eye(4)), folder / "image.nii.gz")
    table(folder, ["Landmark", "X", "Y"], [[name, x + 60, y + 60] for name, (x, y, _) in zip(NAMES, RAS)])
    return refused("points.csv") | {"image": "image.nii.gz", "message": ["expected columns Landmark, X, Y, Z"]}


@case
def latin_letters(folder):
    """Names with umlauts, written in Latin-1.
    Reports: none
    Before: refused as missing columns
    Right: refused, with the word UTF-8
    """
    rows = [["Öhr", *RAS[0]]]
    table(folder, ["Landmark", "X", "Y", "Z"], rows, encoding="latin-1")
    return refused("points.csv") | {"message": ["UTF-8"]}


@case
def only_blank_lines(folder):
    """A file of blank lines and a comment.
    Reports: none
    Before: no error and no landmarks
    Right: refused: a file without a point is an error
    """
    (folder / "points.csv").write_text("\n# nothing yet\n\n", encoding="utf-8")
    return refused("points.csv") | {"message": ["without a point"]}


if __name__ == "__main__":
    main(__doc__)
