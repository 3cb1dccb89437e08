"""The README's example runs, its commands exist and its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import medtrace
from medtrace.cli import app
from medtrace.io import load_trace

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.S | re.M)


def test_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    assert sum(1 for line in code.splitlines() if line and not line.startswith("from")) <= 10
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    # An untrained network deforms nothing, so the point stays.
    assert "[[ 20., -30.,  10.]]" in printed.replace("tensor(", "")
    assert "explained_fraction" in printed
    saved = load_trace(tmp_path / "my_trace")
    assert (saved.affine == names["trace"].affine).all()
    assert saved.image.allclose(names["trace"].image)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M))
    assert {"demo", "test", "docs"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def check_command(line):
    """A documented command exists and knows the options that are shown with it."""
    words = shlex.split(line, comments=True)[1:]
    help_text = CliRunner(env={"COLUMNS": "200"}).invoke(app, [words[0], "--help"])
    assert help_text.exit_code == 0, line
    for option in (word for word in words if word.startswith("--")):
        assert option in help_text.output, line


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.splitlines() if line.startswith("medtrace")]
)
def test_commands_take_their_options(line):
    check_command(line)


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert len(targets) >= 5
    for target in targets:
        assert (ROOT / target.split("#")[0]).exists(), target


def test_image_is_small_and_its_command_exists():
    image = ROOT / re.search(r"!\[[^]]*\]\(([^)]+)\)", README)[1]
    assert image.stat().st_size < 300_000
    script = re.search(r"python (docs/(?:figures|recordings)/\w+\.py)", README)[1]
    assert (ROOT / script).is_file()


def test_says_what_must_be_said():
    assert "Not for clinical use" in README
    assert "Apache-2.0" in README
    for method in ("TraceTrans", "RegGAN", "MetaRegNet", "Plasticine"):
        assert method in README


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == medtrace.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["title"]
    assert citation["message"]
    assert citation["authors"]


def test_changelog_names_this_version():
    assert medtrace.__version__ in (ROOT / "CHANGELOG.md").read_text()
