"""The commands one after the other: from scans on disk to a trace on the scan's grid."""

import json

import nibabel
import numpy as np
import pytest

from medtrace.cli import main
from medtrace.io import load_trace
from tests.test_translate import OBLIQUE, head, save


def command(*arguments, code=0):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == code


def test_prepare_train_evaluate_translate(tmp_path, capsys):
    rows = ["subject,source,target"]
    for number in range(4):
        save(tmp_path / f"{number}a.nii.gz", head(seed=0.3 * number))
        save(tmp_path / f"{number}b.nii.gz", 1.3 * np.roll(head(seed=0.3 * number), 1, axis=0))
        rows.append(f"S{number},{number}a.nii.gz,{number}b.nii.gz")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "trace"
    command(
        "prepare", tmp_path / "pairs.csv", "--out", data, "--slices", "3", "--split", "0.5", "0.25", "0.25"
    )  # fmt: skip
    command(
        "train", "tracetrans", data, "--out", run, "--device", "cpu",
        "--set", "training.max_epochs=1", "--set", "channels=[4, 4]", "--set", "training.batch_size=3",
        "--set", "discriminator_channels=4", "--set", "discriminator_layers=1", "--set", "velocity_downsampling=0",
    )  # fmt: skip
    command("evaluate", run, data, "--device", "cpu")
    index = json.loads((data / "dataset.json").read_text())
    seen, unseen = (tmp_path / f"{index[split][0]['subject'][1:]}a.nii.gz" for split in ("training", "test"))
    command("translate", run, seen, "--out", out, "--device", "cpu", code=1)
    assert not out.exists()
    command("translate", run, unseen, "--out", out, "--device", "cpu")
    told = capsys.readouterr()
    assert f"{seen}: is an image that {run} has seen in training" in told.err
    text = told.out
    assert f"{data}: 6 training, 3 validation, 3 test" in text
    assert f"trace written to {out}" in text
    assert (run / "evaluation" / "test" / "method_summary.csv").is_file()
    assert (run / "preparation.json").read_bytes() == (data / "preparation.json").read_bytes()
    trace = load_trace(out)
    scan = nibabel.load(unseen)
    assert trace.image.shape == (1, *scan.shape)
    np.testing.assert_allclose(trace.affine, OBLIQUE, atol=1e-4)
    np.testing.assert_array_equal(trace.source[0], scan.get_fdata(dtype=np.float32))
    assert bool((trace.image[trace.warped == 0] == 0).all())
