"""Run folders and bundles from elsewhere run nothing that medtrace does not ship, by any door of MONAI's language."""

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from monai.bundle import ConfigParser
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.guard import configuration_language, configurations
from medtrace.guard.configuration_language import code_in
from medtrace.guard.configurations import BUNDLES, ForeignCodeError, check_code, foreign_code, read_config
from medtrace.workflows.bench.cases import Cases
from medtrace.workflows.bundle_files import TrainingWorkflow, bundle_folder, overlay_file
from medtrace.workflows.runs import load_objective
from tests.cases import common, foreign_runs
from tests.fuzz.configurations import SMALL, changed, strange

CASES = common.CASES[foreign_runs.__name__]
TRAININGS = ("module_beside_the_configuration", "whole_bundle_elsewhere")  # what is right, and takes its time
MARKER = foreign_runs.MARKER
TRAIN = BUNDLES / "tracetrans" / "configs" / "train.yaml"


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch):
    monkeypatch.delenv(configurations.ALLOW, raising=False)


@pytest.fixture
def write_case(tmp_path, smoke_run):
    """Write a case into the test's folder; what is right."""
    return lambda name: common.write(CASES[name], tmp_path / name, SimpleNamespace(run=smoke_run))


def in_a_child(folder, *command):
    """A command in a process of its own, whose working directory is the folder."""
    call = [sys.executable, "-c", "from medtrace.cli import app; app()", *command]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # as the command that pip installs: not the folder itself
    return subprocess.run(
        call, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=600
    )


def is_right(expected, folder, exit_code, errors):
    assert not (folder / MARKER).exists(), "code of the run was run"
    if expected["accept"] == ["read"]:
        assert exit_code == 0, errors
        return
    lines = errors.strip().splitlines()
    assert exit_code == 1, errors
    assert len(lines) == 1, errors
    assert [name for name in expected["names"] if name not in lines[0]] == []
    assert "--allow-foreign-code" in lines[0] or "cannot be read as a configuration" in lines[0]
    assert not (folder / "trace").exists()
    assert not (folder / "trained").exists()


@pytest.mark.parametrize("name", [name for name in CASES if name not in TRAININGS])
def test_cases(name, write_case, tmp_path, monkeypatch):
    expected, folder = write_case(name), tmp_path / name
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, expected["command"], catch_exceptions=False)
    is_right(expected, folder, done.exit_code, done.stderr)
    assert expected["accept"] == ["read"] or sorted(folder.rglob("*")) == before, "a refusal writes nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_cases_in_processes_of_their_own(name, write_case, tmp_path):
    expected, folder = write_case(name), tmp_path / name
    done = in_a_child(folder, *expected["command"])
    is_right(expected, folder, done.returncode, done.stderr)


def test_a_debugger_reads_no_file_of_the_working_directory(write_case, tmp_path):
    expected, folder = write_case("mode_debug"), tmp_path / "mode_debug"
    done = in_a_child(folder, *expected["command"])
    is_right(expected, folder, done.returncode, done.stderr)


