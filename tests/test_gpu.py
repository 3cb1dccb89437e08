"""On an NVIDIA GPU: the CPU's answers, half precision, memory. Skipped where there is none; see `make test-gpu`.

MEDTRACE_TEST_DEVICE=cpu runs the code of these tests without one, except those of memory.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from medtrace.engines import Trainer
from medtrace.fields import compose, exponentiate, identity_grid, invert, jacobian_determinant, sample, warp
from medtrace.losses import jacobian_folding, lncc, parzen_nmi, structural_dissimilarity, velocity_smoothness
from medtrace.losses.mind import MINDLoss
from medtrace.networks import NoiseSchedule, add_noise
from medtrace.registration import register_images
from tests.test_engines import adam, loader, tracetrans

DEVICE = torch.device(os.environ.get("MEDTRACE_TEST_DEVICE", "cuda"))
ABSENT = DEVICE.type == "cuda" and not torch.cuda.is_available()
LINE = "no NVIDIA GPU on this machine; `make test-gpu` runs these where there is one"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(ABSENT, reason=LINE)]
NEEDS_CUDA = pytest.mark.skipif(DEVICE.type != "cuda", reason="counts the memory of CUDA")
SIZES = {2: (40, 33), 3: (24, 20, 17)}
FIELDS = {
    "warp": warp,
    "sample": lambda image, ddf: sample(image, identity_grid(ddf.shape[2:]).to(ddf) + ddf),
    "compose": lambda _, ddf: compose(ddf, ddf),
    "exponentiate": lambda _, ddf: exponentiate(ddf),
    "invert": lambda _, ddf: invert(ddf, tolerance=1e-5).ddf,
    "jacobian_determinant": lambda _, ddf: jacobian_determinant(ddf),
}
LOSSES = {
    "NMI": parzen_nmi,
    "NMI, Gaussian window": lambda x, y: parzen_nmi(x, y, kernel="gaussian"),
    "LNCC": lncc,
    "MIND": lambda x, y: MINDLoss()(x, y),
    "structural dissimilarity": structural_dissimilarity,
    "smoothness": lambda x, _: velocity_smoothness(x.expand(-1, x.ndim - 2, *x.shape[2:])),
    "folding": lambda x, _: jacobian_folding(x.expand(-1, x.ndim - 2, *x.shape[2:]) * 5),
}


def smooth(channels, shape, seed):
    """Noise of a few voxels, within [-1, 1]."""
    coarse = torch.rand(1, channels, *(5,) * len(shape), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, shape, mode="bilinear" if len(shape) == 2 else "trilinear", align_corners=True)


def answers(function, inputs, device, dtype):
    """A function's value and gradients on a device, on the CPU."""
    given = [value.to(device, dtype).requires_grad_() for value in inputs]
    result = function(*given)
    weight = smooth(1, result.shape[2:], 9).to(result) if result.ndim > 3 else 1.0
    grads = torch.autograd.grad((result * weight).sum(), given, allow_unused=True)
    return [value.detach().cpu() for value in (result, *grads) if value is not None]


def largest(function, inputs, dtype):
    pairs = zip(answers(function, inputs, "cpu", dtype), answers(function, inputs, DEVICE, dtype), strict=True)
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", FIELDS)
def test_fields_and_gradients_are_those_of_the_cpu(name, dims, record_property):
    inputs = [smooth(1, SIZES[dims], 0), smooth(dims, SIZES[dims], 1) * 2]
    single, double = (largest(FIELDS[name], inputs, dtype) for dtype in (torch.float32, torch.float64))
    record_property("largest difference, float32", f"{single:.1e}")
    record_property("float64", f"{double:.1e}")
    assert double < 1e-4 if name == "invert" else double < 1e-9
    assert single < 5e-3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_are_those_of_the_cpu(name, dims, record_property):
    inputs = [smooth(1, SIZES[dims], seed) for seed in (2, 3)]
    double = largest(LOSSES[name], inputs, torch.float64)
    record_property("largest difference, float64", f"{double:.1e}")
    assert double < 1e-8


def test_mutual_information_has_the_same_bytes_again():
    inputs = [smooth(1, SIZES[3], seed) for seed in (2, 3)]
    first, again = (answers(parzen_nmi, inputs, DEVICE, torch.float32) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_a_registration_is_that_of_the_cpu(record_property):
    fixed = smooth(1, (32, 32, 32), 4)[0]
    moving = warp(fixed[None], smooth(3, (32, 32, 32), 5) * 1.5)[0]
    affine = torch.eye(4, dtype=torch.float64)
    here, there = (register_images(moving.to(d), fixed.to(d), affine, affine) for d in ("cpu", DEVICE))
    apart = (here.ddf.cpu() - there.ddf.cpu()).norm(dim=0)
    record_property("median difference in voxels", f"{float(apart.median()):.2g}")
    assert float(apart.median()) < 0.05


def test_a_method_answers_as_on_the_cpu(record_property):
    method = tracetrans().eval()
    batch = {"source": smooth(1, (32, 32), 6)}
    here = method.trace(batch)[0]
    there = method.to(DEVICE).trace({"source": batch["source"].to(DEVICE)})[0].to("cpu")
    apart = {name: float((getattr(here, name) - getattr(there, name)).abs().max()) for name in ("image", "ddf")}
    record_property("largest difference of image and ddf", ", ".join(f"{value:.1e}" for value in apart.values()))
    assert max(apart.values()) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains(dtype):
    method = tracetrans().to(DEVICE)
    trainer = Trainer(DEVICE, 1, loader(4), method, adam(method), amp=True, amp_kwargs={"dtype": dtype})
    trainer.run()
    assert torch.isfinite(trainer.state.output[0]["loss"])


def test_fields_and_noise_stay_exact_within_autocast():
    ddf, image = smooth(3, SIZES[3], 1).to(DEVICE), smooth(1, SIZES[3], 0).to(DEVICE)
    plain = exponentiate(ddf), warp(image, ddf)
    gamma = NoiseSchedule(20).gammas[[7]]
    noisy = add_noise(image, image.flip(2), gamma)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert all(torch.equal(one, two) for one, two in zip(plain, (exponentiate(ddf), warp(image, ddf))))
        assert torch.equal(noisy, add_noise(image, image.flip(2), gamma))
    assert plain[0].dtype == torch.float32


def peak_mib(run):
    run()  # libraries take their room once
    torch.cuda.synchronize(DEVICE)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    run()
    torch.cuda.synchronize(DEVICE)
    return (torch.cuda.max_memory_allocated(DEVICE) - before) / 2**20


@NEEDS_CUDA
def test_mutual_information_needs_no_table_of_voxels_by_bins(record_property):
    size = (128, 128, 128)
    x, y = (smooth(1, size, seed).to(DEVICE).requires_grad_() for seed in (2, 3))
    peak = peak_mib(lambda: torch.autograd.grad(parzen_nmi(x, y, num_bins=32).sum(), (x, y)))
    record_property("peak at 128³ and 32 bins, forward and backward, MiB", f"{peak:.0f}")
    assert peak < x.numel() * 32 * 4 / 2**20


@NEEDS_CUDA
def test_a_flow_of_a_volume_fits(record_property):
    velocity = smooth(3, (128, 128, 128), 1).to(DEVICE).requires_grad_()
    field = velocity.numel() * 4 / 2**20
    peak = peak_mib(lambda: torch.autograd.grad(exponentiate(velocity).sum(), velocity))
    record_property("peak of a flow at 128³, forward and backward, in fields", f"{peak / field:.1f}")
    assert peak < 40 * field
