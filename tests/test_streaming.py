"""Large volumes through networks in patches: velocities are blended, and near-sighted networks answer as before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from medtrace.data.preparation.rules import Preparation
from medtrace.fields import exponentiate, non_diffeomorphic_fraction
from medtrace.inference import patched
from medtrace.inference.patched import patches_for
from medtrace.methods.ddib.method import DDIBMethod
from medtrace.methods.palette.method import PaletteMethod
from medtrace.methods.plasticine.method import PlasticineMethod
from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import DeformationModule, DualDecoderGAN, NoiseEstimator, NoiseSchedule, TraceTrans
from medtrace.networks.patches import MARGIN_SHARE, PatchInferer, axis_windows, in_patches
from medtrace.workflows.translate import translate
from tests.standins import shift_run, tiny_tracetrans
from tests.test_translate import head, save

TOLERANCE = 1e-4
"""Of a network whose sight ends within a patch's margin: in [-1, 1] and in voxels."""


pytestmark = pytest.mark.usefixtures("standin_methods")


def shaken(network):
    """A network whose heads, which start at zero, answer something."""
    for name, parameter in network.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.mark.parametrize(
    ("extent", "size", "overlap", "multiple"), [(64, 32, 0.25, 4), (100, 30, 0.5, 4), (32, 48, 0.25, 8), (17, 16, 0, 1)]
)
def test_weights_add_up_to_one_and_leave_inner_faces_out(extent, size, overlap, multiple):
    windows = axis_windows(extent, size, overlap, multiple)
    total = torch.zeros(extent)
    for window in windows:
        assert window.start % multiple == 0
        total[window.start : window.start + len(window.weights)] += window.weights
    torch.testing.assert_close(total, torch.ones(extent))
    width = len(windows[0].weights)
    margin = int(MARGIN_SHARE * overlap * width)
    for window in windows:
        if window.start > 0:
            assert not window.weights[:margin].any()
        if window.start + width < extent:
            assert not window.weights[width - margin :].any()


