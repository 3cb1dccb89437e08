"""Pair lists that leak, hide a mistake, or stop for a reason that the message does not tell.

    python -m tests.cases.pair_lists OUT [--only CASE]

Every case is a list, `input`, and its pictures, for `medtrace prepare OUT/CASE/INPUT --resize 0 --out DATASET`.
`accept` is what is right; `message` holds words of which the refusal must contain at least one (any case).
"""

import json
import unicodedata

import numpy as np
from PIL import Image

from tests.cases.common import case, main

SIZE = 32


def picture(seed, width=SIZE, height=SIZE):
    """A picture that is as no other: two blobs on a slope, 8 bit."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    total = row / height * 40 + column / width * 20
    for _ in range(2):
        y, x = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
        total += 90 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / 40)
    return np.clip(total, 0, 255).astype(np.uint8)


def write_pictures(folder, count=6, sizes=None):
    """Pairs 0_source.png, 0_target.png, 1_source.png, ... of different pictures."""
    for k in range(count):
        size = sizes[k] if sizes else (SIZE, SIZE)
        for side, name in enumerate(("source", "target")):
            Image.fromarray(picture(2 * k + side, *size)).save(folder / f"{k}_{name}.png")


def rows(subjects, pairs=None):
    """Lines `subject,source,target`; pairs[i] tells which pictures row i takes (its own by default)."""
    pairs = range(len(subjects)) if pairs is None else pairs
    return [f"{subject},{k}_source.png,{k}_target.png" for subject, k in zip(subjects, pairs)]


def write_list(folder, lines, header="subject,source,target", encoding="utf-8", before=""):
    (folder / "pairs.csv").write_text(before + "\n".join([header, *lines]) + "\n", encoding=encoding)


def refused(*message, name="pairs.csv", **more):
    return {"entry": "prepare", "input": name, "accept": ["refuse"], "message": list(message), **more}


def read(subjects, name="pairs.csv", **more):
    return {"entry": "prepare", "input": name, "accept": ["read"], "subjects": subjects, "cases": len(subjects), **more}


@case
def plain(folder):
    """Six pairs of six subjects, a control.
    Reports: none
    Before: 4 training, 0 validation, 2 test
    Right: read: 6 subjects, 6 cases
    """
    write_pictures(folder)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects))
    return read(subjects)


@case
def same_file_under_two_subjects(folder):
    """The pictures of pair 0 stand under s0 and under s5: a training subject in the test.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects (s0 and s5)
    """
    write_pictures(folder)
    write_list(folder, rows([f"s{k}" for k in range(6)], [0, 1, 2, 3, 4, 0]))
    return refused("s5", names_in_message=["s0", "s5"])


@case
def same_content_under_two_subjects(folder):
    """As before, but the second subject has a copy of the files under other names.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects: compare content, not names
    """
    write_pictures(folder)
    for name in ("source", "target"):
        (folder / f"5_{name}.png").write_bytes((folder / f"0_{name}.png").read_bytes())
    write_list(folder, rows([f"s{k}" for k in range(6)]))
    return refused("s5", names_in_message=["s0", "s5"])


@case
def source_equals_target(folder):
    """One row gives the same file as source and as target.
    Reports: none
    Before: taken in silence
    Right: refused, naming the row or the subject s2
    """
    write_pictures(folder)
    lines = rows([f"s{k}" for k in range(6)])
    lines[2] = "s2,2_source.png,2_source.png"
    write_list(folder, lines)
    return refused("s2", "row 4", "2_source.png")


@case
def same_subject_twice(folder):
    """Subject s0 has two rows and the list has no column `case`.
    Reports: none
    Before: refused: "case 's0' occurs more than once ... give every pair of a subject its own name in the column case"
    Right: that, or both kept as pairs of one subject in one split (6 cases of 5 subjects)
    """
    write_pictures(folder)
    write_list(folder, rows(["s0", "s0", "s2", "s3", "s4", "s5"]))
    return refused("s0") | {"accept": ["refuse", "read"], "subjects": ["s0", "s2", "s3", "s4", "s5"], "cases": 6}


@case
def names_that_differ_in_case(folder):
    """Subjects Anna and anna.
    Reports: none
    Before: two subjects whose files differ in case alone: one overwrites the other where the file system does not tell case apart
    Right: refused, naming both; or read with file names that differ after str.casefold()
    """
    write_pictures(folder)
    write_list(folder, rows(["Anna", "anna", "s2", "s3", "s4", "s5"]))
    return refused("anna") | {
        "accept": ["refuse", "read"],
        "subjects": ["Anna", "anna", "s2", "s3", "s4", "s5"],
        "cases": 6,
        "distinct_after_casefold": True,
    }


@case
def unicode_forms(folder):
    """Subjects café in composed (NFC) and decomposed (NFD) form.
    Reports: none
    Before: refused: letters, digits and . _ + - expected (ASCII alone)
    Right: letters of any language are allowed, but these two are one name: refused, saying that both are the same
    """
    write_pictures(folder)
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    write_list(folder, rows([*forms, "s2", "s3", "s4", "s5"]))
    return refused("same", "twice", "more than once", "unicode")


@case
def letters_of_any_language(folder):
    """Subjects Müller, Łukasz, 患者1, Ωmega, s4, s5.
    Reports: none
    Before: refused
    Right: read: 6 subjects, 6 cases
    """
    write_pictures(folder)
    subjects = ["Müller", "Łukasz", "患者1", "Ωmega", "s4", "s5"]
    write_list(folder, rows(subjects))
    return read(subjects)


@case
def windows_reserved(folder):
    """A subject called nul.txt, whose files Windows cannot hold: what counts there is the name before the first dot.
    Reports: none
    Before: taken; it writes images/nul.txt_source.nii.gz (a subject CON is harmless here, CON_source.nii.gz, but not as a name in a list for `translate`, where it is a folder)
    Right: refused, or other file names; con, prn, aux, nul, com1 to com9, lpt1 to lpt9 in any case, with any ending
    """
    write_pictures(folder)
    subjects = ["nul.txt", "s1", "s2", "s3", "s4", "s5"]
    write_list(folder, rows(subjects))
    return refused("nul") | {
        "accept": ["refuse", "read"],
        "subjects": subjects,
        "cases": 6,
        "no_file_stem_in": ["con", "prn", "aux", "nul"],
    }


@case
def semicolons(folder):
    """Semicolons between columns, as spreadsheets write CSV in many countries.
    Reports: none
    Before: refused: "missing column(s) subject, source, target"; the word semicolon does not occur
    Right: read: 6 cases; or refused with the word "semicolon" or the sign ";" as the reason
    """
    write_pictures(folder)
    subjects = [f"s{k}" for k in range(6)]
    lines = [line.replace(",", ";") for line in rows(subjects)]
    write_list(folder, lines, "subject;source;target")
    return read(subjects, message=["semicolon", "delimiter", "separator"]) | {"accept": ["read", "refuse"]}


@case
def byte_order_mark_json(folder):
    """A JSON list that begins with a byte order mark (the CSV form is read).
    Reports: none
    Before: refused: "no valid JSON (Unexpected UTF-8 BOM ...)"
    Right: read: 6 cases
    """
    write_pictures(folder)
    subjects = [f"s{k}" for k in range(6)]
    items = [dict(zip(("subject", "source", "target"), line.split(","))) for line in rows(subjects)]
    (folder / "pairs.json").write_text(json.dumps(items), encoding="utf-8-sig")
    return read(subjects, "pairs.json")


@case
def byte_order_mark_csv(folder):
    """A CSV list that begins with a byte order mark, a control.
    Reports: none
    Before: read rightly
    Right: read: 6 cases
    """
    write_pictures(folder)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects), encoding="utf-8-sig")
    return read(subjects)


@case
def blank_first_line(folder):
    """An empty line before the header.
    Reports: none
    Before: refused: "the header has nothing"
    Right: read: 6 cases; blank lines mean nothing
    """
    write_pictures(folder)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects), before="\n")
    return read(subjects)


@case
def capital_headers(folder):
    """Columns Subject, Source, Target.
    Reports: none
    Before: refused: missing column(s)
    Right: read: 6 cases; or refused with "Subject" as what was received and `subject` as the remedy
    """
    write_pictures(folder)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects), "Subject,Source,Target")
    return read(subjects, message=["Subject"]) | {"accept": ["read", "refuse"]}


@case
def two_sizes(folder):
    """Two sizes by turns among six pairs, 32 x 32 and 40 x 28.
    Reports: Project-MONAI/MONAI#2560, Project-MONAI/tutorials#343, Project-MONAI/tutorials#845
    Before: `prepare --resize 0` says nothing; `train` at its defaults ends with "stack expects each tensor to be equal size"; trained with batch_size=1, `evaluate` ends so
    Right: read, and the output of `prepare` says that the data set has 2 sizes; `train` and `evaluate` run at their defaults
    """
    write_pictures(folder, sizes=[(SIZE, SIZE), (40, 28)] * 3)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects))
    return read(subjects, sizes=2)


if __name__ == "__main__":
    main(__doc__)
