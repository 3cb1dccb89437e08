"""medtrace doctor: what it finds is what there is, and nothing is written."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from medtrace import __version__
from medtrace.cli import main
from medtrace.kernels import paths, use
from medtrace.workflows import doctor as module
from medtrace.workflows.doctor import Finding, doctor, report


def named(findings):
    return {finding.name: finding for finding in findings}


def test_command_prints_every_section_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert __version__ in out
    for title in ("devices", "threads", "hot operations", "packages", "optional extras"):
        assert f"\n{title}\n" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_of_a_command_soon_sleep_unless_told_otherwise(chosen, capsys, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is afterwards as it is now
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    if chosen:
        with pytest.raises(SystemExit) as caught:
            main(["doctor"])
        assert caught.value.code == 0
        told = capsys.readouterr().out
    else:
        command = [sys.executable, "-m", "medtrace", "doctor"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) +(\w+)$", told, re.MULTILINE))
    assert found == (chosen or {"GOMP_SPINCOUNT": "2000"})


def test_threads_and_versions_are_those_of_this_process():
    result = doctor()
    assert named(result["threads"])["torch"].value.startswith(f"{torch.get_num_threads()} ")
    assert named(result["packages"])["torch"].value == importlib.metadata.version("torch")
    assert named(result["medtrace"])["medtrace"].value == __version__


def test_operations_follow_the_choice():
    with use("auto"):
        result = named(doctor()["hot operations"])
        expected = paths()
    assert {name: finding.value for name, finding in result.items() if name != "choice"} == expected
    assert len(expected) >= 3
    with use("torch"):
        result = named(doctor()["hot operations"])
    assert result.pop("choice").value.startswith("torch")
    assert {finding.value for finding in result.values()} == {"torch"}


def test_choice_names_its_variable(monkeypatch):
    monkeypatch.setenv("MEDTRACE_KERNELS", "torch")
    with use("torch"):
        assert "by MEDTRACE_KERNELS" in named(doctor()["hot operations"])["choice"].value


def test_choice_says_that_the_compiler_is_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else real(name))
    assert "numba is not installed" in named(doctor()["hot operations"])["choice"].value


def test_absent_package_and_extra_are_marked(monkeypatch):
    lines = [
        "torch>=2", 'nothing-of-the-kind>=1; extra == "wishes"', 'numpy>=1; extra == "present"',
        'pytest; extra == "test"', 'medtrace[wishes]; extra == "all"',
    ]  # fmt: skip
    monkeypatch.setattr(module, "requires", lambda _: lines)
    monkeypatch.setattr(module, "PACKAGES", ("numpy", "nothing-of-the-kind"))
    result = doctor()
    assert named(result["packages"])["nothing-of-the-kind"] == Finding("nothing-of-the-kind", "not installed", True)
    extras = named(result["optional extras"])
    assert set(extras) == {"wishes", "present"}
    assert extras["wishes"].missing
    assert "pip install 'medtrace[wishes]'" in extras["wishes"].value
    assert extras["present"].value == f"present: numpy {importlib.metadata.version('numpy')}"


def test_extras_of_a_plain_source_tree(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module, "requires", absent)
    assert doctor()["optional extras"][0].missing


def test_device_without_cuda_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "no usable GPU" in named(doctor()["devices"])["cuda"].value
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA" in named(doctor()["devices"])["cuda"].value


def test_gpus_are_listed_by_name_and_memory(monkeypatch):
    class Properties:
        name = "Example GPU"
        total_memory = 24 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    result = named(doctor()["devices"])
    assert result["cuda:1"].value.startswith("Example GPU, 24 GiB")


def test_report_aligns_values_and_marks_what_is_missing():
    text = report({"one": [Finding("a", "1"), Finding("long name", "2", missing=True)], "two": [Finding("b", "3")]})
    lines = text.splitlines()
    assert lines[0] == "one"
    assert lines[2].startswith("  - long name")
    assert {line.index(value) for line, value in zip((lines[1], lines[2], lines[5]), "123")} == {15}
    assert lines[-1].startswith("- marks")
    assert "- marks" not in report({"one": [Finding("a", "1")]})


def test_hot_operations_are_compiled_in_advance(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--compile", "--json"])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["result"]["compile_seconds"] > 0


@pytest.mark.slow
def test_what_was_compiled_in_advance_is_not_compiled_again(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "medtrace", "doctor", "--compile", "--quiet"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    kept = sorted(tmp_path.rglob("*.nbc"))
    assert len(kept) >= 50
    times = [file.stat().st_mtime_ns for file in kept]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert sorted(tmp_path.rglob("*.nbc")) == kept
    assert [file.stat().st_mtime_ns for file in kept] == times
