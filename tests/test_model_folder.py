"""A run handed on: the model folder and its card, read like a run, from a path and from the Hub."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors import safe_open
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import Preparation
from medtrace.engines.runs import RunRecord, load_method, read_run
from medtrace.methods import method_class, resolve
from medtrace.metrics import CaseTable
from medtrace.workflows.card import card
from medtrace.workflows.handing_on import hub
from medtrace.workflows.handing_on.facts import command_of
from medtrace.workflows.handing_on.record import without_names


@pytest.fixture(scope="module")
def evaluated(smoke_run, tmp_path_factory):
    """A run with the tables that an evaluation leaves, of numbers that the test knows."""
    run = tmp_path_factory.mktemp("card") / "run"
    shutil.copytree(smoke_run, run)
    table = CaseTable()
    for case, value in (("a", 10.0), ("b", 14.0)):
        table.add(case, {"mae": value, "edge_dice": 0.5})
    folder = run / "evaluation" / "test"
    table.write_summary(folder / "method_summary.csv")
    header = "column,first,second,n,difference,low,high,probability,effect,p"
    (folder / "comparison.csv").write_text(f"{header}\nmae,method,identity,2,-3.5,-5,-2,1,2,0.5\n")
    return run


@pytest.fixture(scope="module")
def model(evaluated, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "model"
    card(evaluated, out, license="cc-by-4.0", title="A model", limits=["Only of noise."])
    return out


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_folder_is_of_data_alone(model):
    assert {path.name for path in model.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preparation.json",
    }
    with safe_open(model / "model.safetensors", "pt") as file:
        assert all(key.startswith("method.") for key in file.keys())  # noqa: SIM118


def test_is_read_like_the_run(model, evaluated):
    own, handed_on = load_method(evaluated, "cpu"), load_method(model, "cpu")
    for (name, value), (other, again) in zip(own.state_dict().items(), handed_on.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(again))
    assert read_run(model).settings == read_run(evaluated).settings
    assert Preparation.load(model / "preparation.json") == Preparation.load(evaluated / "preparation.json")


def test_front_matter_is_what_the_hub_reads(model):
    cards = pytest.importorskip("huggingface_hub.repocard", reason="needs huggingface_hub")
    data = cards.ModelCard.load(model / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "medtrace", "image-to-image")
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("mae", 12.0, "TraceBench postop, test")


def test_card_tells_scores_with_intervals_limits_and_the_training(model):
    text = (model / "README.md").read_text()
    assert "| test | mae | 12 ± 2.8 | 12 | 2 | -3.5 [-5, -2] |" in text
    assert "edge_dice" not in text  # has no better end
    assert "- Only of noise.\n" in text
    assert "Not a medical device" in text
    assert "medtrace train tracetrans --tracebench --out RUN" in text
    assert "This bundle holds" not in text
    assert front(model)["model-index"][0]["results"][0]["metrics"][0]["value"] == 12.0


def test_command_in_the_card_gives_the_settings_of_the_run():
    kind = method_class("tracetrans").settings_type
    settings = resolve(kind, ["tracebench"], {"alpha": 0.75, "training.max_epochs": 3})
    line = command_of(RunRecord("tracetrans", settings))
    assert "--set alpha=0.75" in line
    assert "--set training.max_epochs=3" in line
    assert line.count("--set") == 2


def test_names_of_subjects_stay_out():
    cases = [
        {"case": "smith-1", "subject": "smith", "source": "d1"},
        {"case": "roe-1", "subject": "roe", "source": "d2"},
    ]
    scans = [{"volume": "smith", "subject": "smith", "split": "training", "source": [], "target": []}]
    told = without_names(
        {"dataset": "/data/of/hospital/set", "scans": scans, "training": cases, "validation": cases[:1]}
    )
    assert not any(name in json.dumps(told) for name in ("smith", "roe", "hospital"))
    assert told["training"][0]["subject"] == told["validation"][0]["subject"] == told["scans"][0]["subject"]
    assert [one["source"] for one in told["training"]] == ["d1", "d2"]


def test_a_foreign_configuration_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config\.json: is not from a medtrace model"):
        read_run(tmp_path)


@pytest.mark.parametrize("license", ["", "Apache 2.0", "../x"])
def test_license_is_asked_for(evaluated, tmp_path, license):
    with pytest.raises(ValueError, match="license: expected an identifier"):
        card(evaluated, tmp_path / "out", license=license)


def test_command_line(evaluated, tmp_path):
    done = CliRunner().invoke(
        app, ["card", str(evaluated), "--license", "other", "-o", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["result"]["scores"] == 1
    assert (tmp_path / "out" / "config.json").is_file()


class TestHub:
    def fetching(self, monkeypatch, answer):
        module = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
        asked = []

        def snapshot_download(name, **settings):
            asked.append((name, settings))
            return answer()

        monkeypatch.setattr(module, "snapshot_download", snapshot_download)
        return asked

    @pytest.mark.parametrize(("address", "revision"), [("hf://owner/name", None), ("hf:/owner/name@v1", "v1")])
    def test_fetches_data_alone(self, monkeypatch, model, address, revision):
        asked = self.fetching(monkeypatch, lambda: str(model))
        assert hub.local_run(address) == model
        ((name, settings),) = asked
        assert (name, settings["revision"]) == ("owner/name", revision)
        assert all(file.endswith((".json", ".safetensors", ".md")) for file in settings["allow_patterns"])

    def test_is_a_run_of_commands(self, monkeypatch, model, tmp_path):
        self.fetching(monkeypatch, lambda: str(model))
        done = CliRunner().invoke(app, ["card", "hf://owner/name", "--license", "mit", "-o", str(tmp_path / "again")])
        assert done.exit_code == 0, done.output

    def test_what_is_missing_or_unreachable_is_told(self, monkeypatch, tmp_path):
        self.fetching(monkeypatch, lambda: str(tmp_path))
        with pytest.raises(ValueError, match=r"hf://owner/name has no config\.json"):
            hub.local_run("hf://owner/name")

        def offline():
            raise OSError("no route to host")

        self.fetching(monkeypatch, offline)
        with pytest.raises(OSError, match=r"could not be fetched \(no route to host\); check name and network"):
            hub.local_run("hf://owner/name")

    def test_without_the_package_the_remedy_is_told(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace())
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'medtrace\[hub\]'"):
            hub.local_run("hf://owner/name")
