"""`medtrace register`: alignment, mask roles, verdicts and exit codes, many pairs, threads, real heads."""

import csv
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.io import load_trace
from medtrace.kernels import threads
from medtrace.workflows.register import register
from tests.test_register import AFFINE, brain
from tests.test_translate import save


def command(*arguments):
    return CliRunner().invoke(app, ["register", *map(str, arguments)])


@pytest.fixture
def slices(tmp_path):
    """A fixed slice with a lesion; a moving one whose header is turned by 180°; noise."""
    fixed, lesion = brain((48, 54), lesion=True)
    moving = brain((48, 54), shift=2.0)[0]
    turned = AFFINE @ np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:2, 3] = (47 * 3, 53 * 3)
    noise = np.random.default_rng(0).normal(500, 100, (48, 54))
    images = {
        "fixed": (fixed, AFFINE),
        "turned": (moving, turned),
        "noise": (noise, AFFINE),
        "moving": (moving, AFFINE),
    }
    paths = {name: save(tmp_path / f"{name}.nii.gz", data[..., None], where) for name, (data, where) in images.items()}
    paths["lesion"] = save(tmp_path / "lesion.nii.gz", lesion[..., None], AFFINE, np.uint8)
    return paths


def test_a_turned_header_is_found_and_the_trace_interpolates_once(slices, tmp_path):
    result = command(slices["turned"], slices["fixed"], "--mask", slices["lesion"], "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "rigid: rotated by 180°" in result.stdout
    trace = load_trace(tmp_path / "out")
    points = torch.tensor([[60.0, 66.0, 0.0], [90.0, 84.0, 0.0]], dtype=torch.float64)
    there = trace.origin(points)
    # The moving voxel two behind the fixed one, by the turned header.
    expected = torch.tensor([[141.0, 159.0, 0.0]]) - points - torch.tensor([[6.0, 0.0, 0.0]])
    assert float((there - expected).norm(dim=1).max()) < 3.0
    assert float((trace.locate(there) - points).norm(dim=1).max()) < 0.5
    details = json.loads((tmp_path / "out" / "trace.json").read_text())["metadata"]
    matrix = np.array(details["alignment"]["matrix_fixed_to_moving_ras_mm"])
    np.testing.assert_allclose(matrix[:2, :2], -np.eye(2), atol=0.02)
    assert {check["name"] for check in details["verdict"]["checks"]} >= {"coverage", "two starts", "field and inverse"}


def test_a_failure_is_written_marked_and_exits_with_3(slices, tmp_path):
    out = tmp_path / "out"
    result = command(slices["noise"], slices["fixed"], "--align", "none", "--out", out)
    assert result.exit_code == 3, result.output
    assert result.stdout.startswith("FAIL: ")
    assert "marked as FAIL" in result.stdout
    assert json.loads((out / "trace.json").read_text())["metadata"]["verdict"]["verdict"] == "FAIL"
    assert '"verdict":"FAIL"' in out.with_name("out.html").read_text()
    assert command(slices["noise"], slices["fixed"], "--align", "none", "--out", out).exit_code == 1, "in use"


def test_headers_apart_are_an_error_before_the_work(slices, tmp_path):
    far = AFFINE.copy()
    far[0, 3] = 1000
    moved = save(tmp_path / "far.nii.gz", brain((48, 54))[0][..., None], far)
    for arguments in ([], ["--align", "none"], ["--engine", "instance", "--align", "none"]):
        result = command(moved, slices["fixed"], "--out", tmp_path / "out", *arguments)
        assert result.exit_code == 1
        assert "mm apart by their headers" in result.stderr
        assert not (tmp_path / "out").exists()


def test_roles_of_a_mask(slices, tmp_path):
    change = {}
    for role in ("exclude", "appearance", "both"):
        found = register(
            slices["moving"], slices["fixed"], tmp_path / role, mask=slices["lesion"], mask_role=role, report=False,
            progress=False,
        )  # fmt: skip
        change[role] = found.trace.appearance
        assert json.loads((tmp_path / role / "trace.json").read_text())["metadata"]["mask_role"] == role
    assert not change["exclude"].any()
    assert bool((change["appearance"] < -100).any())
    assert bool((change["both"] < -100).any())


def test_what_does_not_go_together(slices, tmp_path):
    pair = slices["moving"], slices["fixed"]
    for options, expected in (
        (["--same-person", "--align", "affine"], "--same-person: expected with the alignment rigid"),
        (["--engine", "greedy", "--refine", 3], "takes no gradient steps"),
        (["--engine", "instance", "--similarity", "mi"], "expected with the engine greedy"),
        (["--similarity", "ssd"], "--similarity: expected"),
        (["--preset", "best"], "--preset: expected"),
        (["--mask-role", "none"], "--mask-role: expected"),
        (["--align", "maybe"], "--align: expected"),
        (["--engine", "best"], "--engine: expected"),
    ):
        result = command(*pair, "--out", tmp_path / "out", *options)
        assert result.exit_code == 1
        assert expected in result.stderr, result.stderr


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_many_pairs_worst_first_and_kept(slices, tmp_path, workers):  # noqa: ARG001 - makes the files
    rows = [("b", "moving"), ("a", "turned"), ("c", "noise")]
    lines = [f"{subject},{name}.nii.gz,fixed.nii.gz,lesion.nii.gz" for subject, name in rows]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join(["subject,source,target,target_lesion", *lines]))
    result = command(pairs, "--out", tmp_path / "out", "--workers", workers)
    assert result.exit_code == 3, result.output
    listed = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert listed[0]["case"] == "c"
    statuses = [row["status"] for row in listed]
    assert statuses == sorted(statuses, key="FAIL WARN PASS".index)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.index("c/trace.html") < page.index("a/trace.html")
    assert 'src="c/thumbnail.png"' in page
    assert (tmp_path / "out" / "c" / "thumbnail.png").read_bytes().startswith(b"\x89PNG")
    assert 0 <= float(listed[0]["covered, %"]) <= 100
    before = (tmp_path / "out" / "a" / "trace" / "trace.json").stat().st_mtime_ns
    assert command(pairs, "--out", tmp_path / "out").exit_code == 3
    assert (tmp_path / "out" / "a" / "trace" / "trace.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_folder_to_a_template(slices, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("moving", "turned"):
        slices[name].rename(folder / slices[name].name)
    (folder / "broken.nii.gz").write_bytes(b"no image")
    result = command(folder, slices["fixed"], "--out", tmp_path / "out", "--no-report")
    assert result.exit_code == 1
    listed = list(csv.DictReader((tmp_path / "out" / "cases.csv").open()))
    assert listed[0]["case"] == "broken"
    assert listed[0]["status"] == "error"
    assert {row["case"] for row in listed} == {"broken", "moving", "turned"}
    assert command(folder, "--out", tmp_path / "other").exit_code == 1


def test_torch_is_left_as_it_was():
    torch.set_num_threads(1)
    before = threads.current()
    with threads.own_pool(2):
        assert (threads.current(), torch.get_num_threads()) == (2, 1)
        with threads.own_pool(3):
            assert threads.current() == 2, "the outer block has its say"
    assert (threads.current(), torch.get_num_threads()) == (before, 1)
    with pytest.raises(RuntimeError), threads.own_pool(2):
        raise RuntimeError
    assert threads.current() == before


@pytest.mark.real_data
@pytest.mark.slow
def test_corrupted_heads_are_recovered_or_fail(real_data):  # noqa: ARG001 - skips where it is absent
    from tests.benchmarks.registered_cases import SPOILS
    from tests.benchmarks.registration import carry
    from tests.benchmarks.registration_turns import outcomes
    from tests.real_heads import head, mean_dice, segmented

    moving, fixed = head("patient07"), head("patient19")
    labels = segmented(moving), segmented(fixed)

    def dice(ddf, bad, coarse):
        return mean_dice(carry(ddf, bad, coarse, labels[0], fixed), labels[1])

    for alignment in ("auto", "none"):
        for what, one in outcomes("T1 to another's T1", SPOILS, alignment, dice).items():
            if "1 m off" in what:
                assert "apart by their headers" in one.why
            else:
                assert one.grade != "PASS" or one.overlap > 0.7, f"{what}, {alignment}: {one.why}"
