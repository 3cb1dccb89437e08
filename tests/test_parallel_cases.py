"""Many cases at once: nothing lost, nothing done twice, and the same bytes from any number of workers.

What worker processes run is in this module, which therefore imports nothing heavy at its top.
"""

import gzip
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from medtrace.storage.cases import atomic_case, case_key, content_digest, is_finished, key_of
from medtrace.workflows.many.attempts import Task
from medtrace.workflows.many.parallel import LOST, run_cases

pytestmark = pytest.mark.usefixtures("standin_methods")


def square_of(number):
    if number == 3:
        raise ValueError("number: expected\n another, received 3")
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def setting_of(name):
    return os.environ.get(name)


def slow_case(folder, name, seconds):
    """A case that says when it starts and when it is done."""
    folder = Path(folder)
    key = case_key({}, name=name)
    if is_finished(folder / name, key):
        return "kept"
    say(folder, f"started {name} {os.getpid()}")
    with atomic_case(folder / name, key) as temporary:
        time.sleep(seconds)
        (temporary / "result.txt").write_text(name)
    say(folder, f"done {name} {os.getpid()}")
    return "done"


def say(folder, line):
    descriptor = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def said(folder):
    log = folder / "log.txt"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


# What a finished case is


def test_a_case_is_known_by_its_bytes_and_settings(tmp_path):
    (tmp_path / "a").write_bytes(b"scan")
    (tmp_path / "b").write_bytes(b"scan")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"slice")
    key = case_key({"image": tmp_path / "a", "mask": None}, steps=3)
    assert key == case_key({"image": tmp_path / "b", "mask": None}, steps=3)
    assert key != case_key({"image": tmp_path / "a", "mask": None}, steps=4)
    assert key != case_key({"image": tmp_path / "a", "mask": tmp_path / "b"}, steps=3)
    (tmp_path / "b").write_bytes(b"Scan")
    assert key != case_key({"image": tmp_path / "b", "mask": None}, steps=3)
    before = content_digest(tmp_path / "series")
    (tmp_path / "series" / "1.dcm").rename(tmp_path / "series" / "2.dcm")
    assert content_digest(tmp_path / "series") != before
    (tmp_path / "v.mhd").write_text("header")
    before = content_digest(tmp_path / "v.mhd")
    (tmp_path / "v.raw").write_bytes(b"voxels")
    assert content_digest(tmp_path / "v.mhd") != before
    with pytest.raises(FileNotFoundError, match="gone: no such file"):
        content_digest(tmp_path / "gone")


def test_a_case_appears_whole_or_not_at_all(tmp_path):
    place = tmp_path / "case"

    def fail_half_way():
        with atomic_case(place, "k") as temporary:
            (temporary / "half.txt").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert not place.exists()
    with atomic_case(place, "k") as temporary:
        (temporary / "images").mkdir()
        (temporary / "images" / "a.txt").write_text("whole")
    assert is_finished(place, "k")
    assert not is_finished(place, "other")
    assert key_of(place) == "k"
    with atomic_case(place, "k2") as temporary:
        (temporary / "a.txt").write_text("new")
    assert sorted(p.name for p in place.iterdir()) == ["a.txt", "case.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "a.txt").write_text("wholE"),
        lambda place: (place / "a.txt").write_text("who"),
        lambda place: (place / "a.txt").unlink(),
        lambda place: (place / "case.json").unlink(),
        lambda place: (place / "case.json").write_text("{"),
        lambda place: (place / "case.json").write_text("[]"),
    ],
    ids=["altered", "cut off", "missing", "no record", "broken record", "another record"],
)
def test_a_damaged_result_is_no_result(tmp_path, damage):
    with atomic_case(tmp_path / "case", "k") as temporary:
        (temporary / "a.txt").write_text("whole")
    assert is_finished(tmp_path / "case", "k")
    damage(tmp_path / "case")
    assert not is_finished(tmp_path / "case", "k")


# Running


