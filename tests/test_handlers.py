"""Handlers of an evaluator: scores per case, and traces."""

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import DualDecoderGAN
from medtrace.trace import Trace
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


def test_files_of_one_name_are_several_cases(tmp_path):
    """As in BIDS-like folders; every evaluation names them alike."""
    files = ["sub-01/T1.nii.gz", "sub-02/T1.nii.gz", "other/sub-02/T1.nii.gz"]
    images = MetaTensor(torch.rand(3, 1, 8, 8), meta={"filename_or_obj": files})
    traces = [Trace.build(image, image, torch.zeros(2, 8, 8)) for image in images.as_tensor()]
    batch = {"source": images, "target": images.as_tensor()}
    names = ["T1", "sub-02_T1", "sub-02_T1-2"]
    scores, saver = CaseScores(tmp_path / "scores"), TraceSaver(tmp_path / "traces", overwrite=True)
    for _ in range(2):
        engine_with(scores, batch, traces)
        engine_with(saver, batch, traces)
        assert [row["case"] for row in csv.DictReader((tmp_path / "scores" / "cases.csv").open())] == names
        assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == sorted(names)
