"""Output of commands: groups and examples in help, a quiet line, a log file, JSON, completion, suggestions."""

import json
import logging
import re
import shlex
import sys
import warnings
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from medtrace.checks import check_choice
from medtrace.cli import app, choices
from medtrace.cli.errors import one_line_errors
from medtrace.cli.help import EXAMPLES, GROUPS
from medtrace.cli.output import ask, bars, give, note, output_of, tell
from medtrace.engines.runs import default_device
from medtrace.evaluation.bench import SETTINGS, STUDIES
from medtrace.evaluation.intensity.interval import UNITS
from medtrace.guard.configurations import check_code
from medtrace.methods import method_names
from medtrace.methods.registry import recipe_names
from medtrace.registration.deformable import SIMILARITIES

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands


def run(*arguments, **environment):
    return CliRunner(env={"COLUMNS": "100", **environment}).invoke(app, [str(one) for one in arguments])


def test_help_has_every_command_in_one_group_with_its_whole_description():
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(COMMANDS)
    text = run("--help").output
    assert "..." not in text.replace("COMMAND [ARGS]...", "")
    assert " ".join(COMMANDS["register"].help.split()) in " ".join(text.split())
    headings = re.findall(r"^(\S.*):$", text, re.M)
    assert headings == ["Options", *GROUPS]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_examples_are_command_lines_and_stand_in_help(command):
    shown = run(command, "--help").output
    assert EXAMPLES[command]
    for _, line in EXAMPLES[command]:
        assert f"medtrace {line}\n" in shown
        name, *words = shlex.split(line)
        assert name == command
        COMMANDS[command].make_context(command, words)  # parses, and runs nothing


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_the_options_of_output(command):
    output = run(command, "--help").output.split("Output:")[1]
    assert [name for name in ("--quiet", "--verbose", "--log-file", "--json") if name not in output] == []


def test_they_may_come_before_the_command(tmp_path):
    log = tmp_path / "log.txt"
    assert json.loads(run("--json", "--log-file", log, "methods").stdout)["command"] == "methods"
    assert log.is_file()
    joined = tmp_path / "joined.txt"
    assert run("-q", f"--log-file={joined}", "methods").exit_code == 0
    assert joined.is_file()
    for wrong in (["--quiet"], ["--quiet", "nothing"], ["--full", "bench"], ["--log-file"]):
        result = run(*wrong)
        assert result.exit_code == 2
        assert "No such option" in result.output


def test_json_is_all_that_stdout_has_and_says_how_it_ended(tmp_path):
    done = run("certify", tmp_path / "none", "--json")
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert (told["command"], told["exit_code"], done.exit_code) == ("certify", 1, 1)
    assert told["error"] in done.stderr
    listed = json.loads(run("methods", "--json").stdout)
    assert [row["method"] for row in listed["result"]["methods"]] == list(method_names())
    assert listed["error"] is None


def test_numbers_that_json_has_not_are_null(capsys, tmp_path):
    with output_of("some", False, False, None, True):
        tell("a line")
        note("medtrace: beside")
        give({"loss": float("nan"), "rows": [{"a": float("inf"), "b": 1.5}], "path": tmp_path})
    told = json.loads(capsys.readouterr().out)
    assert told["lines"] == ["a line"]
    assert told["notes"] == ["beside"]
    assert told["result"] == {"loss": None, "rows": [{"a": None, "b": 1.5}], "path": str(tmp_path)}


def test_quiet_keeps_results_and_errors(capsys):
    with output_of("some", True, False, None, False):
        tell("result")
        note("medtrace: beside")
        print("50%|#####     | a bar", file=sys.stderr)
        note("medtrace: error: broken", error=True)
        assert not bars()
    captured = capsys.readouterr()
    assert captured.out == "result\n"
    assert captured.err == "medtrace: error: broken\n"


def test_a_log_file_has_lines_with_time_and_no_bars(capsys, tmp_path):
    path = tmp_path / "log.txt"
    with output_of("some", False, False, path, False):
        tell("result")
        note("medtrace: beside")
        sys.stderr.write("\r 50%|#####     | 1/2\r          \repoch 1/2  loss 0.5\n\r100%|##########| 2/2\n")
        logging.getLogger("medtrace.training").warning("a loss is not finite")
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (INFO|WARNING)", line) for line in lines)
    assert [line.split(maxsplit=3)[3] for line in lines[1:]] == [
        "result",
        "medtrace: beside",
        "epoch 1/2  loss 0.5",
        "a loss is not finite",
    ]
    assert capsys.readouterr().out == "result\n"
    done = run("methods", "--log-file", tmp_path / "none" / "log.txt")
    assert done.exit_code == 1
    assert "--log-file: " in done.stderr


