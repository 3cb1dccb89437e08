"""`medtrace demo`: shipped weights and scans are whole and small, and do what the page says."""

import importlib.util
import json
import os
import subprocess
import sys
import webbrowser
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.engines.runs import load_method, read_run
from medtrace.io.digest import sha256
from medtrace.workflows import demo as module
from medtrace.workflows.demo import REGISTRAR, SHIPPED, TRANSLATOR, demo, show

MODELS = (TRANSLATOR, REGISTRAR)


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_shipped_weights_are_those_of_their_card(folder):
    record = json.loads((folder / "config.json").read_text())
    assert record["weights_sha256"] == sha256(folder / "model.safetensors")
    assert read_run(folder).method == folder.name
    assert load_method(folder, "cpu").name == folder.name
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "| test | " in card  # it was measured
    assert f"medtrace train {folder.name} --tracebench" in card


def test_shipped_files_are_small_and_travel_in_packages():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    root = Path(module.__file__).parents[2]
    manifest = (root / "MANIFEST.in").read_text()
    assert "pretrained/**/*" in (root / "setup.cfg").read_text()
    endings = {"".join(path.suffixes) if path.name.endswith(".nii.gz") else path.suffix for path in files}
    assert all(f"*{ending}" in manifest for ending in endings)


@pytest.mark.skipif(importlib.util.find_spec("nilearn") is None, reason="needs nilearn, which has the template")
def test_shipped_scans_are_those_of_tracebench():
    from medtrace.data import TraceBench, read_image
    from tests.pretrained import units

    case = TraceBench("postop", (96, 96), cases=1, split="test")[0]
    for name, role in (("before", "source"), ("after", "target")):
        shipped = read_image(SHIPPED / "scans" / "surgery" / f"{name}.nii.gz")
        np.testing.assert_array_equal(shipped.as_tensor()[0, ..., 0].numpy(), units(case[role]))
        torch.testing.assert_close(shipped.affine, case[role].affine, atol=1e-4, rtol=0)
    with np.load(SHIPPED / "scans" / "surgery" / "truth.npz") as truth:
        np.testing.assert_allclose(truth["ddf"], case["ddf"].numpy(), atol=4e-3)


@pytest.mark.slow
def test_demo_alone_in_a_process_without_network_or_display(tmp_path):
    """As after an installation: in seconds of two cores, far nearer to the truth than doing nothing."""
    code = (
        "import socket, sys\n"
        "def none(*a, **k): raise AssertionError('the network was asked for')\n"
        "socket.socket.connect = none\nsocket.getaddrinfo = none\n"
        "sys.modules['nilearn'] = None\n"
        "from medtrace.cli import main\nmain(['demo', '--out', sys.argv[1]])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"page written to {tmp_path / 'out' / 'page.html'}; open it" in done.stdout
    told = json.loads((tmp_path / "out" / "demo.json").read_text())
    n = told["numbers"]
    assert n["image_error"] < 0.5 * n["image_error_of_the_source"]
    assert n["field_error_mm"] < 0.7 * n["field_error_of_no_field_mm"]
    assert n["registration_error_mm"] < 0.7 * n["registration_error_of_no_field_mm"]
    page = (tmp_path / "out" / "page.html").read_text()
    assert "translation" in page
    assert "registration" in page


def test_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is in use"):
        demo(tmp_path)


def test_command_tells_what_was_made(monkeypatch, tmp_path):
    made = module.Demo(tmp_path / "page.html", tmp_path, tmp_path, {"field_error_mm": 1.0}, "WARN", ("a line",))
    monkeypatch.setattr(module, "demo", lambda out, say: made)  # noqa: ARG005
    monkeypatch.setattr(module, "show", lambda page: page == made.page)
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "x")])
    assert done.stdout.splitlines() == ["a line", f"page written to {made.page}, and opened"]
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "x"), "--no-show"])
    assert done.stdout.splitlines()[-1].endswith("; open it in a browser")


class TestShow:
    def test_asks_no_browser_without_a_display(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sys, "platform", "linux")
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(webbrowser, "open", lambda *_: pytest.fail("asked"))
        assert not show(tmp_path / "page.html")

    def test_opens_the_page_and_never_fails(self, monkeypatch, tmp_path):
        asked = []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(webbrowser, "get", lambda: object())
        monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) or True)
        assert show(tmp_path / "page.html")
        assert asked == [(tmp_path / "page.html").as_uri()]
        monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("lynx"))
        assert not show(tmp_path / "page.html")

        def none():
            raise webbrowser.Error("could not locate runnable browser")

        monkeypatch.setattr(webbrowser, "get", none)
        assert not show(tmp_path / "page.html")