def test_a_failure_stops_no_other_case():
    seen = []
    outcomes = run_cases(square_of, [Task(str(n), (n,)) for n in (4, 3, 2)], finished=lambda one: seen.append(one.name))
    assert [(one.name, one.value) for one in outcomes] == [("4", 16), ("3", None), ("2", 4)]
    assert outcomes[1].failure == "number: expected another, received 3"
    assert seen == ["4", "3", "2"]
    assert run_cases(square_of, [Task("a", ("x",))])[0].failure.startswith("unsupported operand")


def test_a_process_that_dies_takes_no_other_case_with_it():
    outcomes = run_cases(square_of, [Task(str(n), (n,)) for n in range(8)], workers=2)
    assert [one.value for one in outcomes] == [0, 1, 4, None, 16, None, 36, 49]
    assert outcomes[3].failure == "number: expected another, received 3"
    assert outcomes[5].failure == LOST


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match="workers: expected 1 or more, received 0"):
        run_cases(square_of, [], workers=0)
    with pytest.raises(ValueError, match="workers: expected none with a scheduler"):
        run_cases(square_of, [], workers=2, scheduler="tcp://x:1")
    with pytest.raises(ValueError, match="expected distinct names"):
        run_cases(square_of, [Task("a", (1,)), Task("a", (2,))])
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'medtrace\[dask\]'"):
        run_cases(square_of, [Task("a", (1,))], scheduler="tcp://x:1")


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=0
    ) as cluster:
        yield cluster


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("medtrace.workflows.many.dask_cluster.PATIENCE", 0.5)
    with pytest.raises(ConnectionError, match=r"no answer from 'tcp://127.0.0.1:9'"):
        run_cases(square_of, [Task("a", (1,))], scheduler="tcp://127.0.0.1:9")


def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(tmp_path, cluster):
    names = [f"case-{number:02d}" for number in range(12)]
    killed = []

    def kill_one(_):
        """After the first results: the process that is in the midst of a case."""
        log = said(tmp_path)
        done = {line[1] for line in log if line[0] == "done"}
        if len(done) >= 4 and not killed:
            busy = [line for line in said(tmp_path) if line[0] == "started" and line[1] not in done][-1]
            killed.append(busy[1])
            os.kill(int(busy[2]), signal.SIGKILL)

    tasks = [Task(name, (str(tmp_path), name, 0.3)) for name in names]
    outcomes = run_cases(slow_case, tasks, scheduler=cluster.scheduler_address, finished=kill_one)
    assert killed
    assert [one.failure for one in outcomes] == [None] * len(names)
    assert all(is_finished(tmp_path / name, case_key({}, name=name)) for name in names)
    log = said(tmp_path)
    assert sorted(line[1] for line in log if line[0] == "done") == names  # each once
    started = [line[1] for line in log if line[0] == "started"]
    assert started.count(killed[0]) == 2  # the killed case began again, and only that one
    assert len(started) == len(names) + 1
    again = run_cases(slow_case, tasks, workers=1)
    assert {one.value for one in again} == {"kept"}


# Preparing and translating


def write_pairs(folder, subjects=4):
    import nibabel
    import numpy as np

    folder.mkdir()
    rows = ["subject,source,target"]
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in (20, 24, 9)], indexing="ij")
    for number in range(subjects):
        tissue = 300 + 120 * np.cos(4 * x + number) * np.cos(3 * y) + 60 * z
        for time_, gain in (("a", 1.0), ("b", 1.3 + 0.1 * number)):
            data = np.where(x**2 + y**2 + z**2 < 0.9, gain * tissue, 0).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 1, 2, 1])), folder / f"s{number}{time_}.nii")
        rows.append(f"S{number},s{number}a.nii,s{number}b.nii")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


def prepared(pairs, out, **changes):
    from medtrace.workflows.prepare import prepare

    settings = {"align": True, "crop": None, "slices": 3, "fractions": (0.5, 0.0, 0.5), "progress": False}
    return prepare(pairs, out, **{**settings, **changes})


def contents(folder, ignore=()):
    """Bytes of all files below a folder; gzip's own header holds the time."""
    return {
        str(file.relative_to(folder)): gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ignore
    }


