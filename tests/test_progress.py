"""Long work says what it is about to do, and without a bar how far it is."""

import pytest

from medtrace.cli.output import output_of, told_of_progress
from medtrace.guard import progress
from medtrace.guard.progress import Steps, announce, listening


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_is_that_of_the_steps_so_far(clock):
    lines = []
    with listening(lines.append, steps=True):
        announce("ten cases")  # waits until the work proves long
        assert lines == []
        steps = Steps("translating", 10)
        for seconds in (20, 40, 45, 100):
            clock[0] = seconds
            steps.done()
    assert lines.pop(0).startswith("ten cases")
    assert lines == ["translating: 2 of 10, about 2 min 40 s left", "translating: 4 of 10, about 2 min 30 s left"]


def test_where_a_bar_shows_the_steps_no_line_does(clock):
    lines = []
    with listening(lines.append, steps=False):
        steps = Steps("translating", 10)
        clock[0] = 1000
        steps.done()
        announce("translating: 10 cases", disk=2**31, out="traces")
    (line,) = lines
    assert line.startswith("translating: 10 cases; ")
    assert "2.0 GiB of disk free for traces" in line


def test_nobody_listens_by_default(clock, capsys):
    steps = Steps("translating", 2)
    clock[0] = 1000
    steps.done()
    announce("translating")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("terminal", "quiet", "shown"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_command_line_shows_it_on_a_terminal(capsys, monkeypatch, terminal, quiet, shown):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with output_of("translate", quiet, False, None, False), told_of_progress():
        announce("translating: 10 cases")
    out, err = capsys.readouterr()
    assert out == ""
    assert ("translating: 10 cases" in err) is shown
