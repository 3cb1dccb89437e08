"""Handlers of an evaluator: scores per case, and traces."""

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import DualDecoderGAN
from medtrace.workflows.training.handlers import CaseScores, TraceSaver


class Loader(list):
    batch_size = 2


def engine_with(handler, batch, traces):
    """An evaluator that answers one batch."""
    engine = Engine(lambda _engine, _batch: {"traces": traces})
    handler.attach(engine)
    engine.run(Loader([batch]))
    return engine


def test_handlers_count_cases_without_a_name(tmp_path):
    method = TraceTransMethod(DualDecoderGAN(2, 1, 1, (4, 8), discriminator_channels=4, discriminator_layers=1))
    batch = {key: torch.rand(2, 1, 24, 24) for key in ("source", "target")}
    traces = method.eval().trace(batch)
    engine = engine_with(CaseScores(tmp_path / "scores"), batch, traces)
    rows = list(csv.DictReader((tmp_path / "scores" / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["case-0000", "case-0001"]
    error = (traces[1].image - batch["target"][1]).abs().mean().item() * 127.5
    assert float(rows[1]["mae"]) == pytest.approx(error, rel=1e-4)
    assert engine.state.metrics["mae"] == pytest.approx(np.mean([float(row["mae"]) for row in rows]))
    engine_with(TraceSaver(tmp_path / "traces"), batch, traces)
    assert (tmp_path / "traces" / "case-0001" / "trace.json").is_file()


def test_handlers_say_what_they_need(tmp_path):
    with pytest.raises(ValueError, match="expected a 'target'"):
        engine_with(CaseScores(tmp_path), {"source": torch.zeros(1, 1, 8, 8)}, [])
    with pytest.raises(ValueError, match=r"received '\.\./a'"):
        engine_with(TraceSaver(tmp_path), {"case": ["../a"]}, [None])
    assert list(tmp_path.iterdir()) == []