@pytest.fixture
def counted(monkeypatch):
    """Names of the pairs that are read, pass by pass."""
    from medtrace.data.preparation import learning
    from medtrace.workflows.preparation import writing as prepare_write

    read = {"learn": [], "write": []}

    def counting(module, name):
        original = module.read_case

        def call(pair, *arguments, **options):
            read[name].append(pair.name)
            return original(pair, *arguments, **options)

        monkeypatch.setattr(module, "read_case", call)

    counting(learning, "learn")
    counting(prepare_write, "write")
    return read


def test_prepare_lists_all_failures_and_goes_on_where_it_stopped(tmp_path, counted):
    from medtrace.workflows.many.parallel import CasesFailedError

    pairs = write_pairs(tmp_path / "raw")
    good = (tmp_path / "raw" / "s1b.nii").read_bytes()
    for name in ("s1b.nii", "s2a.nii"):
        (tmp_path / "raw" / name).write_bytes(b"broken")
    with pytest.raises(CasesFailedError, match=r"2 of 4 cases failed, the first: case S\d: .*data\.partial") as caught:
        prepared(pairs, tmp_path / "data")
    assert sorted(line[:8] for line in caught.value.failures) == ["case S1:", "case S2:"]
    assert sorted(counted["learn"]) == ["S0", "S1", "S2", "S3"]
    assert not (tmp_path / "data").exists()

    (tmp_path / "raw" / "s1b.nii").write_bytes(good)
    counted["learn"].clear()
    summary = prepared(pairs, tmp_path / "data", skip_failed=True)
    assert sorted(counted["learn"]) == ["S1", "S2"]  # the others are known
    assert [line[:8] for line in summary.failures] == ["case S2:"]
    assert sorted(counted["write"]) == ["S0", "S1", "S3"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "data.scans.json", "raw"]


def test_prepare_does_again_what_changed_and_only_that(tmp_path, counted):
    from medtrace.workflows import prepare as module

    pairs = write_pairs(tmp_path / "raw")
    assemble, index = module._assemble, {}

    def interrupted(dataset, *others):
        assemble(dataset, *others)
        index.update(json.loads((dataset / "dataset.json").read_text()))
        raise KeyboardInterrupt

    def attempt(**changes):
        """All but the last step."""
        module._assemble = interrupted
        for names in counted.values():
            names.clear()
        try:
            with pytest.raises(KeyboardInterrupt):
                prepared(pairs, tmp_path / "data", **changes)
        finally:
            module._assemble = assemble
        assert sorted(p.name for p in tmp_path.iterdir()) == ["data.partial", "raw"]
        return {name: sorted(names) for name, names in counted.items()}

    everything = ["S0", "S1", "S2", "S3"]
    assert attempt() == {"learn": everything, "write": everything}
    assert attempt() == {"learn": [], "write": []}
    written = next((tmp_path / "data.partial" / "written" / "S3" / "images").iterdir())
    written.write_bytes(written.read_bytes()[:-1])
    assert attempt() == {"learn": [], "write": ["S3"]}
    # A file of a test subject changes nothing that others follow from; one of a training subject does.
    test, training = index["test"][0]["subject"], index["training"][0]["subject"]
    for subject, expected in ((test, [test]), (training, everything)):
        other = next(name for name in everything if name not in (test, training))
        changed = bytearray((tmp_path / "raw" / f"{other.lower()}b.nii").read_bytes())
        changed[-1000] ^= 1 + everything.index(subject)  # its own scan: no two subjects share one
        (tmp_path / "raw" / f"{subject.lower()}b.nii").write_bytes(changed)
        assert attempt() == {"learn": [subject], "write": expected}
    assert attempt(slices=2) == {"learn": everything, "write": everything}


