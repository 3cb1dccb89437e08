"""Settings: names, presets, values, and what is reported where they are wrong."""

import json

import pytest
from pydantic import ValidationError

from medtrace.methods import PreparedData, TraceBenchData, method_class, method_names, resolve
from medtrace.methods.settings import names_of

TRACETRANS = method_class("tracetrans").settings_type
REGGAN = method_class("reggan").settings_type


@pytest.mark.parametrize("name", method_names())
def test_every_value_survives_json(name):
    kind = method_class(name).settings_type
    for preset in [(), ("tracebench",), ("tracebench", "smoke"), ("tracebench", "full")]:
        settings = resolve(kind, preset)
        again = resolve(kind, start=json.loads(settings.model_dump_json()))
        assert again == settings


@pytest.mark.parametrize("name", method_names())
def test_every_preset_can_be_laid_on_tracebench(name):
    kind = method_class(name).settings_type
    for preset in kind.presets:
        assert isinstance(resolve(kind, ["tracebench", preset]).data, TraceBenchData)


def test_the_papers_settings_are_the_defaults():
    settings = TRACETRANS()
    assert (settings.alpha, settings.gamma, settings.adversarial_weight, settings.smoothness_weight) == (
        0.5,
        1,
        0.01,
        0.2,
    )
    assert settings.channels == (64, 128, 256, 512, 512)
    assert (settings.training.batch_size, settings.training.max_epochs) == (8, 500)
    assert (settings.optimizer.learning_rate, settings.optimizer.betas) == (2e-4, (0.5, 0.999))
    assert (settings.warp_bins, settings.cross_bins) == (16, 32)
    reggan = REGGAN()
    assert (reggan.correction_weight, reggan.smoothness_weight, reggan.cycle_weight) == (20, 10, 10)
    assert (reggan.optimizer.learning_rate, reggan.training.max_epochs, reggan.training.batch_size) == (1e-4, 80, 1)
    plasticine = method_class("plasticine").settings_type()
    assert (plasticine.noise_optimizer.learning_rate, plasticine.noise_optimizer.warmup_steps) == (1e-4, 10_000)
    assert (plasticine.deformation_optimizer.learning_rate, plasticine.deformation_optimizer.warmup_steps) == (
        2e-4,
        200,
    )
    assert (plasticine.schedule.steps, plasticine.schedule.first_beta, plasticine.schedule.last_beta) == (
        2000,
        1e-6,
        1e-2,
    )
    metaregnet = method_class("metaregnet").settings_type()
    assert (metaregnet.num_blocks, metaregnet.diffusion_weight, metaregnet.folding_weight) == (7, 1.0, 1e-3)


def test_a_group_keeps_what_is_not_set():
    settings = resolve(method_class("metaregnet").settings_type, (), {"optimizer.learning_rate": 1e-2})
    assert (settings.optimizer.learning_rate, settings.optimizer.betas) == (1e-2, (0.9, 0.999))


def test_a_whole_group_may_be_given():
    settings = resolve(TRACETRANS, (), {"training": {"max_epochs": 3}})
    assert (settings.training.max_epochs, settings.training.batch_size) == (3, 8)


def test_later_presets_and_single_values_win():
    settings = resolve(TRACETRANS, ["tracebench", "smoke"], {"training.max_epochs": 9})
    assert settings.channels == (4, 8)
    assert settings.warp_bins == 32
    assert settings.training.max_epochs == 9


def test_dimensions_follow_the_cases():
    settings = resolve(TRACETRANS, ["tracebench"], {"data.spatial_shape": [32, 32, 32]})
    assert settings.spatial_dims == 3
    with pytest.raises(ValueError, match="spatial_shape: expected 2 axes"):
        resolve(TRACETRANS, ["tracebench"], {"data.spatial_shape": [32, 32, 32], "spatial_dims": 2})


def test_another_kind_of_data_forgets_the_first():
    settings = resolve(TRACETRANS, ["tracebench"], {"data.kind": "prepared", "data.partners": "resampled"})
    assert settings.data == PreparedData(partners="resampled")


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError, match="frozen"):
        TRACETRANS().alpha = 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alhpa": 0.3}, r"alhpa: is not a setting; expected a known name \(did you mean alpha\?\)"),
        ({"learning_rate": 1e-3}, r"did you mean optimizer\.learning_rate\?"),
        ({"training.max_epoch": 1}, r"did you mean training\.max_epochs\?"),
        ({"optimizer.lr": 1}, "optimizer.lr: is not a setting"),
        ({"alpha.beta": 1}, "alpha is a single value and has no parts"),
        ({"alpha": 1.5}, "alpha: input should be less than or equal to 1, received 1.5"),
        ({"alpha": "much"}, "alpha: input should be a valid number.*received 'much'"),
        ({"channels": []}, "channels: .*at least 1 item"),
        ({"channels": [4, 0]}, r"channels\.1: input should be greater than or equal to 1"),
        (
            {"training.schedule": "step"},
            "training.schedule: input should be 'constant', 'cosine', 'linear' or 'polynomial', received 'step'",
        ),
        ({"optimizer.learning_rate": float("inf")}, "optimizer.learning_rate: input should be a finite number"),
        ({"data.spatial_shape": [32, 32]}, r"data\.kind is 'prepared'; set data\.kind first"),
        ({"data.kind": "folder"}, "data: "),
        ({"training": {"epochs": 3}}, "training.epochs: is not a setting"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve(TRACETRANS, (), values)
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match=r"preset: expected a known name \(did you mean tracebench\?\)"):
        resolve(TRACETRANS, ["trace_bench"])


def test_pix2pix_goes_with_one_backbone():
    with pytest.raises(ValueError, match="backbone: expected cyclegan with paired"):
        resolve(REGGAN, (), {"paired": True, "backbone": "unit"})


def test_names_are_dotted():
    names = names_of(TRACETRANS)
    assert {"alpha", "optimizer.learning_rate", "training.amp", "data.misalignment", "data.task"} <= set(names)


def test_unknown_method_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean cyclegan"):
        method_class("cycle_gan")
