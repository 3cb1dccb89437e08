"""The command line: answers at once, hands its arguments over, and says what is wrong in one line."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from medtrace import __version__
from medtrace.cli import app, describe, main, parse_settings

COMMANDS = (
    "prepare",
    "plan",
    "train",
    "methods",
    "bundle",
    "evaluate",
    "traceability",
    "bench",
    "reproduce",
    "translate",
    "report",
    "certify",
    "calibrate",
    "register",
    "apply",
    "convert",
    "trace",
    "landmarks",
    "export",
    "import",
    "dicom",
    "bids",
    "slicer-modules",
    "export-model",
    "card",
    "runs",
    "doctor",
    "demo",
)


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_help_answers_within_a_second_without_torch():
    code = (
        "import sys\n"
        "from medtrace.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print('HEAVY', sorted({'torch', 'monai', 'numpy', 'nibabel', 'itk'} & set(sys.modules)))\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert all(command in done.stdout for command in COMMANDS)
    # processor time, which a busy machine does not stretch as it does the wall clock
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "medtrace", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"medtrace {__version__}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Usage: medtrace" in out


def test_wrong_usage_exits_with_2(capsys):
    assert run(capsys, "prepare")[0] == 2
    assert run(capsys, "nonsense")[0] == 2
    assert run(capsys, "prepare", "x", "--out", "y", "--dims", "4")[0] == 2


@pytest.fixture
def calls(monkeypatch):
    """Record what commands hand to a workflow."""
    received = {}

    def record(name, result=None):
        def call(*args, **kwargs):
            received[name] = (args, kwargs)
            return result

        return call

    def patch(name, result=None):
        __import__(f"medtrace.workflows.{name}")
        monkeypatch.setattr(sys.modules[f"medtrace.workflows.{name}"], name, record(name, result))
        return received

    return patch


def test_train_hands_settings_over(capsys, calls):
    received = calls("train")
    code, _, err = run(
        capsys, "train", "tracetrans", "data", "--out", "r", "--set", "alpha=0.75", "--set", "training.amp=true",
        "--set", "channels=[4, 8]", "--set", "optimizer.learning_rate=1e-3", "--resume", "--device", "cpu",
    )  # fmt: skip
    assert (code, err) == (0, "")
    args, kwargs = received["train"]
    assert args == ("tracetrans", Path("data"))
    assert kwargs["settings"] == {
        "alpha": 0.75, "training.amp": True, "channels": [4, 8], "optimizer.learning_rate": 1e-3,
    }  # fmt: skip
    assert (kwargs["out"], kwargs["resume"], kwargs["presets"], kwargs["device"]) == (Path("r"), True, [], "cpu")


def test_train_has_a_folder_per_method_by_default(capsys, calls):
    received = calls("train")
    assert run(capsys, "train", "tracetrans", "--tracebench")[0] == 0
    args, kwargs = received["train"]
    assert args == ("tracetrans", None)
    assert kwargs["out"] == Path("runs/tracetrans")
    assert kwargs["presets"] == ["tracebench"]


def test_train_hands_presets_over_in_order(capsys, calls):
    received = calls("train")
    assert run(capsys, "train", "tracetrans", "data", "--preset", "pix2pix", "--preset", "full")[0] == 0
    assert received["train"][1]["presets"] == ["pix2pix", "full"]
    assert run(capsys, "train", "tracetrans", "--smoke", "--preset", "full")[0] == 0
    assert received["train"][1]["presets"] == ["tracebench", "full", "smoke"]


def test_prepare_gives_no_shares_unless_told(capsys, calls):
    from medtrace.workflows.prepare import PreparationSummary

    received = calls("prepare", PreparationSummary(Path("d"), {"training": 2, "test": 1}, [], "list"))
    _, out, _ = run(capsys, "prepare", "pairs.csv", "--out", "d")
    assert received["prepare"][1]["fractions"] is None
    assert out == "d: 2 training, 1 test (split from the list)\n"


def test_translate_and_prepare_hand_their_settings_over(capsys, calls):
    from medtrace.workflows.prepare import PreparationSummary

    received = calls("translate")
    code, out, _ = run(capsys, "translate", "r", "scan.nii.gz", "--out", "o", "--batch-size", "3", "--overwrite")
    assert (code, out) == (0, "trace written to o\npage written to o.html\n")
    args, kwargs = received["translate"]
    assert args == (Path("r"), Path("scan.nii.gz"), Path("o"))
    assert (kwargs["batch_size"], kwargs["overwrite"], kwargs["mask"], kwargs["contrast"]) == (3, True, None, None)

    received = calls("prepare", PreparationSummary(Path("d"), {"training": 22, "test": 11}, ["case S9: broken"]))
    code, out, err = run(
        capsys, "prepare", "brats", "--out", "d", "--select", "t1", "--select", "t2", "--crop", "96", "80", "64",
        "--split", "0.6", "0.1", "0.3", "--no-align", "--skip-failed",
    )  # fmt: skip
    assert code == 0
    assert out == "d: 22 training, 11 test\n"
    assert err == "medtrace: skipped case S9: broken\n"
    args, kwargs = received["prepare"]
    assert args == (Path("brats"), Path("d"))
    assert kwargs["select"] == ("t1", "t2")
    assert kwargs["crop"] == (96, 80, 64)
    assert kwargs["fractions"] == (0.6, 0.1, 0.3)
    assert (kwargs["align"], kwargs["standardize"], kwargs["skip_failed"]) == (False, True, True)


def test_prepare_crops_as_the_paper_unless_told_not_to(capsys, calls):
    from medtrace.workflows.prepare import PreparationSummary

    received = calls("prepare", PreparationSummary(Path("d"), {}, []))
    run(capsys, "prepare", "x", "--out", "d")
    assert received["prepare"][1]["crop"] == (192, 192, 128)
    run(capsys, "prepare", "x", "--out", "d", "--no-crop")
    assert received["prepare"][1]["crop"] is None


def test_a_setting_without_value_is_refused_in_one_line(capsys):
    code, out, err = run(capsys, "train", "tracetrans", "--set", "alpha")
    assert (code, out) == (2, "")
    assert err == "medtrace: error: --set: expected KEY=VALUE such as alpha=0.75, received 'alpha'\n"


def test_settings_keep_their_kind():
    parsed = parse_settings(["a=1", "b=1e-4", "c=x y", "d=[1, 2]", "e=false", "f=null", "g.h=$@a + 1"])
    assert parsed == {"a": 1, "b": 1e-4, "c": "x y", "d": [1, 2], "e": False, "f": None, "g.h": "$@a + 1"}
    assert isinstance(parsed["a"], int)
    with pytest.raises(ValueError, match="expected a YAML value"):
        parse_settings(["a=[1,"])


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_traceback_only_when_asked_for(capsys, monkeypatch, debug):
    monkeypatch.delenv("MEDTRACE_DEBUG", raising=False)
    code, _, err = run(capsys, *debug, "translate", "norun", "gone.nii.gz", "--out", "o")
    monkeypatch.delenv("MEDTRACE_DEBUG", raising=False)
    assert code == 1
    assert ("Traceback" in err) == bool(debug)
    assert err.splitlines()[-1] == "medtrace: error: gone.nii.gz: no such file or folder; check the path"


def test_errors_in_one_line():
    assert describe(ValueError("two\n  lines")) == "two lines"
    assert describe(PermissionError(13, "Permission denied", "/x")) == "/x: Permission denied"
    assert describe(RuntimeError("odd")) == "RuntimeError: odd; `medtrace --debug` shows where"
    wrapped = RuntimeError("Failed to instantiate")
    wrapped.__cause__ = RuntimeError("again")
    wrapped.__cause__.__cause__ = ValueError("alpha: expected a fraction")
    assert describe(wrapped) == "alpha: expected a fraction"
    outer = ValueError("case A: file is broken")
    outer.__cause__ = OSError("deep")
    assert describe(outer) == "case A: file is broken"
    assert describe(ValueError("")) == "ValueError: ; `medtrace --debug` shows where"


def test_interruption_is_no_error(capsys, monkeypatch):
    import medtrace.workflows.train as module

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", stop)
    code, _, err = run(capsys, "train", "tracetrans", "--tracebench")
    assert (code, err) == (130, "medtrace: interrupted\n")


def test_app_registers_every_command():
    assert tuple(command.name for command in app.registered_commands) == COMMANDS


def test_translating_several_images_keeps_no_metadata(capsys, tmp_path):
    code, _, err = run(capsys, "translate", "run", "a.nii", "b.nii", "--out", tmp_path / "out", "--keep-metadata")
    assert code == 1
    assert "--keep-metadata: expected with one image, received several; translate it alone" in err
    assert not (tmp_path / "out").exists()
