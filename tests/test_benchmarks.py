"""The benchmark harness: its arithmetic, its page, and one small run. No test looks at how long anything takes."""

import json
import sys
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.benchmarks import harness, page, runs
from tests.benchmarks.__main__ import main, parse
from tests.benchmarks.harness import Measurement, Settings, measure, peak_memory, quartiles, round_ratios, summarize

QUICK = Settings(quick=True, rounds=2, seconds=0.1)


def group(**changes):
    ours = Measurement("sum", "10", "medtrace", lambda: None, target=2, target_bytes=1 << 20, note="exact", **changes)
    return [ours, Measurement("sum", "10", "other", lambda: None, ours=False)]


def test_median_quartiles_and_ratio_by_rounds():
    ours, other = summarize(group(), [[1.0, 2.0, 4.0], [3.0, 8.0, 4.0]], [2 << 20, None])
    assert ours["median_s"] == 2.0
    assert ours["quartiles_s"] == (1.5, 3.0)
    assert ours["least_s"] == 1.0
    assert ours["ratio"] == 3.0  # of 3, 4 and 1
    assert other["ratio"] == 1.0
    assert (ours["peak_bytes"], other["peak_bytes"]) == (2 << 20, None)
    assert (ours["target"], ours["target_bytes"], ours["note"]) == (2, 1 << 20, "exact")


def test_outputs_are_taken_off_the_memory():
    record, _ = summarize(group(outputs=1000), [[1.0], [1.0]], [1500, 7])
    assert record["peak_bytes"] == 500


def test_peer_that_ran_once_is_compared_with_every_round():
    assert round_ratios([6.0], [1.0, 2.0, 3.0]) == [6.0, 3.0, 2.0]
    assert quartiles([5.0]) == (5.0, 5.0)


def test_without_a_peer_there_is_no_ratio():
    assert "ratio" not in summarize(group()[:1], [[1.0]], [None])[0]


def test_peers_take_turns(monkeypatch):
    calls = []
    peers = [Measurement("o", "s", name, lambda name=name: calls.append(name), ours=name == "a") for name in "ab"]
    monkeypatch.setattr(harness, "_sample", lambda one, *_: one.run() or 1.0)
    monkeypatch.setattr(harness, "peak_memory", lambda *_: None)
    measure(peers, Settings(rounds=3, seconds=0.0))
    assert calls == list("aabb" + "ababab")


def test_what_runs_once_is_not_warmed_up(monkeypatch):
    calls = count()
    once = Measurement("o", "s", "slow", lambda: next(calls), once=True)
    monkeypatch.setattr(harness, "peak_memory", lambda *_: None)
    record = measure([once], QUICK)[0]
    assert (record["rounds"], next(calls)) == (1, 1)


def test_preparation_is_called_before_every_run():
    events = []
    one = Measurement("o", "s", "p", lambda: events.append("run"), prepare=lambda: events.append("prepare"))
    harness._sample(one, 3, QUICK)
    assert events == ["prepare", "run"] * 3


def test_groups_are_of_one_operation_and_size():
    other = Measurement("mean", "10", "other", lambda: None)
    with pytest.raises(ValueError, match="one operation and size"):
        measure([group()[0], other], QUICK)


@pytest.mark.skipif(not harness._forget_peak(), reason="memory is read from Linux's /proc/self")
def test_memory_is_what_a_run_holds_at_its_peak():
    def run():
        first = np.ones(3 << 20)  # 24 MiB of float64
        second = first + 1
        del first, second
        return np.ones(1 << 17)

    result = peak_memory(Measurement("o", "s", "p", run))
    assert 47 << 20 <= result <= 56 << 20


