"""Run folders and bundles from elsewhere run nothing that medtrace does not ship, by any door of MONAI's language."""

import copy
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.engines.runs import load_method, read_run
from medtrace.guard import configuration_language, configurations
from medtrace.guard.configuration_language import code_in
from medtrace.guard.configurations import BUNDLES, ForeignCodeError, check_code, foreign_code, read_config
from medtrace.workflows.bundle import bundle
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.train import train
from medtrace.workflows.training.foreign_bundle import BundleTraining, train_bundle
from tests.cases import common, foreign_runs
from tests.fuzz.configurations import SMALL, changed, strange

CASES = common.CASES[foreign_runs.__name__]
TRAININGS = ("module_beside_the_configuration", "whole_bundle_elsewhere", "plain_values")  # what is right
MARKER = foreign_runs.MARKER
TRAIN = BUNDLES / "tracetrans" / "configs" / "train.yaml"


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch):
    monkeypatch.delenv(configurations.ALLOW, raising=False)


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory):
    """The bundle of `smoke_run`'s training."""
    return bundle("tracetrans", tmp_path_factory.mktemp("bundle") / "bundle", presets=("tracebench", "smoke"))


@pytest.fixture
def write_case(tmp_path, smoke_run, small_bundle):
    """Write a case into the test's folder; what is right."""
    options = SimpleNamespace(run=smoke_run, bundle=small_bundle)
    return lambda name: common.write(CASES[name], tmp_path / name, options)


def in_a_child(folder, *command):
    """A command in its own process, whose working directory is the folder."""
    call = [sys.executable, "-c", "from medtrace.cli import app; app()", *command]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # as the command that pip installs: not the folder itself
    return subprocess.run(
        call, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=600
    )


def is_right(expected, folder, exit_code, errors):
    assert not (folder / MARKER).exists(), "code of the bundle was run"
    if expected["accept"] == ["read"]:
        assert exit_code == 0, errors
        assert (folder / "trained" / "run.json").is_file()
        return
    lines = errors.strip().splitlines()
    assert exit_code == 1, errors
    assert len(lines) == 1, errors
    assert [name for name in expected["names"] if name not in lines[0]] == []
    said = (expected.get("says", "--allow-foreign-code"), "cannot be read as a configuration")
    assert any(text in lines[0] for text in said), errors
    assert not (folder / "trained").exists()


def is_refused_for_its_age(folder, exit_code, errors):
    assert not (folder / MARKER).exists(), "code of the run was run"
    assert exit_code == 1, errors
    line = "medtrace: error: run: run was left by an early version, whose configuration could run code; train again"
    assert errors.strip() == line
    assert not (folder / "trace").exists()


# The same configurations as bundles, as runs of an early version, and beside a run's own record


@pytest.mark.parametrize("name", [name for name in CASES if name not in TRAININGS])
def test_bundles(name, write_case, tmp_path, monkeypatch):
    expected, folder = write_case(name), tmp_path / name
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, expected["command"], catch_exceptions=False)
    is_right(expected, folder, done.exit_code, done.stderr)
    assert sorted(folder.rglob("*")) == before, "a refusal writes nothing"


@pytest.mark.parametrize("name", CASES)
def test_runs_of_an_early_version(name, write_case, tmp_path, monkeypatch):
    expected, folder = write_case(name), tmp_path / name
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    for command in expected["early"]["commands"]:
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        is_refused_for_its_age(folder, done.exit_code, done.stderr)
    assert sorted(folder.rglob("*")) == before, "a refusal writes nothing"


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_beside_a_record_is_not_read(name, write_case, smoke_run, tmp_path, monkeypatch):
    write_case(name)
    monkeypatch.chdir(tmp_path / name)
    shutil.copyfile(smoke_run / "run.json", "run/run.json")
    states, own = load_method("run", "cpu").state_dict(), load_method(smoke_run, "cpu").state_dict()
    assert all(torch.equal(states[key], own[key]) for key in own)
    assert not (tmp_path / name / MARKER).exists()


