"""Outputs arrive, wherever `--out` leads: every place of tests/cases/outputs.py."""

import argparse
import os
import re
import subprocess
from contextlib import contextmanager

import pytest

from medtrace.cli import main
from medtrace.storage.places import is_mount_point
from tests.cases import outputs
from tests.cases.common import CASES, write
from tests.output_helpers import can_mount, hidden

PLACES = CASES[outputs.__name__]
NOBODY = 65534


@contextmanager
def as_nobody(folder):
    """Root may write anywhere: be another user for a while."""
    if os.geteuid() != 0:
        yield
        return
    for above in [folder, *folder.parents]:
        if above.stat().st_mode & 0o5 != 0o5:
            above.chmod(above.stat().st_mode | 0o55)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def run(capfd, arguments):
    """Run a command; exit code, stdout, lines of stderr."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    return caught.value.code or 0, captured.out, captured.err.splitlines()


def holds(folder, statement):
    """Whether a statement of a case about its files is true."""
    patterns = {
        r"(.+) does not exist": lambda path: not os.path.lexists(path),
        r"(.+) exists": lambda path: path.exists(),
        r"(.+) is a symbolic link": lambda path: path.is_symlink(),
        r"(.+) is a mount point": is_mount_point,
        r"(.+) does not hold '(.+)'": lambda path, text: text not in path.read_text(encoding="utf-8"),
        r"(.+) holds '(.+)'": lambda path, text: text in path.read_text(encoding="utf-8"),
    }
    for pattern, check in patterns.items():
        if result := re.fullmatch(pattern, statement):
            return check(folder / result[1], *result.groups()[1:])
    raise AssertionError(f"a statement of no known form: {statement}")


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """A case written into a folder, which is the working folder."""
    mounts = "mount" in request.param
    if mounts and not can_mount():
        pytest.skip("needs the right to mount")
    folder = tmp_path / "case"
    expected = write(PLACES[request.param], folder, argparse.Namespace(mount=mounts))
    monkeypatch.chdir(folder)
    for name, value in expected.get("environment", {}).items():
        monkeypatch.setenv(name, str(folder / value))
    yield folder, expected
    if mounts:
        subprocess.run(["umount", str(folder / "out")], check=True)
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_the_output_arrives_or_is_refused_at_once(place, capfd, monkeypatch):
    folder, expected = place
    before = [path for path in hidden(folder) if ".medtrace-" not in path or "precious" in str(expected["after"])]
    refused = expected["accept"] == ["refuse"] or expected["case"] == "dangling_link"
    if refused and "broken" not in expected["situation"] and "cannot be read" not in expected["situation"]:
        import medtrace.workflows.registration.trained as module

        monkeypatch.setattr(module, "intensity_maps", lambda *_: pytest.fail("refused after the work has begun"))
    with as_nobody(folder) if expected.get("as_user") else os_as_it_is():
        code, out, lines = run(capfd, expected["command"])
    assert code in ((1,) if refused else (0, 3)), lines  # 3: one step on noise is not a registration to believe
    assert [statement for statement in expected["after"] if not holds(folder, statement)] == (
        ["missing/trace.json exists"] if expected["case"] == "dangling_link" else []
    )
    assert hidden(folder) == before
    if refused:
        assert len(lines) == 1
        assert expected.get("message", "out: is ") in lines[0]
        assert out == ""


@contextmanager
def os_as_it_is():
    yield