def test_the_marker_would_be_made_if_it_were_run(write_case, tmp_path, monkeypatch):
    """What the cases rest on: allowed, the debugger executes the file."""
    write_case("mode_debug")
    monkeypatch.chdir(tmp_path / "mode_debug")
    load_objective("run", "cpu", allow_foreign_code=True)
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
    def test_what_is_not_known_to_be_data_is_code(self, key):
        name = str(key).replace("::", "#")
        for value in ("debug", [], {}, None, False, {"a": [1]}):
            found = foreign_code({key: value, "objective": {"a": [{key: value}]}})
            assert {code.place for code in found} >= {name, f"objective#a#0#{name}"}
            assert all(name in code.place for code in found)

    @pytest.mark.parametrize(
        "key", ["alpha", "white matter", "networks.generator", "t1-ce", "größe", "脑", "\u00bd", "x_", "mae_255"]
    )
    def test_names_are_data(self, key):
        assert foreign_code(config_with(("norm#1", {key: "text"}))) == []

    @pytest.mark.parametrize(
        ("key", "data", "code"),
        [
            ("_desc_", ["text", ""], [1, ["text"], {}, "$1", "%a", "@network"]),
            ("_disabled_", [True, False, "true"], [1, [], {"a": 1}, "$True", "@network", "%a"]),
        ],
    )
    def test_the_underscore_keys_that_are_data(self, key, data, code):
        for value in data:
            assert foreign_code(config_with((f"objective#{key}", value))) == []
        for value in code:
            assert [found.place for found in foreign_code(config_with((f"objective#{key}", value)))] != []

    def test_metadata_are_data_at_the_top_only(self):
        assert foreign_code(config_with(_meta_={"version": "1"})) == []
        assert foreign_code(config_with(_meta_={"version": "$1"})) != []
        assert foreign_code(config_with(("objective#_meta_", {"version": "1"}))) != []

    def test_ids_of_shipped_overlays_are_known_with_plain_values_only(self):
        assert foreign_code({"objective#alpha": 0.3}) == []
        assert foreign_code({"objective#alpha": "$0.3"}) != []
        assert foreign_code({"objective#alpha": {"_mode_": "debug"}}) != []
        assert foreign_code({"objective::alpha": 0.3}) != []
        assert foreign_code({"train": {"objective#alpha": 0.3}}) != []


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
            *("@network", "@objective", "@missing", "@data#training", "@norm", "@##norm#0", "@device", "@imports#0"),
            *("@norm#2", "@norm#0#a", "@norm:0", "@norm#", "@ norm#0", "@norm#0 ", "@norm#0\n", "@_target_"),
            *(b"bytes", {1, 2}, 1j, object()),
        ],
    )
    def test_code_in_the_place_of_a_number(self, value):
        text = str(value)
        for holder, place in (
            (value, "objective#alpha"),
            ([value], "objective#alpha#0"),
            ({"a": value}, "objective#alpha#a"),
        ):
            if value == "@norm":
                continue
            found = foreign_code(config_with(("objective#alpha", holder)))
            assert [(code.place, code.text) for code in found] == [(place, text)]

    @pytest.mark.parametrize(
        "value", ["a$1", " $1", "a@b", " @a", "50 %", "＄1", "＠a", "", "None", 0, -1.5, None, [], {}]
    )
    def test_data_in_the_place_of_a_number(self, value):
        assert foreign_code(config_with(("objective#alpha", value))) == []

    @pytest.mark.parametrize("text", ["@norm", "@norm#0", "@norm::1::affine", "@channels", "@mine", "@mine#a#0"])
    def test_references_to_data_are_data(self, text):
        assert foreign_code(config_with(("objective#alpha", text), mine={"a": [1]})) == []

    def test_a_reference_to_data_that_holds_one_is_not_followed(self):
        config = config_with(("objective#alpha", "@one"), one="@two", two=0.5)
        assert [code.place for code in foreign_code(config)] == ["objective#alpha"]

    @pytest.mark.parametrize(
        "target", ["@run_dir", "os.system", ["os.system"], {"a": 1}, {"_target_": "os.system"}, None, 1]
    )
    def test_targets_are_the_shipped_ones(self, target):
        found = foreign_code(config_with(("objective#_target_", target)))
        assert found[0].place == "objective#_target_"

    def test_a_shipped_target_at_another_place_is_foreign(self):
        handler = {"_target_": "medtrace.engines.ProgressBar"}
        assert foreign_code(config_with(("train#handlers#0", handler))) == []
        assert [code.place for code in foreign_code(config_with(("objective#alpha", handler)))] == [
            "objective#alpha#_target_"
        ]

    @pytest.mark.parametrize("value", ["/etc/cron.d/history", "", None, [], {}, {"a": 1}, 1])
    def test_where_a_run_writes_is_not_plain(self, value):
        places = [code.place for code in foreign_code(config_with(("train#handlers#0#path", value)))]
        assert places == ["train#handlers#0#path"]

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
        """The mapping is no level; `a` is the first, and its list of lists the others."""
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
        text = '{"objective": {"_mode_": "debug"}}' if use == "json" else '{"objective": # {}\n {"_mode_": "debug"}}'
        with pytest.raises(ForeignCodeError, match="objective#_mode_: debug"):
            check_code(self.read(tmp_path, text), tmp_path / "config.yaml")