@pytest.mark.parametrize("text", ["", "a: [", "\x00", "objective: $print('never')", "[1]"])
def test_a_run_of_an_early_version_is_refused_by_every_command(text, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(text)
    for call in (
        lambda: load_method(run, "cpu"),
        lambda: train("tracetrans", out=run, presets=["tracebench"], resume=True),
        lambda: evaluate(run, tmp_path, tmp_path / "out", progress=False),
    ):
        with pytest.raises(ValueError, match="left by an early version, whose configuration could run code"):
            call()
    with pytest.raises(FileExistsError, match="holds a run already"):
        train("tracetrans", out=run, presets=["tracebench", "smoke"])
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cases_in_processes_of_their_own(name, write_case, tmp_path):
    expected, folder = write_case(name), tmp_path / name
    done = in_a_child(folder, *expected["command"])
    is_right(expected, folder, done.returncode, done.stderr)
    done = in_a_child(folder, *foreign_runs.TRANSLATE)
    is_refused_for_its_age(folder, done.returncode, done.stderr)


def test_another_bundle_trains(write_case, tmp_path, monkeypatch):
    expected, folder = write_case("whole_bundle_elsewhere"), tmp_path / "whole_bundle_elsewhere"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, expected["command"], catch_exceptions=False)
    is_right(expected, folder, done.exit_code, done.stderr)
    assert read_run("trained").settings.gamma == 0.75


def test_plain_values_are_trained_with(write_case, tmp_path, monkeypatch):
    expected, folder = write_case("plain_values"), tmp_path / "plain_values"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, expected["command"], catch_exceptions=False)
    is_right(expected, folder, done.exit_code, done.stderr)
    settings = read_run("trained").settings
    assert (settings.alpha, settings.gamma, settings.training.batch_size) == (0.3, 0.5, 2)


@pytest.mark.slow
def test_a_debugger_reads_no_file_of_the_working_directory(write_case, tmp_path):
    expected, folder = write_case("mode_debug"), tmp_path / "mode_debug"
    done = in_a_child(folder, *expected["command"])
    is_right(expected, folder, done.returncode, done.stderr)


def test_the_marker_would_be_made_if_it_were_run(write_case, tmp_path, monkeypatch):
    """What the cases rest on: allowed, the debugger executes the file."""
    write_case("mode_debug")
    monkeypatch.chdir(tmp_path / "mode_debug")
    monkeypatch.setenv(configurations.ALLOW, "1")
    train("bundle", out="trained", device="cpu", settings={"training.max_epochs": 1})
    assert (tmp_path / "mode_debug" / MARKER).exists()


BASE = read_config(TRAIN)


def config_with(*places, **entries):
    """The shipped configuration of a training with values at MONAI's ids, and with entries at the top."""
    config = copy.deepcopy(BASE)
    for place, value in places:
        holder, *path, key = (config, *place.split("#"))
        for name in path:
            holder = holder[int(name) if isinstance(holder, list) else name]
        holder[int(key) if isinstance(holder, list) else key] = value
    return config | entries


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            *("_mode_", "_debug_", "_requires_", "_import_", "_", "__class__", "_mode_ ", " _mode_", "\t_mode_"),
            *("a#b", "a::b", "::a", "#a", "+a", "~a", "$a", "%a", "@a", "<<", "", " ", "a ", "a\n", "a:b", "a/b"),
            *("\uff3fmode\uff3f", "\u203f", "\ufe33mode", "a\uff03b", "\u200b_mode_", "\u202emode", "\x00", "*", "?"),
            *(1, 1.5, True, None, b"_target_", ("a",)),
        ],
    )
    @pytest.mark.parametrize(
        "value",
        ["debug", {"a": [1]}, *(pytest.param(value, marks=pytest.mark.slow) for value in ([], {}, None, False))],
    )
    def test_what_is_not_known_to_be_data_is_code(self, key, value):
        for config in (
            config_with(("train#dataset", {key: value})),
            config_with(("settings#norm#1", {key: value})),
            {key: value},
        ):
            places = [code.place for code in foreign_code(config)]
            assert len(places) >= 1
            assert all(str(key).replace("::", "#") in place for place in places)

    @pytest.mark.parametrize(
        "key", ["alpha", "white matter", "networks.generator", "t1-ce", "größe", "脑", "\u00bd", "x_", "mae_255"]
    )
    def test_names_are_data(self, key):
        assert foreign_code(config_with(("settings#norm#1", {key: "text"}))) == []

    @pytest.mark.parametrize(
        ("key", "data", "code"),
        [
            ("_desc_", ["text", ""], [1, ["text"], {}, "$1", "%a", "@network"]),
            ("_disabled_", [True, False, "true"], [1, [], {"a": 1}, "$True", "@network", "%a"]),
        ],
    )
    def test_the_underscore_keys_that_are_data(self, key, data, code):
        for value in data:
            assert foreign_code(config_with((f"train#dataset#{key}", value))) == []
        for value in code:
            assert [result.place for result in foreign_code(config_with((f"train#dataset#{key}", value)))] != []

    def test_metadata_are_data_at_the_top_only(self):
        assert foreign_code(config_with(_meta_={"version": "1"})) == []
        assert foreign_code(config_with(_meta_={"version": "$1"})) != []
        assert foreign_code(config_with(("train#dataset#_meta_", {"version": "1"}))) != []

    def test_ids_in_keys_are_code_whatever_they_hold(self):
        for value in (0.3, "$0.3", {"_mode_": "debug"}):
            assert foreign_code({"settings#alpha": value}) != []
            assert foreign_code({"settings::alpha": value}) != []
            assert foreign_code({"train": {"settings#alpha": value}}) != []


