"""Pair lists that leak or hide a mistake are refused by row; what a spreadsheet or another language writes is read."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.lists.image_list import list_images
from tests.cases import pair_lists
from tests.cases.common import CASES, write

LISTS = CASES[pair_lists.__name__]


def prepared(folder, name, *options):
    arguments = ["prepare", str(folder / name), "--resize", "0", "--out", str(folder / "dataset"), *options]
    return CliRunner().invoke(app, arguments)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", LISTS)
def test_every_list_is_read_rightly_or_refused(tmp_path, name):
    expected = write(LISTS[name], tmp_path / "case")
    before = files_of(tmp_path / "case")
    result = prepared(tmp_path / "case", expected["input"])
    if result.exit_code != 0:
        assert "refuse" in expected["accept"], result.output
        check_refusal(result, tmp_path / "case", expected)
        left = [path for path in files_of(tmp_path / "case") if path not in before]
        assert [path for path in left if not path.startswith("dataset.partial")] == []
        assert not left or expected.get("kept")  # what was read is kept for a second attempt
        return
    assert "read" in expected["accept"]
    index = json.loads((tmp_path / "case" / "dataset" / "dataset.json").read_text(encoding="utf-8"))
    items = [item for split in ("training", "validation", "test") for item in index[split]]
    assert sorted({item["subject"] for item in items}) == sorted(set(expected["subjects"]))
    assert len(items) == expected["cases"]
    names = [path.name for path in (tmp_path / "case" / "dataset" / "images").iterdir()]
    assert len({unicodedata.normalize("NFC", one).casefold() for one in names}) == len(names) == 2 * len(items)
    if "sizes" in expected:
        assert f"the data set has {expected['sizes']} sizes" in result.output


def check_refusal(result, folder, expected):
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("medtrace: error: ")]
    assert len(lines) == 1, result.stderr
    assert expected["input"] in lines[0]
    text = lines[0].replace(str(folder), "").lower()
    assert any(word.lower() in text for word in expected["message"]), lines[0]
    for word in expected.get("names_in_message", ()):
        assert word in lines[0], lines[0]


def test_unused_columns_are_said(tmp_path, caplog):
    write(LISTS["headers_with_spaces"], tmp_path / "case")
    prepared(tmp_path / "case", "pairs.csv")
    assert [
        record.getMessage().split(": ", 1)[1] for record in caplog.records if "not used" in record.getMessage()
    ] == ["not used: note"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nul.txt", "nul is a device name on Windows"),
        ("CON", "con is a device name on Windows"),
        ("a.", "ends with a dot"),
        ("../a", "expected letters"),
        ("患" * 100, "more than 180 bytes"),
    ],
)
def test_lists_for_translate_follow_the_same_rules(tmp_path, name, message):
    (tmp_path / "a.nii").touch()
    (tmp_path / "list.csv").write_text(f"Image;Name\na.nii;{name}\n", encoding="utf-8-sig")
    with pytest.raises(ValueError, match=rf"list.csv: row 2: name: .*{message}"):
        list_images([tmp_path / "list.csv"])


def test_lists_for_translate_may_be_in_any_language(tmp_path):
    (tmp_path / "a.nii").touch()
    decomposed = unicodedata.normalize("NFD", "Müller")
    (tmp_path / "list.csv").write_text(f"\nName,Image\n{decomposed},a.nii\n", encoding="utf-16")
    assert [image.name for image in list_images([tmp_path / "list.csv"])] == ["Müller"]


def test_files_whose_names_are_devices_or_one_in_another_form_are_told_apart(tmp_path):
    (tmp_path / "aux.nii").touch()
    with pytest.raises(ValueError, match=r"aux.nii: 'aux' cannot name files .*give names in a list"):
        list_images([tmp_path / "aux.nii"])
    for form in ("NFC", "NFD"):
        (tmp_path / form).mkdir()
        (tmp_path / form / f"{unicodedata.normalize(form, 'é')}.nii").touch()
    assert [image.name for image in list_images([tmp_path / "NFC", tmp_path / "NFD"])] == ["NFC_é", "NFD_é"]


def test_generators_do_not_import_the_library():
    for path in Path(pair_lists.__file__).parent.glob("*.py"):
        assert not re.search(r"^\s*(from|import) medtrace", path.read_text(encoding="utf-8"), re.M)
