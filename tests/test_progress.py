"""Long work says what it is about to do, and without a bar how far it is."""

import time

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


def waited_for(lines, seconds=5.0):
    """Lines that another thread says, once there are any."""
    end = time.monotonic() + seconds
    while not lines and time.monotonic() < end:
        time.sleep(0.01)
    return lines


def test_without_a_bar_long_work_is_announced_and_short_work_is_not(monkeypatch):
    monkeypatch.setattr(progress, "LONG", 0.05)
    lines = []
    with listening(lines.append, steps=True):
        announce("registering", takes="about 2 min", memory=2**31, room=2**29, disk=2**32, out="trace")
        (line,) = waited_for(lines)
    assert line.startswith("registering; about 2 min, at most 2 GiB of memory, ")
    assert line.endswith("at most 0.5 GiB of disk, 4.0 GiB of disk free for trace")
    monkeypatch.setattr(progress, "LONG", 60.0)
    with listening(lines.append, steps=True):
        announce("registering again")
        waiting = progress._listener.get().timer
    assert not waited_for(lines[1:], 0.2)
    waiting.join(5.0)  # cancelled, not left to fire
    assert not waiting.is_alive()
