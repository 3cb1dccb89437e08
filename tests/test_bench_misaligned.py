"""The studies of misaligned pairs: scores with a known truth, and what a study writes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medtrace.data import TraceBench
from medtrace.evaluation.bench import STUDIES, Row, misaligned
from medtrace.evaluation.tracers import identity, registrar_of, tracer_of
from medtrace.methods import method_class, resolve
from medtrace.methods.common.two_domain import RegistrationCorrection, TwoDomainMethod
from medtrace.metrics import CaseTable
from medtrace.networks import RegistrationUNet, translation_backbone
from medtrace.trace import Trace
from medtrace.workflows.bench import run_study


def cases(level, count=2):
    return TraceBench("misaligned", (32, 32), cases=count, split="test", settings={"level": level})


def small_method(corrected):
    torch.manual_seed(0)
    options = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1}
    backbone = translation_backbone("cyclegan", 2, 1, 1, bidirectional=False, options=options)
    network = RegistrationUNet(2, 1, channels=[4, 8])
    return TwoDomainMethod(backbone, correction=RegistrationCorrection(network) if corrected else None)


def row(method):
    """A row scored on aligned cases and on pairs of level 3, without a run folder."""
    sets = {"test": cases("0"), "pairs": cases("3")}
    tracer = identity if method is None else tracer_of(method)
    return Row("row", tracer, Path("run"), lambda _, entry="test": sets[entry], method)


def still(case, image):
    zero = torch.zeros(2, 32, 32)
    affine = case["source"].affine
    return Trace.build(
        source=case["source"], image=image, ddf=zero, inverse_ddf=zero, affine=affine, source_affine=affine
    )


@pytest.mark.slow
def test_a_perfect_translation_has_no_error_and_no_drift():
    case = cases("0")[0]
    values = misaligned.translation(still(case, case["target"]), case)
    for scale in ("unit", "symmetric"):
        for region in ("whole", "foreground"):
            assert values[f"nmae_{scale}_{region}"] == 0
            assert values[f"ssim_{scale}_{region}"] == pytest.approx(1)
    assert values["drift_mm"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_values_of_a_translation_by_hand():
    case = cases("0")[0]
    target, head = case["target"].as_tensor(), case["head"].as_tensor()
    values = misaligned.translation(still(case, target + 0.1 * head), case)
    assert values["nmae_symmetric_foreground"] == pytest.approx(0.1, rel=1e-4)
    assert values["nmae_unit_foreground"] == pytest.approx(0.05, rel=1e-4)
    assert values["nmae_symmetric_whole"] == pytest.approx(0.1 * float(head.float().mean()), rel=1e-4)
    assert values["psnr_unit_foreground"] == pytest.approx(20 * torch.log10(torch.tensor(20.0)).item(), rel=1e-4)


def test_a_shifted_translation_drifts_by_the_shift():
    case = cases("0")[0]
    spacing = float(case["target"].affine[0, 0])
    values = misaligned.translation(still(case, case["target"].roll(2, dims=1)), case)
    assert values["drift_right_mm"] == pytest.approx(2 * spacing, abs=0.2 * abs(spacing))
    assert values["drift_mm"] == pytest.approx(2 * abs(spacing), abs=0.2 * abs(spacing))


def test_the_true_field_of_a_pair_has_no_error_and_the_zero_field_all_of_it():
    pair = cases("4")[0]
    affine = pair["target"].affine
    trace = Trace.build(
        source=pair["source"],
        image=pair["target"],
        ddf=pair["ddf"],
        inverse_ddf=pair["inverse_ddf"],
        affine=affine,
        source_affine=affine,
    )
    values = misaligned.registration(trace, pair)
    assert values["epe_head_mm"] == pytest.approx(0, abs=1e-6)
    length = pair["ddf"].norm(dim=0)[pair["head"].as_tensor()[0]].mean()
    assert values["zero_head_mm"] == pytest.approx(float(length) * abs(float(affine[0, 0])), rel=1e-5)
    assert values["folded_fraction"] == 0


def test_a_registration_that_starts_at_zero_is_the_zero_field():
    table = misaligned.scores(row(small_method(corrected=True)))
    assert all(values["epe_head_mm"] == values["zero_head_mm"] > 0 for values in table.rows.values())
    assert len(table.rows) == 2, "a pair and the aligned case of one subject are one line"
    assert misaligned.totals({"R": table})["share_of_zero_field_epe"] == {"R": 1}


def test_rows_that_do_not_register_have_no_field_to_score():
    for method in (None, small_method(corrected=False)):
        table = misaligned.scores(row(method))
        assert "epe_head_mm" not in table.columns
        assert misaligned.totals({"row": table})["share_of_zero_field_epe"] == {}


def test_registrar_gives_the_method_s_own_field():
    method = small_method(corrected=True)
    pair = cases("3")[0]
    batch = {name: pair[name][None] for name in ("source", "target")}
    trace = registrar_of(method)(batch)[0]
    torch.testing.assert_close(trace.ddf, method.trace_pair(batch["source"], batch["target"])[0].ddf)


def test_drifts_that_cancel_are_chance_and_others_are_common():
    chance, common = CaseTable(), CaseTable()
    for index, sign in enumerate((1, -1)):
        chance.add(f"case {index}", {"drift_right_mm": 3.0 * sign, "drift_anterior_mm": -4.0 * sign})
        common.add(f"case {index}", {"drift_right_mm": 3.0, "drift_anterior_mm": -4.0})
    result = misaligned.totals({"chance": chance, "common": common})
    assert result["common_drift_mm"] == {"chance": 0, "common": 5}
    assert result["mean_drift_mm"]["common"] == [3, -4]


def test_pairs_without_misalignment_have_no_share():
    table = CaseTable()
    table.add("case", {"drift_right_mm": 0.0, "epe_head_mm": 0.2, "zero_head_mm": 0.0})
    assert misaligned.totals({"row": table})["share_of_zero_field_epe"] == {}


@pytest.mark.slow
def test_a_study_of_noise_trains_scores_and_draws(tmp_path):
    noise = STUDIES["misaligned"]["noise"]
    names = ["RegGAN (NC+R), noise 0", "Pix2Pix, noise 5", "RegGAN (NC+R), noise 5"]
    study = replace(
        noise,
        rows={name: noise.rows[name] for name in names},
        places={name: noise.places[name] for name in names},
    )
    results = run_study(study, "smoke", tmp_path, device="cpu", progress=False)
    folder = tmp_path / "misaligned" / "noise"
    runs = {path.name for path in (tmp_path / "runs" / "smoke-0").iterdir()}
    assert runs == {
        "level-0-cyclegan-nc-r", "level-5-cyclegan-pix2pix", "level-5-cyclegan-nc-r",
    }  # fmt: skip
    assert json.loads((folder / "results.json").read_text())["rows"].keys() == {"identity (T1)", *names}
    assert results["rows"]["RegGAN (NC+R), noise 5"]["zero_head_mm"]["mean"] > 5
    assert results["rows"]["RegGAN (NC+R), noise 0"]["zero_head_mm"]["mean"] == 0
    assert set(results["share_of_zero_field_epe"]) == {"RegGAN (NC+R), noise 5"}
    assert "epe_head_mm" not in results["rows"]["Pix2Pix, noise 5"]
    layout = (folder / "paper_table.md").read_text().splitlines()
    assert layout[0] == "|  |  | noise 0 | noise 5 | n |"
    assert [line.split("|")[1:3] for line in layout[2:]] == [
        [f" {method} ", f" {measure} "]
        for method in ("RegGAN (NC+R)", "Pix2Pix")
        for measure in ("NMAE", "PSNR (dB)", "SSIM")
    ]
    for name in ("comparison", "levels", "registration", "training_pix2pix"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 3_000
    assert (folder / "traces" / "reggan-nc-plus-r-noise-5" / "misaligned-test-0000_pair" / "trace.json").is_file()
    assert (folder / "figures" / "reggan-nc-plus-r-noise-5_misaligned-test-0000_pair.png").is_file()


def test_the_modes_have_sixteen_cells_and_the_noise_eighteen():
    assert len(STUDIES["misaligned"]["modes"].rows) == 16
    assert len(STUDIES["misaligned"]["noise"].rows) == 18
    unpaired = STUDIES["misaligned"]["unpaired"].rows.values()
    assert all(method.settings["data.pairing"] == "random" for method in unpaired)
    modes = STUDIES["misaligned"]["modes"].rows.values()
    cells = set()
    for row in modes:
        settings = resolve(method_class(row.method).settings_type, ("tracebench",), row.settings)
        assert (settings.data.level, settings.data.moved) == ("table1", "both")
        assert not settings.paired
        cells.add((settings.backbone, settings.cycle, settings.correction))
    assert len(cells) == 16
