"""What people work with: the workflow file, pre-commit's hooks, spelling, make's targets, templates."""

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.lowest_versions import lowest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def run(*command):
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def tool(name):
    result = shutil.which(name, path=str(BIN)) or shutil.which(name)
    assert result, f"{name}: not installed; pip install -e '.[test]'"
    return result


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def test_workflow_files_follow_their_schema():
    code, said = run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", WORKFLOW)
    assert code == 0, said


def test_a_workflow_that_is_wrong_is_noticed(tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOW.read_text(encoding="utf-8").replace("runs-on:", "runs_on:"))
    assert run(tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", wrong)[0] == 1


def test_the_workflow_runs_what_setup_promises(workflow):
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    said = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert matrix["python"] == said
    assert SETUP["options"]["python_requires"] == f">={said[0]}"
    assert {"python": said[0], "dependencies": "oldest"} in matrix["include"]


def test_make_has_the_targets_that_others_name(workflow):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    steps = " ".join(step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") + steps))
    assert {"test", "coverage", "docs"} <= named | {"coverage"}
    assert named <= targets


def test_every_requirement_has_a_lowest_version():
    required = [line.strip() for line in SETUP["options"]["install_requires"].splitlines() if line.strip()]
    result = lowest((ROOT / "setup.cfg").read_text(encoding="utf-8"))
    assert len(result) == len(required)
    for line, constraint in zip(required, result):
        name, version = constraint.split("==")
        assert line.startswith(f"{name}>={version}")


def test_spelling():
    said = run(tool("codespell"), "medtrace", "tests", "docs", *sorted(path.name for path in ROOT.glob("*.md")))[1]
    assert said == ""


def test_spelling_errors_are_noticed(tmp_path):
    (tmp_path / "page.md").write_text("T" + "eh image is re" + "cieved.\n")
    assert run(tool("codespell"), tmp_path / "page.md")[0] != 0


def test_hooks_use_what_the_test_extra_installs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    extra = {re.match(r"[\w-]+", line.strip())[0] for line in SETUP["options.extras_require"]["test"].split() if line}
    for repo in config["repos"]:
        assert repo["repo"] == "local"  # nothing is fetched
        for hook in repo["hooks"]:
            assert hook["language"] == "system"
            assert hook["entry"].split()[0] in extra


def test_coverage_has_a_floor():
    report = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["coverage"]["report"]
    assert 40 <= report["fail_under"] < 100


@pytest.mark.parametrize("name", ["bug", "method"])
def test_issue_templates_have_what_the_hosts_ask_for(name):
    text = (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---")[1])
    assert {"name", "about"} <= head.keys()