class TestValues:
    @pytest.mark.parametrize(
        "value",
        [
            *(
                "$1",
                "$",
                "$import os",
                "%",
                "%network_def",
                "%/tmp/a.yaml",
                "%#alpha",
                "@",
                "@@",
                "@#alpha",
                "@::alpha",
            ),
            *(
                "@network",
                "@method",
                "@missing",
                "@train#dataset",
                "@#norm",
                "@##settings#norm#0",
                "@device",
                "@imports#0",
            ),
            *("@settings#norm#2", "@settings#norm#0#a", "@settings#norm:0", "@settings#norm#", "@ settings#norm#0"),
            *(
                "@settings#norm#0 ",
                "@settings#norm#0\n",
                "@_target_",
                "@resolved",
                "@method_name#0",
                "@settings#alpha#0",
            ),
            *(b"bytes", {1, 2}, 1j, object()),
        ],
    )
    def test_code_in_the_place_of_a_number(self, value):
        text = str(value)
        for holder, place in (
            (value, "settings#alpha"),
            ([value], "settings#alpha#0"),
            ({"a": value}, "settings#alpha#a"),
        ):
            result = foreign_code(config_with(("settings#alpha", holder)))
            assert [(code.place, code.text) for code in result] == [(place, text)]

    @pytest.mark.parametrize(
        "value", ["a$1", " $1", "a@b", " @a", "50 %", "＄1", "＠a", "", "None", 0, -1.5, None, [], {}]
    )
    def test_data_in_the_place_of_a_number(self, value):
        assert foreign_code(config_with(("settings#alpha", value))) == []

    @pytest.mark.parametrize(
        "text",
        [
            "@settings#norm",
            "@settings#norm#0",
            "@settings::norm::1::affine",
            "@settings#channels",
            "@mine",
            "@mine#a#0",
        ],
    )
    def test_references_to_data_are_data(self, text):
        assert foreign_code(config_with(("settings#alpha", text), mine={"a": [1]})) == []

    def test_a_reference_to_data_that_holds_one_is_not_followed(self):
        config = config_with(("settings#alpha", "@one"), one="@two", two=0.5)
        assert [code.place for code in foreign_code(config)] == ["settings#alpha"]

    @pytest.mark.parametrize(
        "target", ["@run_dir", "os.system", ["os.system"], {"a": 1}, {"_target_": "os.system"}, None, 1]
    )
    def test_targets_are_the_shipped_ones(self, target):
        result = foreign_code(config_with(("train#dataset#_target_", target)))
        assert result[0].place == "train#dataset#_target_"

    def test_a_shipped_target_at_another_place_is_foreign(self):
        handler = {"_target_": "medtrace.engines.ProgressBar"}
        assert foreign_code(config_with(("train#handlers#1", handler))) == []
        assert [code.place for code in foreign_code(config_with(("settings#alpha", handler)))] == [
            "settings#alpha#_target_"
        ]

    @pytest.mark.parametrize("value", ["/etc/cron.d/history", "", None, [], {}, {"a": 1}, 1])
    def test_where_a_run_writes_is_not_plain(self, value):
        places = [code.place for code in foreign_code(config_with(("train#handlers#4#path", value)))]
        assert places == ["train#handlers#4#path"]

    def test_what_other_uses_of_a_bundle_take_in_is_foreign_to_a_training(self):
        config = read_config(BUNDLES / "tracetrans" / "configs" / "inference.yaml")
        assert foreign_code(config, training=False) == []
        assert "preprocessing#transforms#0#_target_" in [code.place for code in foreign_code(config)]
        config = read_config(BUNDLES / "tracetrans" / "configs" / "evaluate.yaml")
        assert foreign_code(config, training=False) == []
        assert "handlers#0#_target_" in [code.place for code in foreign_code(config)]


