"""Pair lists that leak, hide a mistake, or stop for a reason that the message does not tell.

    python -m tests.cases.pair_lists OUT [--only CASE]

Every case is a list, `input`, and its natural images, for `medtrace prepare OUT/CASE/INPUT --resize 0 --out DATASET`.
`accept` is what is right; `message` holds words of which the refusal must contain at least one (any case).
"""

import json
import unicodedata

import numpy as np
from PIL import Image

from tests.cases.common import case, main

SIZE = 32


def natural_image(seed, width=SIZE, height=SIZE):
    """A natural image that is as no other: two blobs on a slope, 8 bit."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:height, :width]
    total = row / height * 40 + column / width * 20
    for _ in range(2):
        y, x = rng.uniform(0.2, 0.8) * height, rng.uniform(0.2, 0.8) * width
        total += 90 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / 40)
    return np.clip(total, 0, 255).astype(np.uint8)


def write_natural_images(folder, count=6, sizes=None):
    """Pairs 0_source.png, 0_target.png, 1_source.png, ... of different natural images."""
    for k in range(count):
        size = sizes[k] if sizes else (SIZE, SIZE)
        for side, name in enumerate(("source", "target")):
            Image.fromarray(natural_image(2 * k + side, *size)).save(folder / f"{k}_{name}.png")


def rows(subjects, pairs=None):
    """Lines `subject,source,target`; pairs[i] reports which natural images row i takes (its own by default)."""
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
    write_natural_images(folder)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects))
    return read(subjects)


@case
def same_file_under_two_subjects(folder):
    """The natural images of pair 0 stand under s0 and under s5: a training subject in the test.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects (s0 and s5)
    """
    write_natural_images(folder)
    write_list(folder, rows([f"s{k}" for k in range(6)], [0, 1, 2, 3, 4, 0]))
    return refused("s5", names_in_message=["s0", "s5"])


@case
def same_content_under_two_subjects(folder):
    """As before, but the second subject has a copy of the files under other names.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects: compare content, not names
    """
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
    write_list(folder, rows(["s0", "s0", "s2", "s3", "s4", "s5"]))
    return refused("s0") | {"accept": ["refuse", "read"], "subjects": ["s0", "s2", "s3", "s4", "s5"], "cases": 6}


@case
def names_that_differ_in_case(folder):
    """Subjects Anna and anna.
    Reports: none
    Before: two subjects whose files differ in case alone: one overwrites the other where the file system does not tell case apart
    Right: refused, naming both; or read with file names that differ after str.casefold()
    """
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder)
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
    write_natural_images(folder, sizes=[(SIZE, SIZE), (40, 28)] * 3)
    subjects = [f"s{k}" for k in range(6)]
    write_list(folder, rows(subjects))
    return read(subjects, sizes=2)


SUBJECTS = [f"s{k}" for k in range(6)]


def named(*names):
    """Six subjects, the last ones called so."""
    return [*SUBJECTS[: 6 - len(names)], *names]


@case
def symbolic_link_under_two_subjects(folder):
    """The target of s5 is a symbolic link to that of s0.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects
    """
    write_natural_images(folder)
    (folder / "5_target.png").unlink()
    (folder / "5_target.png").symlink_to("0_target.png")
    write_list(folder, rows(SUBJECTS))
    return refused("s5", names_in_message=["s0", "s5"])


@case
def target_that_is_the_source_of_another(folder):
    """The target of s4 is, as a hard link of another name, the source of s1.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects
    """
    write_natural_images(folder)
    (folder / "4_target.png").unlink()
    (folder / "4_target.png").hardlink_to(folder / "1_source.png")
    write_list(folder, rows(SUBJECTS))
    return refused("s4", names_in_message=["s1", "s4"])


@case
def same_pixels_in_another_format(folder):
    """The source of s5 is that of s0, saved again as BMP.
    Reports: agrimgupta92/sgan#62
    Before: taken in silence
    Right: refused, naming both subjects: compare pixels, not bytes
    """
    write_natural_images(folder)
    Image.open(folder / "0_source.png").save(folder / "5_source.bmp")
    lines = rows(SUBJECTS)
    lines[5] = "s5,5_source.bmp,5_target.png"
    write_list(folder, lines)
    return refused("s5", names_in_message=["s0", "s5"], kept=True)


@case
def source_is_a_copy_of_the_target(folder):
    """The target of s3 is a copy of its source under another name.
    Reports: none
    Before: taken in silence
    Right: refused, naming the row or the subject s3
    """
    write_natural_images(folder)
    (folder / "3_target.png").write_bytes((folder / "3_source.png").read_bytes())
    write_list(folder, rows(SUBJECTS))
    return refused("s3", "row 5", "3_target.png")


@case
def same_pair_in_two_rows(folder):
    """A subject has its pair twice, under two names in the column `case`.
    Reports: none
    Before: taken in silence, and counted twice
    Right: refused, naming both rows
    """
    write_natural_images(folder)
    lines = [f"{line},{case}" for line, case in zip(rows(named("s0"), [0, 1, 2, 3, 4, 0]), "abcdef")]
    write_list(folder, lines, "subject,source,target,case")
    return refused("row 7", names_in_message=["row 2", "row 7"])


@case
def subject_in_two_splits(folder):
    """Subject s0 has a pair in training and one in test.
    Reports: agrimgupta92/sgan#62
    Before: refused
    Right: refused, naming the subject and both rows
    """
    write_natural_images(folder)
    splits = ["training"] * 5 + ["test"]
    lines = [f"{line},c{k},{split}" for k, (line, split) in enumerate(zip(rows(named("s0")), splits))]
    write_list(folder, lines, "subject,source,target,case,split")
    return refused("s0", names_in_message=["row 2", "row 7", "s0"])


@case
def subject_in_two_splits_by_case(folder):
    """Subject Anna has a pair in training, and subject anna one in test.
    Reports: agrimgupta92/sgan#62
    Before: two subjects
    Right: refused, naming both
    """
    write_natural_images(folder)
    splits = ["training"] * 5 + ["test"]
    subjects = ["Anna", *SUBJECTS[1:5], "anna"]
    write_list(
        folder, [f"{line},{split}" for line, split in zip(rows(subjects), splits)], "subject,source,target,split"
    )
    return refused("anna", names_in_message=["Anna", "anna"])


@case
def cases_that_differ_in_case(folder):
    """One subject has the cases Week6 and week6.
    Reports: none
    Before: two cases whose files differ in case alone
    Right: refused, naming both rows
    """
    write_natural_images(folder)
    lines = [f"{line},{case}" for line, case in zip(rows(named("s0")), ["Week6", *"abcd", "week6"])]
    write_list(folder, lines, "subject,source,target,case")
    return refused("week6", names_in_message=["row 2", "row 7"])


@case
def contrasts_that_differ_in_case(folder):
    """Contrasts T1 and t1 in one list.
    Reports: none
    Before: two contrasts, each with its own standard
    Right: refused, naming both
    """
    write_natural_images(folder)
    contrasts = ["T1"] * 5 + ["t1"]
    write_list(
        folder, [f"{line},{one}" for line, one in zip(rows(SUBJECTS), contrasts)], "subject,source,target,contrast"
    )
    return refused("contrast", names_in_message=["T1", "t1"])


@case
def wide_letters(folder):
    """Subjects AB and ＡＢ, the second in letters of full width.
    Reports: none
    Before: refused: ASCII alone
    Right: refused as one name
    """
    write_natural_images(folder)
    write_list(folder, rows(named("AB", "ＡＢ")))
    return refused("unicode", "same", names_in_message=["row 7"])


@case
def decomposed_names(folder):
    """Subjects of which one is written in decomposed form (as macOS writes), alone.
    Reports: none
    Before: refused: ASCII alone
    Right: read; files may be named in composed form
    """
    write_natural_images(folder)
    subjects = named(unicodedata.normalize("NFD", "Ångström"), unicodedata.normalize("NFD", "한글"))
    write_list(folder, rows(subjects))
    return read([unicodedata.normalize("NFC", subject) for subject in subjects])


@case
def letters_with_marks(folder):
    """Subjects in Devanagari, Arabic and Hebrew, with digits of their own.
    Reports: none
    Before: refused: ASCII alone
    Right: read
    """
    write_natural_images(folder)
    subjects = named("हिन्दी१", "مريض٢", "מטופל_3")
    write_list(folder, rows(subjects))
    return read(subjects)


def _refused_name(folder, name, *message):
    write_natural_images(folder)
    write_list(folder, rows(named(f'"{name}"' if '"' not in name else name)))
    return refused(*message, names_in_message=["row 7"])


@case
def reserved_with_an_ending(folder):
    """A subject called Com1.left.
    Reports: none
    Before: taken
    Right: refused: a device of Windows whatever its ending
    """
    return _refused_name(folder, "Com1.left", "com1")


@case
def reserved_in_capitals(folder):
    """A subject called LPT9.
    Reports: none
    Before: taken
    Right: refused
    """
    return _refused_name(folder, "LPT9", "lpt9")


@case
def dot_at_the_end(folder):
    """A subject called anna. with a dot that Windows drops.
    Reports: none
    Before: taken
    Right: refused
    """
    return _refused_name(folder, "anna.", "dot")


@case
def path_in_a_name(folder):
    """A subject called ../anna.
    Reports: none
    Before: refused
    Right: refused
    """
    return _refused_name(folder, "../anna", "letters")


@case
def hidden_name(folder):
    """A subject called .anna.
    Reports: none
    Before: refused
    Right: refused
    """
    return _refused_name(folder, ".anna", "letters")


@case
def control_character(folder):
    """A subject with a bell character in its name.
    Reports: none
    Before: refused
    Right: refused, the character shown as an escape
    """
    return _refused_name(folder, "an\x07na", "letters")


@case
def name_too_long(folder):
    """A subject of 100 Chinese characters, 300 bytes.
    Reports: none
    Before: refused: ASCII alone
    Right: refused for its length
    """
    return _refused_name(folder, "患" * 100, "bytes")


@case
def files_that_would_meet(folder):
    """Subjects a and a_source: the lesion of the first has the file of the second's.
    Reports: none
    Before: with lesions, one overwrites the other in silence
    Right: refused, naming both
    """
    write_natural_images(folder)
    write_list(folder, rows(named("a", "a_source")))
    return refused("a_source", names_in_message=["row 6", "row 7"])


@case
def tabs(folder):
    """Tabs between columns, in UTF-16, as Excel's "Unicode text" has it.
    Reports: none
    Before: refused as no UTF-8
    Right: read: 6 cases
    """
    write_natural_images(folder)
    write_list(
        folder, [line.replace(",", "\t") for line in rows(SUBJECTS)], "subject\tsource\ttarget", encoding="utf-16"
    )
    return read(SUBJECTS)


@case
def declared_separator(folder):
    """Excel's first line `sep=;`.
    Reports: none
    Before: refused: missing columns
    Right: read: 6 cases
    """
    write_natural_images(folder)
    write_list(folder, [line.replace(",", ";") for line in rows(SUBJECTS)], "subject;source;target", before="sep=;\n")
    return read(SUBJECTS)


@case
def byte_order_mark_utf16_json(folder):
    """A JSON list in UTF-16 with its byte order mark.
    Reports: none
    Before: refused
    Right: read: 6 cases
    """
    write_natural_images(folder)
    items = [dict(zip(("Subject", "SOURCE", "target"), line.split(","))) for line in rows(SUBJECTS)]
    (folder / "pairs.json").write_text(json.dumps({"pairs": items}), encoding="utf-16")
    return read(SUBJECTS, "pairs.json")


@case
def other_encoding(folder):
    """A list in Latin-1 with a name that is not ASCII.
    Reports: none
    Before: refused
    Right: refused with UTF-8 as the remedy: the bytes do not tell their encoding
    """
    write_natural_images(folder)
    write_list(folder, rows(named("Müller")), encoding="latin-1")
    return refused("UTF-8")


@case
def empty_rows_of_a_spreadsheet(folder):
    """Rows of separators alone, an empty last column, and a comment.
    Reports: none
    Before: refused: no value for subject
    Right: read: 6 cases
    """
    write_natural_images(folder)
    lines = [f"{line}," for line in rows(SUBJECTS)]
    write_list(folder, ["# checked, by me", *lines[:3], ",,,", *lines[3:], ",,,", ""], "subject,source,target,")
    return read(SUBJECTS)


@case
def headers_with_spaces(folder):
    """Columns " Subject ", "Source", "Target", "Landmark space", "note".
    Reports: none
    Before: refused
    Right: read: 6 cases, and a line says that `note` is not used
    """
    write_natural_images(folder)
    lines = [f"{line},ras,hello" for line in rows(SUBJECTS)]
    write_list(folder, lines, " Subject ,Source,Target,Landmark space,note")
    return read(SUBJECTS)


@case
def misspelled_column(folder):
    """A column `source_leison`.
    Reports: none
    Before: not read, in silence
    Right: refused with source_lesion as what may be meant
    """
    write_natural_images(folder)
    write_list(folder, [f"{line}," for line in rows(SUBJECTS)], "subject,source,target,source_leison")
    return refused("source_lesion", names_in_message=["source_leison"])


@case
def misspelled_required_column(folder):
    """A column `traget` in place of `target`.
    Reports: none
    Before: refused: missing column(s) target
    Right: that
    """
    write_natural_images(folder)
    write_list(folder, rows(SUBJECTS), "subject,source,traget")
    return refused("target", names_in_message=["traget"])


@case
def column_twice(folder):
    """Two columns `source`.
    Reports: none
    Before: the second is taken in silence
    Right: refused, naming the column
    """
    write_natural_images(folder)
    lines = [f"{line},{k}_target.png" for k, line in enumerate(rows(SUBJECTS))]
    write_list(folder, lines, "subject,source,target,Source")
    return refused("more than once", "twice", names_in_message=["source"])


@case
def too_many_cells(folder):
    """A row with a comma in a cell that is not quoted.
    Reports: none
    Before: the rest of the row is dropped in silence
    Right: refused, naming row 4
    """
    write_natural_images(folder)
    lines = rows(SUBJECTS)
    lines[2] += ", second visit"
    write_list(folder, lines)
    return refused("row 4", names_in_message=["row 4"])


@case
def too_few_cells(folder):
    """A row without its last cells.
    Reports: none
    Before: taken as empty
    Right: refused, naming row 4
    """
    write_natural_images(folder)
    lines = [f"{line},,RAS" for line in rows(SUBJECTS)]
    lines[2] = "s2,2_source.png,2_target.png"
    write_list(folder, lines, "subject,source,target,source_landmarks,landmark_space")
    return refused("row 4", names_in_message=["row 4"])


@case
def quoted_cells(folder):
    """Quoted cells, one with a comma and one with a quote in it, and spaces after separators.
    Reports: none
    Before: read rightly
    Right: read: 6 cases
    """
    write_natural_images(folder)
    (folder / "1_source.png").rename(folder / "one, before.png")
    (folder / "1_target.png").rename(folder / 'one "after".png')
    lines = rows(SUBJECTS)
    lines[1] = '"s1", "one, before.png", "one ""after"".png"'
    write_list(folder, lines)
    return read(SUBJECTS)


@case
def quote_that_does_not_end(folder):
    """A quote that opens in row 3 and never closes.
    Reports: none
    Before: the rows behind it are lost; refused for another reason
    Right: refused, naming the row
    """
    write_natural_images(folder)
    lines = rows(SUBJECTS)
    lines[1] = '"s1,1_source.png,1_target.png'
    write_list(folder, lines)
    return refused("row", "quote")


@case
def nested_json(folder):
    """A JSON list whose third source is a list of files.
    Reports: none
    Before: "no such file ['2_source.png']"
    Right: refused, naming entry 3
    """
    write_natural_images(folder)
    items = [dict(zip(("subject", "source", "target"), line.split(","))) for line in rows(SUBJECTS)]
    items[2]["source"] = [items[2]["source"]]
    (folder / "pairs.json").write_text(json.dumps(items), encoding="utf-8")
    return refused("entry 3", name="pairs.json")


@case
def windows_paths(folder):
    """Paths with backslashes, from a list made on Windows.
    Reports: none
    Before: "no such file"
    Right: read, or refused with / as the remedy
    """
    write_natural_images(folder)
    (folder / "in").mkdir()
    (folder / "0_source.png").rename(folder / "in" / "0_source.png")
    lines = rows(SUBJECTS)
    lines[0] = "s0,in\\0_source.png,0_target.png"
    write_list(folder, lines)
    return refused("/", names_in_message=["row 2"])


@case
def three_sizes_in_one_batch(folder):
    """Three sizes among six pairs, two of each, smaller than the window of structural similarity in one.
    Reports: Project-MONAI/MONAI#2560
    Before: `train` at its defaults ends with "stack expects each tensor to be equal size"
    Right: read, and the output says that there are 3 sizes; a score that is not defined for the smallest is missing
    """
    write_natural_images(folder, sizes=[(SIZE, SIZE), (40, 28), (36, 10)] * 2)
    write_list(folder, rows(SUBJECTS))
    return read(SUBJECTS, sizes=3)


if __name__ == "__main__":
    main(__doc__)