def test_libraries_report_with_verbose_only(capsys):
    for verbose in (False, True):
        with output_of("some", False, verbose, None, False):
            logging.getLogger("another.library").info("details")
        assert ("another.library: details" in capsys.readouterr().err) is verbose


def test_readers_of_gpus_that_are_not_there_are_not_reported(capsys):
    from monai.data import NvImgCodecPydicomReader

    with one_line_errors(), warnings.catch_warnings():
        NvImgCodecPydicomReader()
    assert capsys.readouterr().err == ""


def test_choices_are_those_of_the_library():
    folder = Path(choices.__file__).resolve().parents[1] / "methods"
    assert set(choices.methods("")) == {name for name in method_names() if (folder / name).is_dir()}
    assert choices.UNITS == UNITS
    assert choices.SIMILARITIES[0] == "auto"
    assert set(choices.SIMILARITIES[1:]) == set(SIMILARITIES)
    assert set(choices.SETTINGS) == set(SETTINGS)
    assert (*STUDIES, "real") == choices.TASKS
    assert set(choices.PAPERS) == set(recipe_names())


def test_shells_complete_methods_and_choices():
    done = run("train", _MEDTRACE_COMPLETE="complete_bash", COMP_WORDS="medtrace train trac", COMP_CWORD="2")
    assert done.output.split() == ["tracetrans", "tracetrans_composed"]
    words = "medtrace register a b --align ri"
    done = run("register", _MEDTRACE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="5")
    assert done.output.split() == ["rigid"]


def test_the_nearest_choice_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'coronal'"):
        check_choice("axis", "corronal", choices.AXES)
    with pytest.raises(ValueError, match=r"device: expected one of cpu.*did you mean cuda"):
        default_device("cdua")
    with pytest.raises(ValueError, match="which torch does not see"):
        default_device(f"cuda:{torch.cuda.device_count()}")


def test_json_has_the_code_of_every_end(capsys):
    for error, code in ((typer.Abort(), 1), (RuntimeError("broken"), 1), (SystemExit(4), 4), (typer.Exit(3), 3)):
        with pytest.raises(type(error)), output_of("some", False, False, None, True):
            raise error
        result = json.loads(capsys.readouterr().out)
        assert result["exit_code"] == code
        assert (result["error"] is None) is isinstance(error, typer.Exit)


def test_json_is_ascii(capsys):
    with output_of("some", False, False, None, True):
        tell("müller \udcff")
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text)["lines"] == ["müller \udcff"]


@pytest.mark.parametrize("place", [".", "none/log.txt", "~no_such_user/log.txt"])
def test_a_log_that_has_no_place_ends_in_one_line_and_json(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("methods", "--json", f"--log-file={place}")
    assert done.exit_code == 1
    assert done.stderr.startswith("medtrace: error: --log-file: ")
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["exit_code"] == 1


def test_warnings_of_libraries_stay_on_the_terminal_beside_a_log_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    for quiet in (False, True):
        with output_of("some", quiet, False, tmp_path / "log.txt", False):
            logging.getLogger("another.library").warning("look out")
            logging.getLogger("another.library").info("details")
        assert capsys.readouterr().err == ("" if quiet else "look out\n")
    assert (tmp_path / "log.txt").read_text().count("look out") == 2


def test_lines_that_are_redrawn_take_no_room_and_end_as_those_of_windows(tmp_path):
    path = tmp_path / "log.txt"
    with output_of("some", False, False, path, False):
        for number in range(1000):
            sys.stderr.write(f"\rread {number}")
        assert len(sys.stderr.part) < 20
        sys.stderr.write("\r\n")
        sys.stderr.write("a line\r")
        sys.stderr.write("\nanother\r\n")
    lines = [line.split(maxsplit=3)[3] for line in path.read_text().splitlines()[1:]]
    assert lines == ["read 999", "a line", "another"]


def test_quiet_shows_a_question_and_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda question, err: bool(print(question, file=sys.stderr)) or err)
    monkeypatch.setenv("MEDTRACE_DEBUG", "1")
    with output_of("some", True, False, None, False):
        assert ask("Remove 1 run?")
        with pytest.raises(typer.Exit), one_line_errors():
            raise ValueError("broken")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Remove 1 run?\nTraceback")
    assert captured.err.endswith("medtrace: error: broken\n")


def test_quiet_shows_the_code_that_will_run(capsys):
    with output_of("some", True, False, None, False):
        check_code({"settings": {"alpha": "$0.25 + 0.25"}}, "train.yaml", allow=True)
    assert "\nmedtrace:   settings#alpha: $0.25 + 0.25\n" in capsys.readouterr().err
