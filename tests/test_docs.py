"""The documentation builds without a warning, its Python runs, its commands exist."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from medtrace.data import TraceBench
from medtrace.evaluation.bench import STUDIES
from medtrace.evaluation.bench.misaligned import COLUMNS
from medtrace.io import save_trace
from medtrace.methods.common.two_domain import CycleConsistency, PairedL1, RegistrationCorrection, TwoDomainMethod
from medtrace.networks import RegistrationUNet, translation_backbone
from medtrace.networks.backbones import BACKBONES
from medtrace.trace import Trace
from tests.conftest import BROWSERS
from tests.test_readme import check_command

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
PUBLIC = [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "tutorials").glob("*.ipynb"))]


def name(path):
    return str(path.relative_to(ROOT))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


@pytest.mark.slow
def test_builds_without_warnings(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "api" / "trace.html").read_text()
    for part in ("medtrace.trace.Trace.build", "medtrace.trace.Trace.locate", "medtrace.trace.Trace.ledger"):
        assert f'id="{part}"' in html
    terms = (tmp_path / "api" / "methods.html").read_text()
    assert "<td><p><code" in terms  # the Markdown table of TraceTransMethod's terms


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_runs(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if page.name in ("export.md", "hand_on_a_model.md"):
        shutil.copytree(request.getfixturevalue("smoke_run"), "runs/tracetrans")
    if "getting_started" not in page.name:
        case = TraceBench("postop", (64, 64), cases=1)[0]
        save_trace(Trace.build(case["source"], case["target"], case["ddf"], affine=case["source"].affine), "my_trace")
    run_blocks(page)


def run_blocks(page):
    names: dict = {}
    for code in blocks(page, "python"):
        exec(compile(code, name(page), "exec"), names)


WRITES = re.compile(r"\b(?:save|write|export|prepare|train|certify|atomic)_?\w*\(")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if WRITES.search("".join(blocks(page, "python")))], ids=name)
def test_python_runs_again_in_the_same_folder(page, tmp_path, monkeypatch, request):
    test_python_runs(page, tmp_path, monkeypatch, request)
    run_blocks(page)


@pytest.mark.parametrize("page", [page for page in [*PAGES, ROOT / "README.md"] if blocks(page, "python")], ids=name)
def test_what_is_saved_may_be_saved_again(page):
    """`save_trace` is the one function of the pages' Python that refuses what is there."""
    for call in re.findall(r"save_trace\([^)]*(?:\([^)]*\)[^)]*)*\)", "".join(blocks(page, "python"))):
        assert "overwrite=True" in call, call


RECORDED = sorted(path.stem for path in (DOCS / "tutorials").glob("*.md"))


def test_every_tutorial_has_a_page():
    assert [path.stem for path in sorted((ROOT / "tutorials").glob("*.ipynb"))] == RECORDED