def test_translate_writes_each_image_once_under_its_own_name(tmp_path):
    from medtrace.workflows.many.translate_cases import translate_cases
    from tests.standins import shift_run

    pairs = write_pairs(tmp_path / "raw", 2)
    folder = pairs.parent
    (folder / "more").mkdir()
    shutil.copy(folder / "s1a.nii", folder / "more" / "s0a.nii")
    (folder / "broken.nii").write_bytes(b"broken")
    run = shift_run(tmp_path / "run", [1.0, 0.0])
    out = tmp_path / "out"
    result = translate_cases(run, [folder], out, progress=False, report=False)
    assert sorted(result.translated) == ["more_s0a", "raw_s0a", "s0b", "s1a", "s1b"]
    assert len(result.failures) == 1
    assert "broken.nii: cannot be read as NIfTI" in result.failures[0]
    assert sorted(p.name for p in out.iterdir()) == ["cases.csv", "index.html", *sorted(result.translated)]
    page = (out / "index.html").read_text()
    assert page.index("broken") < page.index("more_s0a")  # the worst first
    assert page.count("not certified</span>") == 6  # counted, and five
    assert (out / "cases.csv").read_text().count("translated") == 5
    before = {name: (out / name / "trace" / "trace.json").stat().st_mtime_ns for name in result.translated}

    again = translate_cases(run, [folder], out, progress=False, report=False)
    assert (again.translated, sorted(again.kept)) == ([], sorted(before))
    image = out / "s1a" / "trace" / "image.nii.gz"
    image.write_bytes(image.read_bytes()[:-9])
    third = translate_cases(run, [folder], out, progress=False, report=False)
    assert third.translated == ["s1a"]
    after = {name: (out / name / "trace" / "trace.json").stat().st_mtime_ns for name in before}
    assert {name for name in before if after[name] != before[name]} == {"s1a"}

    shutil.copy(folder / "s1b.nii", folder / "s0b.nii")
    fourth = translate_cases(run, [folder / "s0b.nii", folder / "s1b.nii"], out, progress=False, report=False)
    assert (fourth.kept, len(fourth.failures)) == (["s1b"], 1)
    assert "s0b: holds something else, or the result of another image" in fourth.failures[0]
    fifth = translate_cases(
        run, [folder / "s0b.nii", folder / "s1b.nii"], out, progress=False, report=False, overwrite=True
    )
    assert (fifth.translated, fifth.kept) == (["s0b"], ["s1b"])


def test_a_second_command_in_a_folder_is_refused(tmp_path):
    from medtrace.storage.reservations import locked
    from medtrace.workflows.many.translate_cases import translate_cases
    from medtrace.workflows.prepare import ENDING
    from tests.test_translate import tiny_tracetrans

    pairs = write_pairs(tmp_path / "raw")
    run = tiny_tracetrans(tmp_path / "run")
    with locked(tmp_path / f"data{ENDING}"), pytest.raises(OSError, match="is in use by process"):
        prepared(pairs, tmp_path / "data")
    with locked(tmp_path / "out"), pytest.raises(OSError, match="is in use by process"):
        translate_cases(run, [tmp_path / "raw" / "s0a.nii"], tmp_path / "out", progress=False, report=False)


def test_workers_have_the_settings_of_the_caller(monkeypatch):
    """The server that forks workers lives on from call to call, with the environment of the first."""
    tasks = [Task("set", ("MEDTRACE_TEST",))]
    for value in ("1", "2"):
        monkeypatch.setenv("MEDTRACE_TEST", value)
        assert run_cases(setting_of, [*tasks, Task("again", ("MEDTRACE_TEST",))], workers=2)[0].value == value
    monkeypatch.delenv("MEDTRACE_TEST")
    assert run_cases(setting_of, [*tasks, Task("again", ("MEDTRACE_TEST",))], workers=2)[0].value is None


@pytest.mark.slow
def test_several_workers_give_the_bytes_of_one(tmp_path):
    """Two processes that share the import of torch: preparing and translating with one worker and with two."""
    from medtrace.workflows.many.translate_cases import translate_cases
    from tests.test_translate import tiny_tracetrans

    pairs = write_pairs(tmp_path / "raw")
    run = tiny_tracetrans(tmp_path / "run")
    images = sorted((tmp_path / "raw").glob("*a.nii"))
    for workers in (1, 2):
        place = tmp_path / str(workers)
        prepared(pairs, place / "data", workers=workers)
        translate_cases(run, images, place / "out", progress=False, workers=workers, report=False)
    for name in ("data", "out"):
        one, two = (contents(tmp_path / workers / name, ignore=("case.json",)) for workers in "12")
        assert one.keys() == two.keys()
        assert [file for file in one if one[file] != two[file] and not file.endswith(".h5")] == []