def test_part_becomes_an_entry_that_json_keeps(tmp_path):
    images = torch.rand(1000)
    module = SimpleNamespace(
        TITLE="Sorting",
        ROUNDS=1,
        measurements=lambda _: iter(
            [[
                Measurement("sort", "1000", "medtrace", images.sort, x=1000),
                Measurement("sort", "1000", "other", images.argsort, ours=False, x=1000),
            ]]
        ),
    )  # fmt: skip
    told = []
    entry = harness.run_part(module, QUICK, told.append)
    first, second = (record["rounds"] for record in entry["records"])
    assert first == second >= 1
    assert len(told) == 2
    assert entry["conditions"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert entry["conditions"]["quick"]
    path = tmp_path / "results.json"
    assert harness.read_results(path) == {}
    harness.write_results(path, {"cpu": {"sorting": entry}})
    assert harness.read_results(path) == json.loads(json.dumps({"cpu": {"sorting": entry}}))


def results():
    where = harness.conditions(Settings())
    records = summarize(group(), [[0.001, 0.001], [0.005, 0.005]], [2 << 20, 3 << 20])
    for record in records:
        record["x"] = 64
    entry = {"title": "Sums", "text": "All of them.", "conditions": where, "records": records}
    run = {
        "command": "medtrace bench postop --setting smoke", "commit": "abc", "wall_s": 12.0, "processor_s": 20.0,
        "threads": 2, "load": 0.1, "device": "a processor", "torch": "2",
    }  # fmt: skip
    return {"cpu": {"sums": entry}, "runs": [run]}


def test_page_holds_tables_conditions_and_plot_and_keeps_its_prose(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"Before\n{page.BEGIN}\nold\n{page.END}\nAfter\n")
    result = results()
    page.update_page(path, result)
    text = path.read_text()
    assert text.startswith("Before\n")
    assert text.endswith("After\n")
    assert "old" not in text
    row = next(line for line in text.splitlines() if "**medtrace**" in line)
    for words in ("sum, 10", "1.00 ms", "5.00 ×", "2 MiB", "≥ 2 ×: yes", "≤ 1 MiB: no", "exact"):
        assert words in row
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert "| `medtrace bench postop --setting smoke` | abc | 12.0 s | 20.0 s |" in text
    assert (tmp_path / page.IMAGE).stat().st_size > 1000
    page.update_page(path, result)
    assert path.read_text() == text


@pytest.mark.parametrize(("limit", "kept"), [(0.002, "yes"), (0.0015, "yes"), (0.001, "no")])
def test_page_says_whether_a_time_is_kept(limit, kept):
    one = Measurement("map", "256²", "medtrace", lambda: None, target_seconds=limit)
    rows = page.table(summarize([one], [[0.001, 0.0015, 0.004]], [None])).splitlines()
    assert rows[0].count("asked") == 1
    assert f"≤ {1e3 * limit:g} ms: {kept}" in rows[2]


def test_page_without_its_markers_is_refused(tmp_path):
    path = tmp_path / "performance.md"
    path.write_text(f"{page.END}{page.BEGIN}")
    with pytest.raises(ValueError, match="markers"):
        page.update_page(path, {})


def test_numbers_are_written_with_three_digits_and_a_fitting_unit():
    assert [page.seconds(value) for value in (12.3456, 0.0123, 4.2e-5)] == ["12.3 s", "12.3 ms", "42.0 µs"]
    assert [page.significant(value) for value in (160.4, 38.26, 0.512)] == ["160", "38.3", "0.51"]
    assert [page.size(value) for value in (8 << 20, 3 << 30, None)] == ["8 MiB", "3.0 GiB", ""]


def test_later_run_takes_the_place_of_the_same_command_and_commit():
    first = results()["runs"][0]
    again, other = {**first, "wall_s": 11.0}, {**first, "commit": "def"}
    merged = runs.merge_run(runs.merge_run([first], again), other)
    assert [run["wall_s"] for run in merged] == [11.0, 12.0]


def test_timing_needs_a_checkout(tmp_path):
    with pytest.raises(ValueError, match="working tree"):
        runs.time_bench("postop", "smoke", tmp_path)


def test_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(["nonsense"])
    assert "expected some of" in capsys.readouterr().err


def test_small_run_of_a_part_writes_its_results(tmp_path, capsys, monkeypatch):
    part = SimpleNamespace(TITLE="Sums", measurements=lambda _: iter([group()]), __spec__=object())
    monkeypatch.setitem(sys.modules, "tests.benchmarks.transforms", part)
    out = tmp_path / "results.json"
    main(["transforms", "--quick", "--out", str(out)])
    assert [record["peer"] for record in harness.read_results(out)["cpu"]["transforms"]["records"]] == [
        "medtrace",
        "other",
    ]
    assert "medtrace" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("part", ["parzen", "fields", "transforms", "sampling", "scaling"])
def test_every_part_runs(part, tmp_path):
    main([part, "--quick", "--out", str(tmp_path / "results.json")])
    entry = harness.read_results(tmp_path / "results.json")["cpu"][part]
    assert any(record["ours"] for record in entry["records"])
    assert all(record["median_s"] > 0 for record in entry["records"])