def test_a_local_operation_is_what_it_is_on_the_whole_volume():
    """Two 3-wide convolutions see two voxels: less than the margin of two, at inner faces and at the border alike."""
    kernels = torch.randn(2, 1, 1, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 5

    def network(volume):
        first = F.conv3d(volume, kernels[0], padding=1)
        return F.conv3d(first.relu(), kernels[1], padding=1), first

    volume = torch.randn(2, 1, 30, 17, 26)
    done = []
    inferer = PatchInferer((16, 20, 16), overlap=0.5, progress=lambda number, count: done.append((number, count)))
    for whole, blended in zip(network(volume), inferer(volume, network)):
        torch.testing.assert_close(blended, whole, atol=1e-5, rtol=0)
    assert done[-1] == (len(done), len(done))
    assert len(done) > 4


def test_tracetrans_in_patches_is_tracetrans_as_a_whole():
    network = shaken(TraceTrans(2, 1, 1, channels=(4, 8), norm="batch"))
    source = torch.rand(1, 1, 200, 130) * 2 - 1
    with torch.no_grad():
        whole = network(source)
        # Its two levels see 16 pixels at most; the margin is a quarter of 64.
        patches = network(source, inferer=PatchInferer(128, overlap=0.5))
        narrow = network(source, inferer=PatchInferer(64, overlap=0.1))
    assert float(whole.ddf.abs().max()) > 0.5
    for name in ("image", "velocity", "ddf", "warped"):
        torch.testing.assert_close(getattr(patches, name), getattr(whole, name), atol=TOLERANCE, rtol=0)
    assert float((narrow.velocity - whole.velocity).abs().max()) > TOLERANCE  # too little overlap is seen


@pytest.mark.parametrize("inverse", ["negated", "predicted"])
def test_the_deformation_module_in_patches(inverse):
    module = shaken(DeformationModule(2, 1, channels=(8,), inverse=inverse, norm="batch"))
    source = torch.rand(1, 1, 150, 70) * 2 - 1
    with torch.no_grad():
        whole = module(source)
        patches = module(source, inferer=PatchInferer(96, overlap=0.5))
        for name in ("velocity", "inverse_velocity", "ddf", "inverse_ddf"):
            torch.testing.assert_close(getattr(patches, name), getattr(whole, name), atol=TOLERANCE, rtol=0)
        with pytest.raises(ValueError, match="a pair is registered as a whole"):
            module(source, source, source, inferer=PatchInferer(96))


def test_velocities_are_blended_and_not_displacements():
    """Patches that contradict each other: the blend of their velocities still flows, without a fold."""
    sign = iter([1.0, -1.0])

    def network(patch):
        velocity = torch.zeros(1, 2, *patch.shape[2:])
        velocity[:, 0] = 12 * next(sign)
        return (velocity,)

    source = torch.zeros(1, 1, 64, 24)
    inferer = PatchInferer((48, 24), overlap=2 / 3)
    (velocity,) = inferer(source, network)
    assert float(velocity.amin()) == -12
    assert float(velocity.amax()) == 12
    folds = [
        float(non_diffeomorphic_fraction(field)) for field in (exponentiate(velocity), velocity)
    ]  # a constant velocity is its own displacement, so `velocity` is the blend of the displacements
    assert folds[0] == 0
    assert folds[1] > 0


def diffusion(method):
    estimator = NoiseEstimator(
        2, 1, condition_channels={"plasticine": 1, "palette": 1, "ddib": 0}[method], channels=(8, 16),
        residual_blocks=1, head_channels=8, norm_groups=8,
    )  # fmt: skip
    for parameter in estimator.unet.out.parameters():  # which starts at zero
        torch.nn.init.normal_(parameter, std=0.1)
    schedule = NoiseSchedule(20, 1e-3, 0.3)
    from medtrace.methods.common.diffusion import Sampling
    from medtrace.networks import DiffusionTranslator

    sampling = Sampling(steps=2)
    if method == "palette":
        return PaletteMethod(estimator, schedule, sampling=sampling)
    if method == "ddib":
        return DDIBMethod(estimator, estimator, schedule, steps=2)
    module = shaken(DeformationModule(2, 1, channels=(8,)))
    return PlasticineMethod(DiffusionTranslator(estimator, module, schedule), sampling=sampling)


@pytest.mark.parametrize("method", ["plasticine", "palette", "ddib", "tracetrans"])
def test_methods_take_patches(method):
    """One patch over all is the whole; several give one field, the exponential of the blended velocity."""
    if method == "tracetrans":
        method = TraceTransMethod(
            DualDecoderGAN(2, 1, 1, channels=(4,), discriminator_channels=4, discriminator_layers=1)
        )
        shaken(method)
    else:
        method = diffusion(method)
    assert method.patchable
    batch = {"source": torch.rand(1, 1, 48, 32) * 2 - 1}
    whole = method.trace(batch)[0]
    method.inferer = PatchInferer(64)
    one = method.trace(batch)[0]
    method.inferer = PatchInferer(32, overlap=0.5)
    several, again = method.trace(batch)[0], method.trace(batch)[0]
    torch.testing.assert_close(one.image, whole.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.ddf, whole.ddf, atol=1e-5, rtol=0)
    assert torch.equal(several.image, again.image)
    assert not torch.equal(several.image, whole.image)
    if several.velocity is not None:
        torch.testing.assert_close(several.ddf, exponentiate(several.velocity[None])[0], atol=1e-4, rtol=0)


def test_an_estimator_without_inferer_is_itself():
    estimator = NoiseEstimator(2, 1, 0, channels=(8,), residual_blocks=1, head_channels=8, norm_groups=8)
    assert in_patches(estimator, None, 1) is estimator


# The command


def volume_run(folder, spatial_shape=None):
    preparation = Preparation(spatial_dims=3, spatial_shape=spatial_shape)
    return tiny_tracetrans(folder, 3, preparation=preparation, channels=[4], norm="batch")


def test_a_volume_is_translated_in_patches_on_request_and_above_a_budget(tmp_path, monkeypatch):
    scan = save(tmp_path / "scan.nii.gz", head((40, 18, 14)))
    run = volume_run(tmp_path / "run", (24, 16, 12))

    def note(name):
        return json.loads((tmp_path / name / "trace.json").read_text())["metadata"].get("patches")

    settings = {"progress": False, "report": False}
    whole = translate(run, scan, tmp_path / "whole", **settings)
    assert note("whole") is None
    asked = translate(run, scan, tmp_path / "asked", patch_size=24, **settings)
    assert note("asked") == {"size": [24], "overlap": 0.25}
    tissue = whole.source > 0
    assert float((asked.image - whole.image)[tissue].abs().mean()) < 0.01 * float(whole.image.abs().max())
    monkeypatch.setattr(patched, "VOXEL_BUDGET", 1000)
    translate(run, scan, tmp_path / "unasked", **settings)
    assert note("unasked") == {"size": [24, 16, 12], "overlap": 0.25}  # as in training
    refused = translate(run, scan, tmp_path / "refused", patch_size=0, **settings)
    assert note("refused") is None
    assert torch.equal(refused.image, whole.image)


def test_patches_are_refused_where_they_make_no_sense(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", head())
    flat = shift_run(tmp_path / "flat", [1.0, 0.0])
    with pytest.raises(ValueError, match="patch_size: expected none, since the run translates slices, received 8"):
        translate(flat, scan, tmp_path / "out", patch_size=8, progress=False)
    solid = shift_run(tmp_path / "solid", [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="since ShiftMethod takes volumes as a whole"):
        translate(solid, scan, tmp_path / "out", patch_size=8, progress=False)
    for arguments, message in (
        ((0,), "size: expected 1 voxel"),
        ((8, 1.0), r"overlap: expected a fraction in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            PatchInferer(*arguments)
    with pytest.raises(ValueError, match="size: expected 1 or 2 numbers"):
        PatchInferer((8, 8, 8))(torch.zeros(1, 1, 9, 9), lambda patch: (patch,))
    assert patches_for(TraceTransMethod.__new__(TraceTransMethod), Preparation(2), (9, 9)) is None


LARGE = """
import resource, sys
from pathlib import Path
import nibabel, numpy as np
from medtrace.workflows.translate import translate
from tests.test_streaming import volume_run

folder, extent = Path(sys.argv[1]), int(sys.argv[2])
x, y, z = np.meshgrid(*[np.linspace(-1, 1, extent, dtype=np.float32)] * 3, indexing="ij", sparse=True)
tissue = np.where(x**2 + y**2 + z**2 < 0.8, 700 + 300 * np.cos(3 * x) * np.cos(2 * y) + 200 * z, 0).astype(np.int16)
nibabel.save(nibabel.Nifti1Image(tissue, np.eye(4)), folder / "scan.nii")
translate(volume_run(folder / "run"), folder / "scan.nii", folder / "out", progress=False, report=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_256_voxels_an_edge_fit_into_8_gib(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path), "256"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    peak = int(done.stdout.split()[-1]) * 1024
    assert (tmp_path / "out" / "trace.json").exists()
    print(f"peak {peak / 2**30:.2f} GiB")
    assert peak < 8 * 2**30
