"""Files from elsewhere: nothing in them runs, escapes or tells more than it should."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from medtrace.guard import configurations
from medtrace.guard.configurations import BUNDLES, ForeignCodeError, check_code, code_in, foreign_code, read_config
from medtrace.guard.weights import load_weights
from medtrace.workflows.runs import load_objective
from medtrace.workflows.train import bundle_folder, train

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


def merged(bundle, *overlays):
    """A run's configuration as training writes it."""
    parser = ConfigParser()
    files = [BUNDLES / bundle / "configs" / f"{name}.yaml" for name in ("train", *overlays)]
    parser.read_config([str(file) for file in files])
    parser["run_dir"] = "elsewhere"
    return {key: value for key, value in parser.get().items() if key != "_meta_"}


def run_of(folder, config):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"objective": {}}, folder / "checkpoints" / "final.pt")
    return folder


class TestWeights:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_a_pickle_that_would_run_code_is_refused_with_its_reason(self, tmp_path, zipped):
        marker = tmp_path / "ran"
        path = tmp_path / "evil.pt"
        torch.save({"objective": Touch(marker)}, path, _use_new_zipfile_serialization=zipped)
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

    def test_a_run_with_such_weights_is_refused(self, tmp_path):
        run = run_of(tmp_path / "run", merged("tracetrans", "tracebench", "smoke"))
        torch.save({"objective": Touch(tmp_path / "ran")}, run / "checkpoints" / "final.pt")
        with pytest.raises(ValueError, match="would call"):
            load_objective(run, "cpu")
        assert not (tmp_path / "ran").exists()

    def test_scripted_networks_are_no_weights(self, tmp_path):
        torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "program.pt"))
        with pytest.raises(ValueError, match=r"program\.pt"):
            load_weights(tmp_path / "program.pt")

    def test_members_that_unfold_are_refused(self, tmp_path):
        plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
        torch.save({"objective": {"a": torch.zeros(1 << 20)}}, plain)
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

    def test_both_kinds_of_weights_give_the_same_objective(self, tmp_path):
        from safetensors.torch import save_file

        config = merged("tracetrans", "tracebench", "smoke")
        run = run_of(tmp_path / "run", config)
        parser = ConfigParser()
        parser.read_config(config)
        states = parser.get_parsed_content("objective").state_dict()
        torch.save({"objective": states}, run / "checkpoints" / "final.pt")
        pickled = load_objective(run, "cpu")
        (run / "checkpoints" / "final.pt").unlink()
        save_file({f"objective.{name}": value for name, value in states.items()}, run / "checkpoints/final.safetensors")
        safe = load_objective(run, "cpu")
        assert all(torch.equal(a, b) for a, b in zip(pickled.state_dict().values(), safe.state_dict().values()))


class TestConfigurations:
    @pytest.mark.parametrize("bundle", NAMES)
    def test_what_training_writes_is_shipped(self, bundle):
        folder = BUNDLES / bundle / "configs"
        overlays = {file.stem for file in folder.glob("*.yaml")} - {"train", "inference", "evaluate", "tracebench"}
        for chosen in ([], ["tracebench"], *(["tracebench", name] for name in sorted(overlays))):
            config = merged(bundle, *chosen)
            config["device"] = "$torch.device('cuda:1')"
            assert len(code_in(config)) > 10
            assert foreign_code(config) == []

    def test_plain_values_may_differ(self):
        config = merged("tracetrans")
        config |= {"channels": [4, 4], "dataset_dir": "/data", "run_dir": "/tmp/run", "batch_size": 1}
        config["objective"]["alpha"] = 0.3
        assert foreign_code(config) == []

    @pytest.mark.parametrize(
        ("place", "code"),
        [
            ("objective#_target_", "subprocess.check_output"),
            ("objective#alpha", "$__import__('os').system('true')"),
            ("alpha_of_mine", "$1"),
            ("imports#0", "$import subprocess"),
            ("network_def", "%/tmp/other.yaml#network_def"),
            ("objective#networks", "$@network"),
            ("objective#_target_", "@run_dir"),
            ("device", "$torch.device('cpu') or exit()"),
            ("train#handlers#0#path", "/etc/cron.d/history"),
            ("train#handlers#4#folder", "/home/someone/.ssh"),
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
        assert [(found.place, found.text) for found in foreign_code(config)] == [(place, code)]
        run = run_of(tmp_path / "run", config)
        with pytest.raises(ForeignCodeError) as refusal:
            load_objective(run, "cpu")
        assert f"{place}: {code}" in str(refusal.value)
        assert "--allow-foreign-code" in str(refusal.value)

    def test_code_in_a_run_does_not_run_unless_allowed(self, tmp_path, capsys, monkeypatch):
        config = merged("tracetrans", "tracebench", "smoke")
        marker = tmp_path / "ran"
        config["objective"]["alpha"] = f"$__import__('pathlib').Path({str(marker)!r}).touch() or 0.5"
        run = run_of(tmp_path / "run", config)
        for resume in (lambda: load_objective(run, "cpu"), lambda: train("tracetrans", out=run, resume=True)):
            with pytest.raises(ForeignCodeError):
                resume()
        assert not marker.exists()
        monkeypatch.setenv(configurations.ALLOW, "1")
        with pytest.raises(ValueError, match="no weights of this configuration"):
            load_objective(run, "cpu")
        assert marker.exists()
        printed = capsys.readouterr().err
        assert "objective#alpha: $__import__" in printed

    def test_a_foreign_bundle_needs_the_flag(self, tmp_path):
        configs = tmp_path / "mine" / "configs"
        configs.mkdir(parents=True)
        text = (BUNDLES / "tracetrans" / "configs" / "train.yaml").read_text()
        (configs / "train.yaml").write_text(text)
        assert bundle_folder(str(tmp_path / "mine")) == tmp_path / "mine"
        (configs / "train.yaml").write_text(text + "\nextra: $print('ran')\n")
        with pytest.raises(ForeignCodeError, match="extra"):
            bundle_folder(str(tmp_path / "mine"))

    def test_the_flag_of_the_command_allows(self, tmp_path):
        from typer.testing import CliRunner

        from medtrace.cli import app

        config = merged("tracetrans", "tracebench", "smoke")
        config["objective"]["alpha"] = "$0.25 + 0.25"
        run = run_of(tmp_path / "run", config)
        command = ["evaluate", str(run), str(tmp_path)]
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 1
        assert "objective#alpha: $0.25 + 0.25" in refused.stderr
        assert "\n" not in refused.stderr.strip()
        allowed = CliRunner().invoke(app, ["--allow-foreign-code", *command])
        assert "runs code that medtrace does not ship:\n  objective#alpha: $0.25 + 0.25" in allowed.stderr
        assert "no weights of this configuration" in allowed.stderr

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

    @pytest.mark.parametrize("name", ["$open('ran','w').close()", "@objective", "%other.yaml"])
    def test_a_folders_name_is_no_expression(self, name):
        parser = ConfigParser({"run_dir": configurations.as_plain(Path(name)), "file": "$@run_dir + '/x'"})
        assert parser.get_parsed_content("file") == f"./{name}/x"