class TestBundles:
    @pytest.fixture
    def bundle(self, tmp_path):
        configs = tmp_path / "mine" / "configs"
        configs.mkdir(parents=True)
        for name in ("train.yaml", "tracebench.yaml", "smoke.yaml", "inference.yaml", "evaluate.yaml", "metadata.json"):
            (configs / name).write_bytes((TRAIN.parent / name).read_bytes())
        return tmp_path / "mine"

    def test_a_copy_of_a_shipped_one_is_taken(self, bundle):
        assert bundle_folder(str(bundle)) == bundle
        files = [bundle / "configs" / f"{name}.yaml" for name in ("train", "tracebench", "smoke")]
        ours = [TRAIN.parent / file.name for file in files]
        mine, shipped = (TrainingWorkflow(chosen, bundle, {"seed": 3}).parser.get() for chosen in (files, ours))
        assert mine == shipped
        assert list(mine) == list(shipped)
        assert mine["seed"] == 3
        assert mine["_meta_"]["name"] == "TraceTrans"

    def test_it_is_merged_as_monai_does(self, bundle):
        (bundle / "configs" / "smoke.yaml").write_text("+norm: [more]\nobjective#alpha: 0.25\nchannels: [4]\n")
        files = [bundle / "configs" / f"{name}.yaml" for name in ("train", "smoke")]
        parser = ConfigParser()
        parser.read_config([str(file) for file in files])
        parser.read_meta(str(bundle / "configs" / "metadata.json"))
        with pytest.raises(ForeignCodeError, match=r"smoke\.yaml.*\+norm"):
            bundle_folder(str(bundle))
        merged = TrainingWorkflow(files, bundle, {}).parser.get()
        assert merged == parser.get()
        assert list(merged) == list(parser.get())
        assert merged["norm"][-1] == "more"

    def test_its_metadata_are_data(self, bundle):
        (bundle / "configs" / "metadata.json").write_text('{"name": "$import this"}')
        with pytest.raises(ForeignCodeError, match=r"metadata\.json.*_meta_#name: \$import this"):
            bundle_folder(str(bundle))

    def test_files_that_are_harmless_apart_may_not_be_together(self, bundle):
        """Each file is of a shipped bundle, but not of the same one."""
        other = BUNDLES / "reggan" / "configs" / "train.yaml"
        (bundle / "configs" / "smoke.yaml").write_bytes(other.read_bytes())
        assert bundle_folder(str(bundle)) == bundle
        with pytest.raises(ForeignCodeError, match=r"train\.yaml with .*smoke\.yaml"):
            TrainingWorkflow([bundle / "configs" / f"{name}.yaml" for name in ("train", "smoke")], bundle, {})

    def test_an_overlay_that_is_for_no_training(self, bundle):
        files = [bundle / "configs" / f"{name}.yaml" for name in ("train", "inference")]
        with pytest.raises(ForeignCodeError, match="preprocessing#_target_"):
            TrainingWorkflow(files, bundle, {})

    def test_an_overlay_from_elsewhere_is_checked(self, tmp_path):
        (tmp_path / "mine.yaml").write_text("objective#alpha: 0.25\n")
        assert overlay_file(BUNDLES / "tracetrans", str(tmp_path / "mine")) == tmp_path / "mine.yaml"
        (tmp_path / "mine.yaml").write_text("objective#alpha: $0.25\n")
        with pytest.raises(ForeignCodeError, match=r"mine\.yaml"):
            overlay_file(BUNDLES / "tracetrans", str(tmp_path / "mine"))

    @pytest.mark.parametrize("allowed", [False, True])
    def test_its_folder_comes_onto_the_path_only_if_allowed(self, bundle, monkeypatch, allowed):
        monkeypatch.setattr(sys, "path", list(sys.path))
        if allowed:
            monkeypatch.setenv(configurations.ALLOW, "1")
        workflow = TrainingWorkflow([bundle / "configs" / "train.yaml"], bundle, {"run": ["$1 + 1"]})
        workflow.initialize()
        assert workflow.run() == [2]
        assert (str(bundle) in sys.path) is allowed

    def test_a_configuration_that_trains_nothing_is_refused(self, bundle):
        workflow = TrainingWorkflow([bundle / "configs" / "train.yaml"], bundle, {})
        del workflow.parser.get()["run"]
        with pytest.raises(ValueError, match="run: expected the entry that trains"):
            workflow.run()


@pytest.mark.parametrize("seed", range(30))
def test_what_is_accepted_runs_nothing_but_what_is_shipped(seed):
    """Of random changes; MONAI's own resolver says what it would call or evaluate, and at which place."""
    config = changed(seed)
    assert foreign_code(config) or strange(config) == []


def test_the_resolver_tells_what_is_strange():
    told = strange(
        config_with(("objective#_mode_", "debug"), ("network_def#channels", "$1"), ("norm", "@train#handlers#2"))
    )
    assert {place for place, _ in told} >= {"objective", "network_def::channels"}
    assert strange(SMALL) == []


def test_cases_of_a_run_are_made_of_shipped_code_only(tmp_path):
    config = read_config(TRAIN)
    config["data"]["test"] = f"${foreign_runs.MAKE_MARKER}"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ForeignCodeError, match="data#test"):
        Cases()(tmp_path)
