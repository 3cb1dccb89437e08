"""Summaries and CSV tables."""

import csv
import math

import numpy as np
import pytest
import torch

from medtrace.metrics import CaseTable, Summary, summarize


def test_summary_by_numpy():
    values = torch.randn(9, dtype=torch.float64)
    summary = summarize(values)
    assert summary == Summary(
        9,
        pytest.approx(values.mean().item()),
        pytest.approx(np.std(values.numpy(), ddof=1)),
        pytest.approx(np.median(values.numpy())),
    )
    assert summarize(values[:8]).median == pytest.approx(np.median(values[:8].numpy()))


def test_infinite_and_undefined_values_are_counted_not_averaged():
    summary = summarize([1.0, 3.0, math.inf, math.nan])
    assert summary == Summary(n=4, mean=2, sd=pytest.approx(math.sqrt(2)), median=3, infinite=1, undefined=1)
    assert "1 infinite" in str(summary)
    assert "1 undefined" in str(summary)
    assert "infinite" not in str(summarize([1.0, 2.0]))


def test_few_values():
    one = summarize([2.0])
    assert (one.n, one.mean, one.median) == (1, 2, 2)
    assert math.isnan(one.sd)
    none = summarize([])
    assert none.n == 0
    assert math.isnan(none.mean)
    assert math.isnan(none.median)
    assert summarize([math.inf, math.inf]).mean == math.inf
    assert summarize([math.inf, math.inf]).median == math.inf
    assert math.isnan(summarize([math.inf, -math.inf]).mean)
    assert math.isnan(summarize([math.nan]).mean)


def table():
    cases = CaseTable()
    cases.add_batch(["a", "b, with comma"], {"mae": torch.tensor([[1.5], [2.5]]), "psnr": [30.0, math.inf]})
    cases.add("a", {"ssim": 0.1})
    cases.add("c", {"mae": 4})
    return cases


def test_csv_round_trip(tmp_path):
    path = table().write_csv(tmp_path / "new" / "cases.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b, with comma", "c"]
    assert list(rows[0]) == ["case", "mae", "psnr", "ssim"]
    assert [float(row["mae"]) for row in rows] == [1.5, 2.5, 4]
    assert float(rows[1]["psnr"]) == math.inf
    assert rows[2]["psnr"] == ""
    assert float(rows[0]["ssim"]) == 0.1  # every digit is kept
    assert [entry.name for entry in path.parent.iterdir()] == ["cases.csv"]


def test_summary_csv(tmp_path):
    cases = table()
    assert cases.summary()["mae"] == summarize([1.5, 2.5, 4])
    with cases.write_summary(tmp_path / "summary.csv").open(newline="") as file:
        rows = {row["value"]: row for row in csv.DictReader(file)}
    assert list(rows["mae"]) == ["value", "n", "mean", "sd", "median", "infinite", "undefined"]
    assert float(rows["mae"]["mean"]) == pytest.approx(8 / 3)
    assert rows["psnr"]["infinite"] == "1"
    assert float(rows["psnr"]["mean"]) == 30


def test_errors_leave_nothing_behind(tmp_path, monkeypatch):
    cases = table()
    with pytest.raises(ValueError, match="case 'a': 'mae' is recorded already"):
        cases.add("a", {"mae": 1})
    with pytest.raises(ValueError, match="psnr: expected 2 values, one per case, received 3"):
        cases.add_batch(["d", "e"], {"psnr": [1, 2, 3]})
    assert "d" not in cases.rows
    with pytest.raises(ValueError, match="case column"):
        cases.add("d", {"mae": 2, "case": 1})
    assert "d" not in cases.rows
    with pytest.raises(KeyError, match="there are mae, psnr, ssim"):
        cases.values("dice")

    def broken(*_):
        raise OSError("disk full")

    class Writer:
        writerow = writerows = broken

    monkeypatch.setattr(csv, "writer", lambda _: Writer())
    with pytest.raises(OSError, match="disk full"):
        cases.write_csv(tmp_path / "cases.csv")
    assert list(tmp_path.iterdir()) == []


def test_cases_may_be_named_by_an_array():
    table = CaseTable()
    table.add_batch(np.array(["a", "b"]), {"mae": torch.tensor([1.0, 2.0])})
    assert list(table.rows) == ["a", "b"]
