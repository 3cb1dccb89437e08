"""A user's script that `mypy --strict` sees through: test_front_door.py checks it and nothing runs it."""

from collections.abc import Sequence
from typing import assert_type

import torch
from torch import Tensor

import medtrace
from medtrace import losses, methods, networks


def front_door(folder: str) -> None:
    """The names of the front door are those of their subpackages."""
    assert_type(medtrace.networks.TraceTrans(2, 1, 1)(torch.zeros(1, 1, 64, 64)), networks.TraceTransOutput)
    trace = medtrace.load_trace(folder)
    assert_type(trace, medtrace.Trace)
    assert_type(trace.ddf, Tensor)


def image_networks(image: Tensor) -> None:
    """Networks that translate."""
    output = networks.TraceTrans(spatial_dims=2, in_channels=1, out_channels=1)(image, deform=False)
    assert_type(output, networks.TraceTransOutput)
    assert_type(output.velocity, Tensor)
    assert_type(networks.DualDecoderGAN(2, 1, 1)(image), networks.TraceTransOutput)
    assert_type(networks.ComposedTraceTrans(2, 1, 1)(image).image, Tensor)
    assert_type(networks.RegressionUNet(2, 1, 1)(image), Tensor)
    assert_type(networks.ResnetGenerator(2, 1, 1)(image), Tensor)
    assert_type(networks.CycleGAN(2, 1, 1)(image), Tensor)
    assert_type(networks.MUNIT(2, 1, 1)(image), Tensor)
    assert_type(networks.UNIT(2, 1, 1)(image), Tensor)
    assert_type(networks.NICEGAN(2, 1, 1)(image), Tensor)
    assert_type(networks.OutputField(networks.TraceTrans(2, 1, 1))(image), Tensor)
    networks.TraceTrans(2, 1, 1)("image.nii.gz")  # type: ignore[arg-type]
    networks.TraceTrans(2, 1, 1)(image, warp=True)  # type: ignore[call-arg]
    output.label  # type: ignore[attr-defined]  # noqa: B018


def registration_networks(moving: Tensor, fixed: Tensor) -> None:
    """Networks that register."""
    assert_type(networks.MetamorphicRegNet(2, 1)(moving, fixed), networks.MetamorphicOutput)
    assert_type(networks.DiffeomorphicVoxelMorph(2, 1)(moving, fixed).ddf, Tensor)
    assert_type(networks.RegistrationUNet(2, 1)(moving, fixed), Tensor)
    assert_type(networks.StackedPair(networks.MetamorphicRegNet(2, 1))(torch.cat([moving, fixed], 1)), Tensor)


def diffusion_networks(image: Tensor, structure: Tensor, generators: Sequence[torch.Generator]) -> None:
    """Plasticine and its parts."""
    estimator, deformation = networks.NoiseEstimator(2, 1), networks.DeformationModule(2, 1)
    assert_type(estimator(image, torch.ones(1), structure), Tensor)
    assert_type(deformation(image), networks.DeformationOutput)
    translator = networks.DiffusionTranslator(estimator, deformation)
    assert_type(translator(image, structure, generators, steps=10), networks.DiffusionTranslation)
    model = networks.InfererModel(estimator, networks.NoiseSchedule())
    assert_type(model(torch.cat([image, structure], 1), torch.tensor([5])), Tensor)


def terms(image: Tensor, target: Tensor, ddf: Tensor) -> None:
    """Losses."""
    assert_type(losses.ParzenDNMILoss()(image, target), Tensor)
    assert_type(losses.JacobianFoldingLoss()(ddf), Tensor)
    assert_type(losses.LNCCLoss()(image, target), Tensor)
    assert_type(losses.MotionMagnitudeLoss()(ddf), Tensor)
    assert_type(losses.MINDLoss()(image, target), Tensor)
    assert_type(losses.LeastSquaresAdversarialLoss()(image, True), Tensor)
    assert_type(losses.IntensityDiffusionLoss()(image), Tensor)
    assert_type(losses.VelocitySmoothnessLoss()(ddf), Tensor)
    assert_type(losses.StructuralDissimilarityLoss()(image, image), Tensor)
    losses.ParzenDNMILoss()(image)  # type: ignore[call-arg]


def method_networks(method: methods.TraceTransMethod, image: Tensor) -> None:
    """A method's networks."""
    assert_type(method.networks(image), networks.TraceTransOutput)