@pytest.mark.parametrize("stem", RECORDED)
def test_pages_of_tutorials_have_their_code_and_pictures(stem):
    notebook = ROOT / "tutorials" / f"{stem}.ipynb"
    page = DOCS / "tutorials" / f"{notebook.stem}.md"
    text = page.read_text(encoding="utf-8")
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        shown = source if cell["cell_type"] == "code" else source.replace("](../docs/", "](../").partition("\n")[2]
        assert shown.strip() in text, f"run docs/recordings/tutorial_pages.py {name(notebook)}"
    seconds = re.match(r"# .*\n\n\*Run in (\d+) processor seconds", text)
    assert int(seconds[1]) < 300  # as it ran when its page was made
    pictures = re.findall(r"\]\((\S+\.png)\)", text)
    assert pictures
    assert sum((page.parent / picture).stat().st_size for picture in pictures) < 2_000_000
    assert f"tutorials/{notebook.stem}" in (DOCS / "tutorials.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted((DOCS / "howto").glob("*.md")), ids=name)
def test_every_how_to_says_what_it_needs(page):
    if page.stem == "costs":
        return
    first = page.read_text(encoding="utf-8").partition("| needs | how much |")[2].partition("\n\n")[0]
    lines = [line.split("|")[1].strip() for line in first.splitlines() if line.startswith("|")]
    assert any("time" in line for line in lines), page
    assert any("hardware" in line for line in lines), page
    assert {"data", "what to expect"} <= set(lines), page


def test_simpleitk_example_gives_the_warped_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = TraceBench("postop", (64, 64), cases=1)[0]
    trace = Trace.build(case["source"], case["target"], case["ddf"], affine=case["source"].affine)
    save_trace(trace, "my_trace")
    names: dict = {}
    exec(blocks(DOCS / "howto" / "read_fields.md", "python")[0], names)
    warped = names["sitk"].GetArrayFromImage(names["warped"])[0].T  # ITK's arrays run (z, y, x)
    inside = trace.covered[0].numpy()
    difference = torch.from_numpy(warped - trace.warped[0].numpy())[inside].abs().max()
    assert float(difference) < 2e-3


@pytest.mark.parametrize("page", [page for page in PAGES if "medtrace " in "".join(blocks(page, "sh"))], ids=name)
def test_commands_take_their_options(page):
    for line in "".join(blocks(page, "sh")).splitlines():
        if line.startswith("medtrace ") and not line.startswith("medtrace -"):
            check_command(line)


@pytest.mark.parametrize("page", PUBLIC, ids=name)
def test_says_nothing_about_one_workplace(page):
    text = page.read_text()
    for pattern in (r"(?<![\w.])/(work|home|root|tmp|mnt)/", r"\bissue #?\d", r"localhost"):
        assert not re.search(pattern, text), pattern


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def table_of(page, heading):
    """Cells of the first table below a heading."""
    text = page.read_text().split(f"# {heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\|\n)+", text, re.M)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_terms_of_reggan_are_those_of_the_objective():
    correction = RegistrationCorrection(RegistrationUNet(2, 1, channels=[4, 8]))
    options = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4}
    backbone = translation_backbone("cyclegan", 2, 1, 1, bidirectional=True, options=options)
    method = TwoDomainMethod(backbone, cycle=CycleConsistency(), correction=correction, pairing=PairedL1())
    weights = {name: weight for phase in method.phases for name, weight in phase.weights.items()}
    told = {}
    for terms, _, weight, _ in table_of(DOCS / "reggan.md", "Terms and weights"):
        number = re.match(r"\d+", weight)
        told |= {name: number and float(number[0]) for name in re.findall(r"`(\w+)`", terms)}
    assert told.keys() == weights.keys()
    for name, weight in told.items():
        if weight is not None:  # the backbone's own terms have their own weights
            assert weight == weights[name], name


def test_hosts_of_reggan_have_the_weights_that_are_told():
    told = {row[0].strip("`"): row for row in table_of(DOCS / "reggan.md", "Backbones")}
    assert told.keys() == BACKBONES.keys()
    for name, (_, _, terms, _) in told.items():
        weights = {term: float(weight) for term, weight in re.findall(r"`(\w+)` (\d[\d.]*)", terms)}
        assert weights == dict(BACKBONES[name].internal_weights), name


def test_results_of_reggan_explain_every_column():
    told = {row[0] for row in table_of(DOCS / "results" / "reggan_misaligned.md", "What is measured")}
    assert set(COLUMNS.values()) == told


def test_results_of_reggan_name_every_study():
    page = (DOCS / "results" / "reggan_misaligned.md").read_text()
    for study in STUDIES["misaligned"]:
        assert f"medtrace bench misaligned --study {study} " in page


@pytest.mark.parametrize("script", sorted((DOCS / "figures").glob("*.py")), ids=name)
def test_figures_are_drawn_by_their_scripts(script, tmp_path, monkeypatch):
    path = tmp_path / f"{script.stem}.png"
    monkeypatch.setattr(sys, "argv", [str(script), str(path)])
    runpy.run_path(str(script), run_name="__main__")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < path.stat().st_size < 300_000


@pytest.mark.slow
def test_the_moving_picture_is_recorded_from_a_page(tmp_path):
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip(f"needs a browser on the path, one of {', '.join(BROWSERS)}")
    path = tmp_path / "page.webp"
    command = [sys.executable, str(DOCS / "recordings" / "page_in_motion.py"), str(path), "--size", "40"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    with Image.open(path) as image:
        assert image.n_frames >= 8
    assert path.stat().st_size < 300_000
