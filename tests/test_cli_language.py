"""The command line speaks of options: every parameter of every function behind a command has one."""

import ast
import inspect
import textwrap
import warnings

import pytest
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.cli.errors import one_line_errors
from medtrace.cli.language import ALIASES, in_options, words_of
from medtrace.guard.notices import caution, notify

COMMANDS = {command.name: inspect.unwrap(command.callback) for command in app.registered_commands}
SAID_OTHERWISE = {"progress", "say", "crop"}
"""What no option sets by that name: bars, a function, and a value made of two options."""


def handed_over(function):
    """Name of a library function's parameter → name of the command's that is handed to it."""
    own = set(inspect.signature(function).parameters)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        for keyword in call.keywords:
            names = {node.id for node in ast.walk(keyword.value) if isinstance(node, ast.Name)} & own
            if keyword.arg and len(names) == 1:
                found[keyword.arg] = names.pop()
    return found


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_parameter_that_a_command_hands_over_has_its_word(command):
    function = COMMANDS[command]
    words = words_of(command, function)
    for own, parameter in handed_over(function).items():
        if own not in {"err", "columns", "fg", "nl"} | SAID_OTHERWISE:
            assert words.get(own) == words[parameter], f"{own} is {parameter}: add it to ALIASES[{command!r}]"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_message_keeps_the_librarys_words(command):
    """Every option of every command, by the name that the library gives it, in each form in which messages have it."""
    function = COMMANDS[command]
    helped = CliRunner().invoke(app, [command, "--help"], terminal_width=400).output
    for name, word in words_of(command, function).items():
        assert word.text in helped
        assert in_options(f"{name}: expected one, received none", {name: word}) == (
            f"{word.text}: expected one, received none"
        )
        told = in_options(f"cannot be; give {name}=True, or {name}='x'", {name: word})
        assert f"{name}=" not in told
        assert word.text in told
        if word.flag and word.negative:
            assert word.negative in helped
            assert in_options(f"give {name}=False", {name: word}) == f"give {word.negative}"


def test_aliases_name_commands_and_their_parameters():
    for command, names in ALIASES.items():
        assert set(names.values()) <= set(inspect.signature(COMMANDS[command]).parameters), command


def test_paths_settings_and_prose_are_left_alone():
    words = words_of("translate", COMMANDS["translate"])
    for text in (
        "/data/mask=1/image=2.nii: no such file",
        "training.batch_size: expected at least 1, received 0",
        "the image and its mask are on two grids",
        "C:\\batch_size\\x.nii: is constant",
    ):
        assert in_options(text, words) == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "tracetrans", "--smok"], "--smoke"),
        (["trian"], "train"),
        (["prepare", "x", "--out", "y", "--dims", "four"], "'--dims'"),
        (["evaluate", "run"], "DATASET"),
        (["--debgu", "methods"], "--debug"),
    ],
)
def test_what_cannot_be_parsed_is_told_in_one_line_with_the_nearest(arguments, words):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("medtrace: error: ")
    assert words.lower() in line.lower()


def test_warnings_of_the_library_are_told_in_a_line_each_and_others_are_not(capsys):
    with one_line_errors():
        warnings.warn("of another library", UserWarning, stacklevel=1)
        warnings.warn_explicit("ddf: misses\nby much", UserWarning, inspect.getfile(in_options), 1)
        notify("a.nii", "a decision")
        caution("a.nii", "a doubt")
    assert capsys.readouterr().err.splitlines() == [
        "medtrace: warning: ddf: misses by much",
        "medtrace: note: a.nii: a decision",
        "medtrace: warning: a.nii: a doubt",
    ]


@pytest.mark.parametrize(
    ("arguments", "words", "unwanted"),
    [
        (["prepare", "PAIRS", "--out", "d", "--dims", "3", "--resize", "32"], "--resize: expected --dims 2", "spatial"),
        (["prepare", "PAIRS", "--out", "d", "--split", "0.5", "0.2", "0.2"], "--split: expected", "fractions:"),
        (["prepare", "PAIRS", "--out", "d", "--axis", "axail"], "--axis: expected", "\naxis"),
        (["train", "tracetrans", "--smoke", "--preset", "papre"], "did you mean", "presets="),
        (["train", "tracetran", "--smoke"], "tracetrans", "name="),
        (["bench", "postop", "--study", "rivls"], "--study", "\nstudy"),
        (["bench", "posttop"], "postop", "task="),
        (["export", "TRACE", "--format", "itkk", "--out", "d"], "--format", "format="),
    ],
)
def test_what_is_wrong_is_told_in_one_line_of_the_command_lines_words(
    tmp_path, monkeypatch, arguments, words, unwanted
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "b.nii.gz").touch()
    (tmp_path / "PAIRS").mkdir()
    (tmp_path / "pairs.csv").write_text("subject,source,target\nS,a.nii.gz,b.nii.gz\nT,b.nii.gz,a.nii.gz\n")
    arguments = ["pairs.csv" if text == "PAIRS" else text for text in arguments]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    assert words in line
    assert unwanted not in f"\n{line.removeprefix('medtrace: error: ')}"
