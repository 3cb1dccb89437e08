"""Files from elsewhere: nothing in them runs, escapes or reports more than it should."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from safetensors.torch import load_file

from medtrace.engines.runs import RECORD, WEIGHTS, load_method
from medtrace.guard import configurations
from medtrace.guard.configurations import BUNDLES, ForeignCodeError, check_code, code_in, foreign_code, read_config
from medtrace.guard.weights import load_weights
from medtrace.methods import method_class, resolve
from medtrace.workflows.bundle import bundle_files
from medtrace.workflows.train import train

NAMES = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir())


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch):
    monkeypatch.delenv(configurations.ALLOW, raising=False)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def merged(name, *presets):
    """The configuration of a method's bundle with presets."""
    kind = method_class(name)
    return yaml.safe_load(bundle_files(kind, resolve(kind.settings_type, presets))["configs/train.yaml"])


def bundle_of(folder, config):
    """A bundle made elsewhere."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "train.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


class TestWeights:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_a_pickle_that_would_run_code_is_refused_with_its_reason(self, tmp_path, zipped):
        marker = tmp_path / "ran"
        path = tmp_path / "evil.pt"
        torch.save({"method": Touch(marker)}, path, _use_new_zipfile_serialization=zipped)
        torch.load(path, weights_only=False)
        assert marker.exists(), "the file would not have run anything, so that the test shows nothing"
        marker.unlink()
        with pytest.raises(ValueError, match=r"would call [\w.]*(touch|getattr|Path)"):
            load_weights(path)
        assert not marker.exists()

    def test_a_plain_pickle_that_would_run_code_is_refused(self, tmp_path):
        path = tmp_path / "evil.pt"
        path.write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
        with pytest.raises(ValueError, match=r"evil\.pt"):
            load_weights(path)
        assert not (tmp_path / "ran").exists()

    def test_a_run_with_such_weights_is_refused(self, smoke_run, tmp_path, caplog):
        """As safetensors, which hold no pickle, and as checkpoints, which a resumed training reads."""
        run = shutil.copytree(smoke_run, tmp_path / "run")
        (run / WEIGHTS).write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
        with pytest.raises(ValueError, match=r"weights\.safetensors: holds no weights that can be read"):
            load_method(run, "cpu")
        for checkpoint in (run / "checkpoints").glob("*.pt"):
            torch.save({"method": Touch(tmp_path / "ran")}, checkpoint)
        train("tracetrans", out=run, settings={"training.max_epochs": 1}, resume=True, device="cpu")
        assert "would call" in caplog.text
        assert not (tmp_path / "ran").exists()

    def test_scripted_networks_are_no_weights(self, tmp_path):
        torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "program.pt"))
        with pytest.raises(ValueError, match=r"program\.pt"):
            load_weights(tmp_path / "program.pt")

    def test_members_that_unfold_are_refused(self, tmp_path):
        plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
        torch.save({"method": {"a": torch.zeros(1 << 20)}}, plain)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))
        assert packed.stat().st_size < plain.stat().st_size / 100
        with pytest.raises(ValueError, match="packed"):
            load_weights(packed)

    def test_members_that_share_their_bytes_are_refused(self, tmp_path):
        """A directory that names one stored member a hundred times claims a hundred times what is there."""
        path, name = tmp_path / "plain.pt", "archive/data/0"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(name, bytes(10_000))
            archive.filelist *= 100
        assert path.stat().st_size < 30_000
        with pytest.raises(ValueError, match="overlapping"):
            load_weights(path)

    def test_both_kinds_of_weights_are_the_same(self, smoke_run):
        pickled = load_weights(smoke_run / "checkpoints" / "final.pt")["method"]
        safe = load_weights(smoke_run / WEIGHTS)["method"]
        assert set(safe) == {name for name, value in pickled.items() if isinstance(value, torch.Tensor)}
        assert all(torch.equal(value, pickled[name]) for name, value in safe.items())
        loaded = load_method(smoke_run, "cpu").state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in safe.items())
        assert {name.removeprefix("method.") for name in load_file(smoke_run / WEIGHTS)} == set(safe)


class TestConfigurations:
    @pytest.mark.parametrize("name", NAMES)
    def test_what_medtrace_generates_is_shipped(self, name):
        for preset in (None, *sorted(method_class(name).settings_type.presets)):
            config = merged(name) if preset is None else merged(name, "tracebench", preset)
            config["device"] = "$torch.device('cuda:1')"
            assert len(code_in(config)) > 10
            assert foreign_code(config) == []

    def test_plain_values_may_differ(self):
        config = merged("tracetrans")
        config |= {"dataset_dir": "/data", "run_dir": "/tmp/run"}
        config["settings"] |= {"channels": [4, 4], "alpha": 0.3}
        config["settings"]["training"]["batch_size"] = 1
        assert foreign_code(config) == []

    @pytest.mark.parametrize(
        ("place", "code"),
        [
            ("train#dataset#_target_", "subprocess.check_output"),
            ("settings#alpha", "$__import__('os').system('true')"),
            ("alpha_of_mine", "$1"),
            ("imports#0", "$import subprocess"),
            ("network_def", "%/tmp/other.yaml#network_def"),
            ("method", "$__import__('os').system('true')"),
            ("settings#networks", "$@network"),
            ("train#dataset#_target_", "@run_dir"),
            ("device", "$torch.device('cpu') or exit()"),
            ("train#handlers#4#path", "/etc/cron.d/history"),
            ("train#handlers#8#folder", "/home/someone/.ssh"),
            ("train#handlers#0#run", "/home/someone/.ssh"),
        ],
    )
    def test_other_code_is_refused(self, tmp_path, place, code):
        config = merged("tracetrans")
        parser = ConfigParser()
        parser.read_config(config)
        if place.count("#"):
            parser[place] = code
        else:
            parser.get()[place] = code
        config = {key: value for key, value in parser.get().items() if key != "_meta_"}
        assert [(result.place, result.text) for result in foreign_code(config)] == [(place, code)]
        mine = bundle_of(tmp_path / "mine", config)
        with pytest.raises(ForeignCodeError) as refusal:
            train(str(mine), out=tmp_path / "run", device="cpu")
        assert f"{place}: {code}" in str(refusal.value)
        assert "--allow-foreign-code" in str(refusal.value)
        assert not (tmp_path / "run").exists()

    def test_code_in_a_bundle_does_not_run_unless_allowed(self, tmp_path, capsys, monkeypatch):
        config = merged("tracetrans", "tracebench", "smoke")
        marker = tmp_path / "ran"
        config["settings"]["alpha"] = f"$__import__('pathlib').Path({str(marker)!r}).touch() or 0.5"
        mine = bundle_of(tmp_path / "mine", config)
        for resume in (False, True):
            with pytest.raises(ForeignCodeError):
                train(str(mine), out=tmp_path / "run", resume=resume, device="cpu")
        assert not marker.exists()
        monkeypatch.setenv(configurations.ALLOW, "1")
        train(str(mine), out=tmp_path / "run", settings={"training.max_epochs": 1}, device="cpu")
        assert marker.exists()
        printed = capsys.readouterr().err
        assert "settings#alpha: $__import__" in printed
        record = json.loads((tmp_path / "run" / RECORD).read_text())
        assert record["settings"]["alpha"] == 0.5, "a run holds what became of the code, and none of it"
        monkeypatch.delenv(configurations.ALLOW)
        load_method(tmp_path / "run", "cpu")

    @pytest.mark.parametrize("allowed", [False, True])
    def test_code_in_a_run_does_not_run_even_if_allowed(self, smoke_run, tmp_path, monkeypatch, allowed):
        if allowed:
            monkeypatch.setenv(configurations.ALLOW, "1")
        run, marker = shutil.copytree(smoke_run, tmp_path / "run"), tmp_path / "ran"
        record = json.loads((run / RECORD).read_text())
        record["settings"]["alpha"] = f"$__import__('pathlib').Path({str(marker)!r}).touch() or 0.5"
        (run / RECORD).write_text(json.dumps(record))
        for use in (
            lambda: load_method(run, "cpu"),
            lambda: train("tracetrans", out=run, resume=True, device="cpu"),
        ):
            with pytest.raises(ValueError, match=r"run\.json: alpha: input should be a valid number"):
                use()
        assert not marker.exists()

    def test_a_foreign_bundle_needs_the_flag(self, tmp_path):
        config = merged("tracetrans", "tracebench", "smoke")
        mine = bundle_of(tmp_path / "mine", {**config, "extra": "$print('ran')"})
        with pytest.raises(ForeignCodeError, match="extra"):
            train(str(mine), out=tmp_path / "run", device="cpu")
        shipped = bundle_of(tmp_path / "shipped", config)
        train(str(shipped), out=tmp_path / "run", settings={"training.max_epochs": 1}, device="cpu")
        assert (tmp_path / "run" / RECORD).is_file()

    def test_the_flag_of_the_command_allows(self, tmp_path):
        from typer.testing import CliRunner

        from medtrace.cli import app

        config = merged("tracetrans", "tracebench", "smoke")
        config["settings"]["alpha"] = "$0.25 + 0.25"
        mine = bundle_of(tmp_path / "mine", config)
        command = ["train", str(mine), "--out", str(tmp_path / "run"), "--device", "cpu"]
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 1
        assert "settings#alpha: $0.25 + 0.25" in refused.stderr
        assert "\n" not in refused.stderr.strip()
        allowed = CliRunner().invoke(app, ["--allow-foreign-code", *command])
        assert allowed.exit_code == 0, allowed.stderr
        assert "runs code that medtrace does not ship:\nmedtrace:   settings#alpha: $0.25 + 0.25" in allowed.stderr

    def test_a_terminal_is_shown_no_control_characters(self, tmp_path):
        with pytest.raises(ForeignCodeError) as refusal:
            check_code({"a": "$1\x1b[2J\x1b[1;1H"}, tmp_path, allow=False)
        assert "\x1b" not in str(refusal.value)

    @pytest.mark.parametrize(
        "text", ["[1, 2]", "a: [", "\x00", "a: &x [*x]", "[" * 600, "a: !!python/name:os.system x"]
    )
    def test_what_is_no_configuration_is_refused(self, tmp_path, text):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            read_config(tmp_path / "config.yaml")

    def test_aliases_cannot_multiply(self, tmp_path):
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
        (tmp_path / "config.yaml").write_text("\n".join(lines))
        with pytest.raises(ValueError, match="at most"):
            read_config(tmp_path / "config.yaml")

    @pytest.mark.parametrize("name", ["$open('ran','w').close()", "@method", "%other.yaml"])
    def test_a_folders_name_is_no_expression(self, name):
        parser = ConfigParser({"run_dir": configurations.as_plain(Path(name)), "file": "$@run_dir + '/x'"})
        assert parser.get_parsed_content("file") == f"./{name}/x"