@pytest.mark.parametrize(
    ("names", "one"),
    [
        (["a.dcm", "b.png"], True),
        (["1", "2", "a.nii.gz", "b.nrrd"], True),
        (["1", "a.nii.gz", "b.nrrd"], False),
        (["1.ima", "2.ima", "a.png"], True),
        (["a.png"], False),
        (["a.dcm", "notes.pdf", ".hidden.png", ".b.png"], True),
        ([], True),
    ],
)
def test_a_folder_is_one_series_unless_natural_images_outnumber_its_slices(tmp_path, names, one):
    from medtrace.data.lists.image_list import is_one_image

    for name in names:
        (tmp_path / name).touch()
    assert is_one_image(tmp_path) is one


def test_names_cannot_collide(tmp_path):
    from medtrace.data.lists.image_list import is_one_image, list_images

    for path in ("p1/t1.nii.gz", "p2/t1.nii.gz", "p2/T2.nii", "q/p2/t1.mha", "p1_t1.nii", "d/1.dcm", "d/2", "d/p.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert is_one_image(tmp_path / "d")
    assert not is_one_image(tmp_path / "p1")
    assert not is_one_image(tmp_path / "q")
    assert not is_one_image(tmp_path)
    names = {str(i.path.relative_to(tmp_path)): i.name for i in list_images([tmp_path])}
    assert names["d"] == "d"
    assert names["p2/T2.nii"] == "T2"
    assert len({name.casefold() for name in names.values()}) == len(names) == 6
    assert names["q/p2/t1.mha"] == "q_p2_t1"
    (tmp_path / "list.csv").write_text("image,name,mask\np1/t1.nii.gz,first,p1_t1.nii\np2/t1.nii.gz,,\n")
    listed = list_images([tmp_path / "list.csv"])
    assert [(i.name, i.mask) for i in listed] == [("first", tmp_path / "p1_t1.nii"), ("t1", None)]
    (tmp_path / "list.txt").write_text("p1/t1.nii.gz\n\np2/T2.nii\n")
    assert [i.name for i in list_images([tmp_path / "list.txt"])] == ["t1", "T2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,name\na.nii,x\nb.nii,X\n", "a.nii and .*b.nii would both be called 'X'"),
        ("image,name\na.nii,../x\n", r"row 2: name: expected letters.*received '\.\./x'"),
        ("image\na.nii\na.nii\n", "expected each once, received .*a.nii 2 times"),
        ("image\nc.nii\n", r"row 2: no such file .*c.nii"),
        ("path\na.nii\n", "expected the column image"),
        ("image,name\n,x\n", "row 2: no value for image"),
        ("image\n", "expected at least one, received none"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, content, message):
    from medtrace.data.lists.image_list import list_images

    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        list_images([tmp_path / "list.csv"])


def test_the_command_tells_failures_and_ends_with_1(tmp_path, capsys):
    from medtrace.cli import main
    from tests.standins import shift_run

    pairs = write_pairs(tmp_path / "raw", 1)
    run = shift_run(tmp_path / "run", [1.0, 0.0])
    (pairs.parent / "bad.nii").write_bytes(b"bad")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["translate", str(run), *map(str, arguments), "--no-report", "--out", str(tmp_path / "out")])
        return ended.value.code, *capsys.readouterr()

    code, out, err = call(pairs.parent / "s0a.nii", pairs.parent / "bad.nii")
    assert code == 1
    page = f"overview written to {tmp_path / 'out' / 'index.html'}\n"
    assert out == f"{tmp_path / 'out'}: 1 translated, 0 kept from before, 1 failed\n{page}"
    assert "medtrace: failed case bad: " in err
    code, out, _ = call(pairs.parent / "s0a.nii", pairs.parent / "s0b.nii")
    assert (code, out) == (0, f"{tmp_path / 'out'}: 1 translated, 1 kept from before, 0 failed\n{page}")
    assert "column mask" in call(pairs.parent, "--mask", pairs.parent / "s0a.nii")[2]