class TestFiles:
    def read(self, folder, text):
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        return read_config(folder / "config.yaml")

    def test_aliases_are_entries_of_their_own(self, tmp_path):
        config = self.read(tmp_path, "a: &a [1, {b: 2}]\nc: *a\n")
        assert config == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}
        assert config["a"] is not config["c"]
        assert config["a"][1] is not config["c"][1]

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("a: {b: 1, b: 2}", "a#b"),
            ("a: 1\n'a': 2", "a"),
            ('{"a": [{"b": 1, "\\u0062": 2}]}', "a#0#b"),
            ("a: {<<: {b: 1}}", "a#<<"),
            ("<<: {b: 1}", "<<"),
            ("x: &x {_mode_: debug}\na: [{<<: [*x]}]", "a#0#<<"),
            ("a: {[1, 2]: 3}", "a"),
            ("a: {? {b: 1} : 3}", "a"),
        ],
    )
    def test_what_hides_an_entry_is_refused_with_its_place(self, tmp_path, text, place):
        with pytest.raises(
            ValueError, match=r"config\.yaml: cannot be read as a configuration \(line \d+: "
        ) as refusal:
            self.read(tmp_path, text)
        assert f": {place}: " in str(refusal.value)

    @pytest.mark.parametrize(
        "text", ["a: !!python/name:os.system x", "a: !!python/object/apply:os.system [true]", "a: !x 1"]
    )
    def test_tags_of_objects_are_refused(self, tmp_path, text):
        with pytest.raises(ValueError, match="take an intact copy"):
            self.read(tmp_path, text)

    def test_sets_and_bytes_are_no_data(self, tmp_path):
        config = self.read(tmp_path, "a: !!set {b, c}\nd: !!binary JDE=\n")
        assert [code.place for code in code_in(config)] == ["a", "d"]

    def test_merges_that_multiply_take_no_time(self, tmp_path):
        lines = ["a0: &a0 {x: 1}"]
        lines += [f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}" for k in range(1, 15)]
        with pytest.raises(ValueError, match="a1#<<"):
            self.read(tmp_path, "\n".join(lines))

    def test_it_has_a_mebibyte_and_50_levels_at_most(self, tmp_path):
        """The mapping is not a level; `a` is the first, and its list of lists the others."""
        assert self.read(tmp_path, f"a: {'[' * 49}0{']' * 49}") is not None
        with pytest.raises(ValueError, match="at most 20000 entries, 50 deep"):
            self.read(tmp_path, f"a: {'[' * 50}0{']' * 50}")
        assert self.read(tmp_path, "a: 1 #".ljust(1 << 20)) == {"a": 1}
        with pytest.raises(ValueError, match="at most 1048576 bytes"):
            self.read(tmp_path, "a: 1 #".ljust((1 << 20) + 1))

    def test_it_has_so_many_entries_at_most(self, tmp_path, monkeypatch):
        """`a` and the nine numbers in it are ten; an alias counts wherever it stands."""
        for module in (configurations, configuration_language):
            monkeypatch.setattr(module, "MAX_ENTRIES", 10)
        config = self.read(tmp_path, "a: [1, 2, 3, 4, 5, 6, 7, 8, 9]")
        assert code_in(config) == []
        for text in ("a: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", "a: &a [1, 2, 3, 4]\nb: *a\nc: 1"):
            with pytest.raises(ValueError, match="at most 10 entries"):
                self.read(tmp_path, text)
        with pytest.raises(ValueError, match="at most 10 entries"):
            check_code({"a": list(range(10))}, tmp_path)

    def test_text_that_is_no_utf8(self, tmp_path):
        (tmp_path / "config.yaml").write_bytes("a: größe".encode("latin-1"))
        with pytest.raises(ValueError, match=r"config\.yaml: expected text in UTF-8"):
            read_config(tmp_path / "config.yaml")

    @pytest.mark.parametrize("use", ["json", "comments"])
    def test_json_is_read_by_the_same_reader(self, tmp_path, use):
        text = '{"method": {"_mode_": "debug"}}' if use == "json" else '{"method": # {}\n {"_mode_": "debug"}}'
        with pytest.raises(ForeignCodeError, match="method#_mode_: debug"):
            check_code(self.read(tmp_path, text), tmp_path / "config.yaml")


