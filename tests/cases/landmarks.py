"""Landmark files of the tools that users come from.

    python -m tests.cases.landmarks OUT [--only CASE]

All files but the empty ones tell of the same three points; `points_ras` in `expected.json` is what must come out,
in RAS mm, in this order. `space` is what a user has to say, where the file itself does not say it.
"""

import json

from tests.cases.common import case, main

NAMES = ["nose", "left ear", "F-3"]
RAS = [[10.0, 20.5, -30.25], [-41.0, 2.0, 3.5], [0.0, -7.125, 64.0]]
LPS = [[-x, -y, z] for x, y, z in RAS]


def right(name, space=None, names=NAMES):
    return {
        "entry": "read_landmarks",
        "input": name,
        "space": space,
        "accept": ["read"],
        "names": names,
        "points_ras": RAS,
        "tolerance": 1e-4,
    }


def fcsv(folder, system, points):
    lines = [
        "# Markups fiducial file version = 5.2",
        f"# CoordinateSystem = {system}",
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
    ]
    lines += [f"{k},{x},{y},{z},0,0,0,1,1,1,0,{name},,," for k, (name, (x, y, z)) in enumerate(zip(NAMES, points), 1)]
    (folder / "points.fcsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return right("points.fcsv")


@case
def own_csv(folder):
    """The CSV that medtrace documents: Landmark, X, Y, Z; a control.
    Reports: none
    Before: read rightly
    Right: the three points
    """
    rows = [f"{name},{x},{y},{z}" for name, (x, y, z) in zip(NAMES, RAS)]
    (folder / "points.csv").write_text("\n".join(["Landmark,X,Y,Z", *rows]) + "\n", encoding="utf-8")
    return right("points.csv", "RAS")


@case
def slicer_fcsv_lps(folder):
    """3D Slicer's .fcsv, CoordinateSystem = LPS.
    Reports: SlicerMorph/SlicerMorph#82, zarquon42b/Morpho#17, rg2/xreg#12
    Before: refused: columns Landmark, X, Y, Z expected
    Right: the three points in RAS; the file says its own axes
    """
    return fcsv(folder, "LPS", LPS)


@case
def slicer_fcsv_ras(folder):
    """3D Slicer's older .fcsv, CoordinateSystem = 0 (RAS).
    Reports: SlicerMorph/SlicerMorph#82, zarquon42b/Morpho#17
    Before: refused
    Right: the three points in RAS
    """
    return fcsv(folder, "0", RAS)


@case
def slicer_markups_json(folder):
    """3D Slicer's .mrk.json, coordinateSystem LPS.
    Reports: SlicerMorph/SlicerMorph#82
    Before: written on one line: no error and *no landmarks* (taken for the header of an empty CSV); written on many: refused
    Right: the three points in RAS
    """
    points = [
        {"id": str(k), "label": name, "position": point, "positionStatus": "defined"}
        for k, (name, point) in enumerate(zip(NAMES, LPS), 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    for name, indent in (("points.mrk.json", None), ("indented.mrk.json", 4)):
        (folder / name).write_text(json.dumps({"markups": [markup]}, indent=indent), encoding="utf-8")
    return right("points.mrk.json") | {"also": ["indented.mrk.json"]}


@case
def learn2reg_csv(folder):
    """Learn2Reg's CSV: x,y,z without a header or names.
    Reports: MDL-UzL/L2R#3, uncbiag/uniGradICON#37
    Before: refused
    Right: three points in the order of the file (given as RAS mm here), named by their row
    """
    (folder / "points.csv").write_text("".join(f"{x},{y},{z}\n" for x, y, z in RAS), encoding="utf-8")
    return right("points.csv", "RAS", None)


@case
def ants_csv(folder):
    """The CSV of antsApplyTransformsToPoints: x,y,z,t in LPS mm.
    Reports: ANTsX/ANTs#1193, ANTsX/ANTs#531
    Before: refused
    Right: the three points in RAS
    """
    rows = [f"{x},{y},{z},0" for x, y, z in LPS]
    (folder / "points.csv").write_text("\n".join(["x,y,z,t", *rows]) + "\n", encoding="utf-8")
    return right("points.csv", "LPS", None)


@case
def lower_case_columns(folder):
    """The documented columns in lower case, under the header `label`.
    Reports: airlab-unibas/airlab#31
    Before: refused: KeyError('Landmark')
    Right: the three points; columns are found by name in any case
    """
    rows = [f"{name},{x},{y},{z}" for name, (x, y, z) in zip(NAMES, RAS)]
    (folder / "points.csv").write_text("\n".join(["label,x,y,z", *rows]) + "\n", encoding="utf-8")
    return right("points.csv", "RAS")


def refused(name):
    return {"entry": "read_landmarks", "input": name, "space": "RAS", "accept": ["refuse"]}


@case
def empty_file(folder):
    """A file of no bytes.
    Reports: none
    Before: no error and no landmarks
    Right: refused, with the file's name
    """
    (folder / "points.csv").write_text("", encoding="utf-8")
    return refused("points.csv")


@case
def header_only(folder):
    """A header and no point.
    Reports: none
    Before: no error and no landmarks
    Right: refused: a file without a point is an error
    """
    (folder / "points.csv").write_text("Landmark,X,Y,Z\n", encoding="utf-8")
    return refused("points.csv")


if __name__ == "__main__":
    main(__doc__)
