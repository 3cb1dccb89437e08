"""The run folder: data only, what it remembers, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from medtrace.engines.runs import RECORD, WEIGHTS, load_method, read_run
from medtrace.methods import method_class, register_method, resolve
from medtrace.methods.registry import _IN_PROCESS
from medtrace.workflows.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("unet", out=tmp_path_factory.mktemp("run") / "unet", presets=["tracebench", "smoke"])


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def change(run, **entries):
    path = run / RECORD
    content = json.loads(path.read_text())
    for name, value in entries.items():
        place = content
        *parts, last = name.split("__")
        for part in parts:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(content))


def test_every_file_is_data(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {RECORD, str(WEIGHTS), "preparation.json", "history.csv"} <= names
    assert not [name for name in names if name.endswith((".yaml", ".py", ".pkl"))]


def test_the_record_holds_every_value(trained):
    record = read_run(trained)
    kind = method_class("unet")
    assert record.method == "unet"
    assert record.settings == resolve(kind.settings_type, ["tracebench", "smoke"])
    stored = json.loads((trained / RECORD).read_text())["settings"]
    assert stored["training"]["checkpoint_interval"] == 10  # a default, stored all the same


def test_a_later_default_changes_no_old_run(run, monkeypatch):
    kind = method_class("unet").settings_type
    monkeypatch.setitem(kind.presets, "smoke", {"channels": (8, 8)})
    assert read_run(run).settings.channels == (4, 8)


def test_weights_are_those_of_the_training(trained):
    method = load_method(trained, "cpu")
    states = torch.load(trained / "checkpoints" / "final.pt", weights_only=True)["method"]
    stored = load_file(trained / WEIGHTS)
    for name, value in method.state_dict().items():
        assert torch.equal(value, states[name])
        assert torch.equal(value, stored[f"method.{name}"])
    assert not method.training


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": "other"}, "expected a run of version 1"),
        ({"version": 2}, "expected a run of version 1"),
        ({"method": "nothing"}, "'nothing' is not one"),
        ({"settings": []}, "expected the entries method and settings"),
        ({"settings__alhpa": 1}, "alhpa: is not a setting"),
        ({"settings__channels": [4, 10**9]}, "less than or equal to 100000"),
        ({"settings__channels": [100_000, 100_000]}, "GiB"),
        ({"settings__channels": [4, 16]}, "no weights of these settings"),
        ({"settings__channels": "$__import__('os').system('true')"}, "channels: "),
    ],
)
def test_a_changed_record_is_refused(entries, message, run):
    change(run, **entries)
    with pytest.raises(ValueError, match=message) as caught:
        load_method(run, "cpu")
    assert "\n" not in str(caught.value)


def test_no_text_of_a_run_is_evaluated(run, tmp_path):
    marker = tmp_path / "MARKER"
    text = f"$open({str(marker)!r}, 'w')"
    change(run, settings__dropout=text)
    with pytest.raises(ValueError, match="dropout"):
        load_method(run, "cpu")
    change(run, settings__dropout={"_target_": "builtins.open", "file": str(marker), "mode": "w"})
    with pytest.raises(ValueError, match="dropout"):
        load_method(run, "cpu")
    assert not marker.exists()


def test_weights_that_lack_or_add_something_are_refused(run):
    tensors = load_file(run / WEIGHTS)
    name, value = next(iter(tensors.items()))
    save_file({**tensors, "method.other": value.clone()}, run / WEIGHTS)
    with pytest.raises(ValueError, match="other: expected shape none"):
        load_method(run, "cpu")
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, run / WEIGHTS)
    with pytest.raises(ValueError, match="received none"):
        load_method(run, "cpu")


def test_a_run_of_an_early_version_is_refused_with_the_reason(tmp_path):
    (tmp_path / "config.yaml").write_text("objective: $print('never')\n")
    with pytest.raises(ValueError, match="whose configuration could run code; train again"):
        load_method(tmp_path)


def test_a_run_without_its_end_says_how_to_resume(run):
    (run / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"resume it with `medtrace train unet .*--resume`"):
        load_method(run)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is missing"):
        load_method(tmp_path / "nowhere")


def test_sampling_can_be_changed_and_only_of_methods_that_sample(trained, tmp_path):
    with pytest.raises(ValueError, match="sampling: expected none for U-Net regression"):
        load_method(trained, "cpu", {"steps": 3})
    run = train("palette", out=tmp_path / "palette", presets=["tracebench", "smoke"])
    assert load_method(run, "cpu").sampling.steps == 3
    assert load_method(run, "cpu", {"steps": 2}).sampling.steps == 2
    with pytest.raises(ValueError, match="sampling"):
        load_method(run, "cpu", {"channels": 2})


def test_a_method_of_another_package_trains_and_loads(tmp_path):
    kind = method_class("unet")

    @register_method
    class Other(kind):
        name = "other_unet"

    try:
        run = train("other_unet", out=tmp_path / "run", presets=["tracebench", "smoke"])
        assert type(load_method(run, "cpu")) is Other
    finally:
        del _IN_PROCESS["other_unet"]
    with pytest.raises(ValueError, match="other_unet"):
        load_method(run, "cpu")