class TestBundles:
    @pytest.fixture
    def mine(self, tmp_path):
        return shutil.copytree(TRAIN.parents[1], tmp_path / "mine")

    def train(self, folder, out, **values):
        return train_bundle(folder, None, out, device="cpu", **values)

    def test_a_copy_of_a_shipped_one_is_taken(self, mine):
        for file in sorted((mine / "configs").glob("*.yaml")):
            assert check_code(read_config(file), file, training=False) == []
        files = [mine / "configs" / f"{name}.yaml" for name in ("train", "multi_gpu_train")]
        ours = [TRAIN.parent / file.name for file in files]
        values = {"settings#training#seed": 3}
        own, shipped = (BundleTraining(chosen, mine, values).parser.get() for chosen in (files, ours))
        assert own == shipped
        assert list(own) == list(shipped)
        assert own["settings"]["training"]["seed"] == 3
        assert own["_meta_"]["name"] == "TraceTrans"

    def test_it_is_merged_as_monai_does(self, mine, tmp_path):
        (mine / "configs" / "more.yaml").write_text(
            "+imports: [$import torch]\nsettings#alpha: 0.25\n+settings: {channels: [4]}\n"
        )
        files = [mine / "configs" / f"{name}.yaml" for name in ("train", "more")]
        parser = ConfigParser()
        parser.read_config([str(file) for file in files])
        parser.read_meta(str(mine / "configs" / "metadata.json"))
        with pytest.raises(ForeignCodeError, match=r"more\.yaml.*\+imports"):
            self.train(mine, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        merged = BundleTraining(files, mine, {}).parser.get()
        assert merged == parser.get()
        assert list(merged) == list(parser.get())
        assert merged["imports"][-1] == "$import torch"
        assert (merged["settings"]["alpha"], merged["settings"]["channels"]) == (0.25, [4])

    def test_its_metadata_are_data(self, mine, tmp_path):
        (mine / "configs" / "metadata.json").write_text('{"name": "$import this"}')
        with pytest.raises(ForeignCodeError, match=r"metadata\.json.*_meta_#name: \$import this"):
            self.train(mine, tmp_path / "run")

    def test_files_that_are_harmless_apart_may_not_be_together(self, mine):
        """A reference to a number becomes one to code."""
        files = [mine / "configs" / f"{name}.yaml" for name in ("more", "train")]
        files[0].write_text("method: 0.5\nhow: '@method'\n")
        for file in files:
            assert check_code(read_config(file), file) == []
        with pytest.raises(ForeignCodeError, match=r"more\.yaml with .*train\.yaml.*\(how: @method\)"):
            BundleTraining(files, mine, {})

    def test_a_file_that_is_for_no_training(self, mine):
        files = [mine / "configs" / f"{name}.yaml" for name in ("train", "inference")]
        with pytest.raises(ForeignCodeError, match="preprocessing#_target_"):
            BundleTraining(files, mine, {})

    @pytest.mark.parametrize("allowed", [False, True])
    def test_its_folder_comes_onto_the_path_only_if_allowed(self, mine, monkeypatch, allowed):
        monkeypatch.setattr(sys, "path", list(sys.path))
        if allowed:
            monkeypatch.setenv(configurations.ALLOW, "1")
        workflow = BundleTraining([mine / "configs" / "train.yaml"], mine, {"run": ["$1 + 1"]})
        workflow.initialize()
        assert workflow.run() == [2]
        assert (str(mine) in sys.path) is allowed

    def test_a_configuration_that_trains_nothing_is_refused(self, mine):
        workflow = BundleTraining([mine / "configs" / "train.yaml"], mine, {})
        del workflow.parser.get()["run"]
        with pytest.raises(ValueError, match="run: expected the entry that trains"):
            workflow.run()

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("channels", [90_000, 90_000], "would take .* GiB; expected at most .* MEDTRACE_MAX_GIB"),
            ("channels", [10**9], "channels.*less than or equal to 100000"),
            ("alhpa", 1, "alhpa: is not a setting"),
        ],
    )
    def test_networks_that_cannot_be_are_refused(self, small_bundle, tmp_path, name, value, reason):
        folder = shutil.copytree(small_bundle, tmp_path / "mine")
        train_file = folder / "configs" / "train.yaml"
        config = read_config(train_file)
        config["settings"][name] = value
        train_file.write_text(yaml.safe_dump(config, sort_keys=False))
        with pytest.raises(ValueError, match=rf"train\.yaml: .*{reason}"):
            self.train(folder, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_presets_are_of_methods(self, small_bundle, tmp_path):
        with pytest.raises(ValueError, match=r"presets: expected none with a bundle, .* received smoke"):
            train(str(small_bundle), out=tmp_path / "run", presets=["smoke"])


@pytest.mark.parametrize("seed", range(30))
def test_what_is_accepted_runs_nothing_but_what_is_shipped(seed):
    """Of random changes; MONAI's own resolver says what it would call or evaluate, and at which place."""
    config = changed(seed)
    assert foreign_code(config) or strange(config) == []


def test_the_resolver_tells_what_is_strange():
    told = strange(config_with(("train#inferer#_mode_", "debug"), ("settings#channels", "$1")))
    assert {place for place, _ in told} >= {"train::inferer", "settings::channels"}
    assert strange(SMALL) == []
