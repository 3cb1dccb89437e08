"""MetaRegNet's method, its rival's, and instance optimization, against their equations."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medtrace.engines import Trainer
from medtrace.fields import inverse_consistency, warp
from medtrace.losses import intensity_diffusion, jacobian_folding, velocity_smoothness
from medtrace.methods.common.instance import InstanceRegistration, multigrid_displacement
from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy, bending_energy, image_distance
from medtrace.methods.metaregnet.method import MetaRegNetMethod
from medtrace.methods.voxelmorph.method import VoxelMorphMethod
from medtrace.networks import DiffeomorphicVoxelMorph, MetamorphicRegNet


def metaregnet(spatial_dims=2, std=0.1, **options):
    torch.manual_seed(0)
    built = MetamorphicRegNet(spatial_dims, 1, channels=(4, 8), num_blocks=3, block_channels=4)
    for name, parameter in built.named_parameters():
        if "gather" in name:
            nn.init.normal_(parameter, std=std)
        elif "final_conv_out" in name:
            nn.init.normal_(parameter, std=30 * std)  # its features are small at the start
    return MetaRegNetMethod(built, **options)


def voxelmorph(std=0.15, **options):
    torch.manual_seed(0)
    built = DiffeomorphicVoxelMorph(2, 1, (8, 8, 8, 8), (8,))
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=std)
    return VoxelMorphMethod(built, **options)


def pairs(spatial_dims=2, size=16, batch=2):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 1, *[size] * spatial_dims)
    batch = {name: torch.rand(shape, generator=generator) * 1.8 - 0.9 for name in ("source", "target")}
    batch["mask"] = torch.zeros(shape, dtype=torch.bool)
    batch["mask"][:, :, 4:9, 5:10] = True
    return batch


def blobs(spatial_dims=2, size=32, shift=3.0, lesion=True):
    """A ball, and the same shifted along the first axis with a bright lesion in it."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(size))] * spatial_dims, indexing="ij"))

    def ball(center):
        distance = torch.linalg.vector_norm(grid - center.reshape(-1, *[1] * spatial_dims), dim=0)
        return (torch.sigmoid(size / 4 - distance) * 1.4 - 0.9)[None, None]

    center = torch.full((spatial_dims,), (size - 1) / 2)
    moved = center.clone()
    moved[0] += shift
    mask = torch.linalg.vector_norm(grid - moved.reshape(-1, *[1] * spatial_dims), dim=0)[None, None] < size / 10
    target = ball(moved)
    return {"source": ball(center), "target": torch.where(mask, 0.9, target) if lesion else target, "mask": mask}


# --- the engine after a network ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_engine_continues_the_networks_field(spatial_dims):
    method, batch = metaregnet(spatial_dims).eval(), blobs(spatial_dims)
    with torch.no_grad():
        first = method.predict(batch)
        method.set_sampling({"continued_by": "thorough"})
        found = method.predict(batch)
    inside, outside = batch["mask"], ~batch["mask"]
    edges = (batch["source"] - batch["target"]).abs().gt(0.1) & outside
    errors = [float((warp(batch["source"], one.ddf) - batch["target"])[edges].abs().mean()) for one in (first, found)]
    assert errors[1] < 0.4 * errors[0]
    torch.testing.assert_close(found.image[inside], first.image[inside], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.image[outside], warp(batch["source"], found.ddf)[outside])
    assert float(inverse_consistency(found.ddf, found.inverse_ddf).mean()) < 0.05
    method.set_sampling({"continued_by": None})
    with torch.no_grad():
        torch.testing.assert_close(method.predict(batch).ddf, first.ddf)


def test_masks_that_a_network_does_not_leave_out_the_engine_does_not_either():
    batch = blobs()
    left_out, compared = (voxelmorph(masking=masking).eval() for masking in (True, False))
    fields = []
    for method in (left_out, compared):
        method.set_sampling({"continued_by": "standard"})
        with torch.no_grad():
            found = method.predict(batch)
        assert not found.appearance.any()
        assert found.velocity is None, "the field is no longer the exponential of the network's velocity"
        fields.append(found.ddf)
    assert float((fields[0] - fields[1]).abs().max()) > 0.1
    with torch.no_grad():
        without = compared.predict({name: batch[name] for name in ("source", "target")})
    torch.testing.assert_close(fields[1], without.ddf)


def test_voxels_that_are_no_cubes_are_smoothed_in_mm():
    batch = blobs(lesion=False)
    method = metaregnet().eval()
    method.set_sampling({"continued_by": "thorough"})
    flat = torch.diag(torch.tensor([1.0, 4.0, 1.0, 1.0], dtype=torch.float64))
    with torch.no_grad():
        cubes = method.predict(batch).ddf
        plates = method.predict({name: MetaTensor(image, affine=flat) for name, image in batch.items()}).ddf
    assert float((cubes - plates).abs().max()) > 0.1


def test_an_unknown_preset_is_refused():
    method = metaregnet()
    with pytest.raises(ValueError, match=r"continued_by: expected one of .*'thorough'.*received 'best'"):
        method.set_sampling({"continued_by": "best"})
    with pytest.raises(ValueError, match=r"sampling: expected one of .*'continued_by'.*received 'steps'"):
        method.set_sampling({"steps": 3})


# --- MetaRegNet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_terms_are_equation_4_on_images_in_0_1(spatial_dims):
    method, batch = metaregnet(spatial_dims, smoothness_weight=0.5), pairs(spatial_dims, 9)
    terms = method.terms("registration", batch, {})
    output = method.networks(batch["source"], batch["target"], batch["mask"])
    image, target = (output.image + 1) / 2, (batch["target"] + 1) / 2
    expected = {
        "similarity": (target - image).square().mean(),
        "intensity_diffusion": intensity_diffusion(output.intensity / 2),
        "folding": jacobian_folding(output.ddf, "sum"),
        "smoothness": velocity_smoothness(output.ddf),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)


def test_weights_are_the_papers():
    method = metaregnet()
    assert method.registers
    weights = method.phase("registration").weights
    assert weights == {
        "similarity": 1.0,
        "intensity_diffusion": 1.0,
        "folding": 1e-3,
        "smoothness": 0.0,
        "bending": 0.0,
    }
    assert set(method.terms("registration", pairs(), {})) == {"similarity", "intensity_diffusion", "folding"}
    assert set(method.parameters_of("registration")) == set(method.networks.parameters())


def test_similarity_and_folding_by_parameter():
    batch = pairs()
    ell1, squared = metaregnet(similarity="l1", folding_reduction="mean", std=1.0), metaregnet(std=1.0)
    output = squared.networks(batch["source"], batch["target"], batch["mask"])
    terms, others = ell1.terms("registration", batch, {}), squared.terms("registration", batch, {})
    torch.testing.assert_close(terms["similarity"], (output.image - batch["target"]).abs().mean() / 2)
    assert terms["folding"] > 0
    torch.testing.assert_close(others["folding"], terms["folding"] * 256)
    simplices = metaregnet(folding_measure="simplices", std=1.0).terms("registration", batch, {})["folding"]
    torch.testing.assert_close(simplices, jacobian_folding(output.ddf, measure="simplices"))


@pytest.mark.parametrize("masked", [False, True])
def test_a_pyramid_compares_means_of_blocks(masked):
    generator = torch.Generator().manual_seed(3)
    image, target = torch.rand(2, 2, 1, 8, 12, generator=generator).unbind(1)
    weights = (torch.rand(2, 1, 8, 12, generator=generator) > 0.4).float() if masked else None
    difference, weight = (
        (image - target).numpy().astype(float),
        np.ones((2, 1, 8, 12)) if weights is None else weights.numpy(),
    )
    expected = []
    for _ in range(2):
        expected.append((difference**2 * weight).sum() / weight.sum())
        blocks = [
            values.reshape(2, 1, values.shape[2] // 2, 2, values.shape[3] // 2, 2).mean((3, 5))
            for values in (difference * weight, weight)
        ]
        difference, weight = blocks[0] / np.maximum(blocks[1], 1e-9), blocks[1]
    found = image_distance(image, target, "mse", 1.0, weights, levels=2)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bending_leaves_affine_motions_free(spatial_dims):
    axes = torch.meshgrid(*[torch.arange(8.0)] * spatial_dims, indexing="ij")
    affine = torch.stack([0.2 * axes[0] - 0.1 * axes[1] + 3] * spatial_dims)[None]
    assert float(bending_energy(affine)) == pytest.approx(0, abs=1e-10)
    bent = torch.stack([0.05 * axes[0] ** 2 + 0.02 * axes[0] * axes[1]] * spatial_dims)[None]
    assert float(bending_energy(bent)) == pytest.approx(0.1**2 + 2 * 0.02**2, rel=1e-4)
    terms = metaregnet(spatial_dims, bending_weight=0.5, std=1.0).terms("registration", pairs(spatial_dims, 9), {})
    assert terms["bending"] > 0
    plain = VoxelMorphMethod(DiffeomorphicVoxelMorph(spatial_dims, 1, (4, 4, 4, 4), (4,)), bending_weight=0.5)
    assert "bending" in plain.terms("registration", pairs(spatial_dims, 16), {})


@pytest.mark.parametrize(("masked_gradient", "moves"), [("both", True), ("intensity", False)])
def test_masked_gradient_says_what_the_lesion_teaches(masked_gradient, moves):
    """Source and target differ within the mask only."""
    method, batch = metaregnet(masked_gradient=masked_gradient, std=0.02), blobs(shift=0.0)
    head = method.networks.unet.net[-1].final_conv_out.conv
    with torch.no_grad():
        head.weight[:2] = 0
        head.bias[:2] = 0
    terms = method.terms("registration", batch, {})
    output = method.networks(batch["source"], batch["target"], batch["mask"])
    torch.testing.assert_close(terms["similarity"], image_distance(output.image, batch["target"]))
    terms["similarity"].backward()
    flow, intensity = head.bias.grad.abs().split((2, 1))
    assert bool(flow.max() > 1e-5) == moves
    assert intensity > 1e-5


def test_training_lowers_the_energy():
    torch.manual_seed(0)
    method = MetaRegNetMethod(MetamorphicRegNet(2, 1, channels=(8, 16), num_blocks=2))
    batch = blobs()
    first = method.terms("registration", batch, {})["similarity"].detach()
    optimizers = {"registration": torch.optim.Adam(method.parameters_of("registration"), 1e-2)}
    Trainer("cpu", 1, [batch] * 25, method, optimizers).run()
    assert method.terms("registration", batch, {})["similarity"].detach() < 0.3 * first


def test_trace_has_both_fields_and_the_change_within_the_mask():
    method, batch = metaregnet(), pairs()
    affine = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    seen = {name: MetaTensor(value, affine=affine) for name, value in batch.items()}
    traces = method.train().trace(seen)
    assert method.training
    output = method.eval().networks(batch["source"], batch["target"], batch["mask"])
    assert len(traces) == 2
    for item, trace in enumerate(traces):
        torch.testing.assert_close(trace.image, output.image[item])
        torch.testing.assert_close(trace.ddf, output.ddf[item])
        torch.testing.assert_close(trace.appearance, output.intensity[item], atol=1e-5, rtol=0)
        assert torch.equal(trace.mask, batch["mask"][item].float())
        torch.testing.assert_close(torch.as_tensor(trace.affine), affine)
        assert not trace.image.requires_grad
        assert trace.ledger().residual.abs().max() < 1e-5
    assert inverse_consistency(traces[0].ddf[None], traces[0].inverse_ddf[None]).mean() < 0.02


def test_register_is_trace():
    method, batch = metaregnet(), pairs()
    registered = method.trace_pair(batch["source"], batch["target"], batch["mask"], batch["mask"].flip(2))
    traced = method.trace({**batch, "source_mask": batch["mask"].flip(2)})
    for one, other in zip(registered, traced):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.mask, other.mask)
    assert (registered[0].mask > batch["mask"][0]).any()


def test_no_mask_is_plain_registration():
    method, batch = metaregnet(), pairs()
    for mask in (None, torch.zeros_like(batch["mask"])):
        trace = method.trace_pair(batch["source"], batch["target"], mask)[0]
        assert torch.count_nonzero(trace.appearance) == torch.count_nonzero(trace.mask) == 0
        torch.testing.assert_close(trace.image, trace.warped, atol=1e-5, rtol=0)
    terms = method.terms("registration", {**batch, "mask": torch.zeros_like(batch["mask"])}, {})
    assert terms["intensity_diffusion"] == 0


def test_a_segmentation_gives_the_missing_masks():
    def bright(image):
        return image > 0.5

    batch = pairs()
    given = batch.pop("mask")
    trace = metaregnet(segmentation=bright).trace(batch)[0]
    assert torch.equal(trace.mask, (batch["target"][0] > 0.5).float())
    assert torch.equal(metaregnet(segmentation=bright).trace({**batch, "mask": given})[0].mask, given[0].float())
    both = metaregnet(segmentation=bright, segment_source=True, std=0.0).trace(batch)[0]
    union = (batch["target"][0] > 0.5) | (batch["source"][0] > 0.5)
    torch.testing.assert_close(both.mask, union.float(), atol=1e-4, rtol=0)


class Segmenter(nn.Module):
    """Marks everything, but half of it in training mode."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.ones(1))

    def forward(self, image):
        return torch.full_like(image, 0.5 if self.training else 1.0) * self.level


def test_a_segmenting_network_is_evaluated_and_not_trained():
    segmenter, batch = Segmenter(), pairs()
    del batch["mask"]
    method = metaregnet(segmentation=segmenter).train()
    assert float(method.pair(batch).mask.min()) == 1
    assert segmenter.training
    method.phase("registration").total(method.terms("registration", batch, {})).backward()
    assert segmenter.level.grad is None
    assert all(parameter is not segmenter.level for parameter in method.parameters_of("registration"))


def test_pairs_that_do_not_fit_are_refused():
    method, batch = metaregnet(), pairs()
    with pytest.raises(ValueError, match=r"target: registration takes source and target, received \['source'\]"):
        method.trace({"source": batch["source"]})
    with pytest.raises(ValueError, match=r"source: expected intensities in \[-1, 1\]"):
        method.trace({**batch, "source": batch["source"] * 100})
    with pytest.raises(ValueError, match="target: expected the shape of source"):
        method.trace({**batch, "target": batch["target"][..., 1:]})
    moved = torch.eye(4, dtype=torch.float64)
    moved[0, 3] = 5
    elsewhere = {**batch, "source": MetaTensor(batch["source"], affine=moved)}
    with pytest.raises(ValueError, match="resample the source onto the target's grid"):
        method.trace(elsewhere)
    with pytest.raises(TypeError, match="segmentation: expected a callable"):
        metaregnet(segmentation="unet.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "ncc"}, "similarity: expected one of 'mse', 'l1'"),
        ({"folding_weight": -1}, "folding: expected a weight of at least 0"),
        ({"folding_reduction": "none"}, "folding_reduction: expected one of"),
        ({"folding_measure": "forward"}, "folding_measure: expected one of"),
        ({"masked_gradient": "none"}, "masked_gradient: expected one of"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        metaregnet(**options)


# --- VoxelMorph -----------------------------------------------------------------------------------------------------


def test_cost_function_masking_is_the_mean_over_healthy_voxels():
    method, batch = voxelmorph(), pairs()
    terms = method.terms("registration", batch, {})
    output = method.networks(batch["source"], batch["target"])
    difference = ((output.warped - batch["target"]) / 2).square()
    torch.testing.assert_close(terms["similarity"], difference[~batch["mask"]].mean())
    torch.testing.assert_close(terms["smoothness"], velocity_smoothness(output.velocity))
    assert set(terms) == {"similarity", "smoothness"}
    plain = voxelmorph(masking=False, folding_weight=1.0).terms("registration", batch, {})
    torch.testing.assert_close(plain["similarity"], difference.mean())
    torch.testing.assert_close(plain["folding"], jacobian_folding(output.ddf))


def test_masking_leaves_out_the_sources_pathology_too():
    image, target = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    weights = torch.zeros(1, 1, 4, 4)
    weights[..., 0, :] = 1
    assert float(image_distance(image, target, "mse", 2.0, weights)) == pytest.approx(0.25)
    assert float(image_distance(image, target, "l1", 2.0, weights * 0)) == 0
    method, batch = voxelmorph(std=0.0), pairs()
    batch["source_mask"] = batch["mask"].flip(2)
    healthy = ~(batch["mask"] | batch["source_mask"])
    difference = ((batch["source"] - batch["target"]) / 2).square()
    similarity = method.terms("registration", batch, {})["similarity"]
    torch.testing.assert_close(similarity, difference[healthy].mean(), atol=1e-5, rtol=1e-4)


def test_voxelmorph_traces_without_appearance():
    method, batch = voxelmorph(), pairs()
    trace = method.trace_pair(batch["source"], batch["target"], batch["mask"])[1]
    output = method.networks(batch["source"], batch["target"])
    torch.testing.assert_close(trace.ddf, output.ddf[1])
    torch.testing.assert_close(trace.velocity, output.velocity[1])
    torch.testing.assert_close(trace.image, output.warped[1])
    assert trace.appearance.abs().max() < 1e-5
    torch.testing.assert_close(method.answer(method.pair(batch)).image, output.warped)


# --- instance optimization ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, 32), (3, 20)])
def test_a_pair_is_registered_without_a_network(spatial_dims, size):
    batch, reports = blobs(spatial_dims, size), []
    trace = InstanceRegistration(steps=40, progress=reports.append).trace(batch)[0]
    assert [report.step for report in reports] == list(range(41))
    assert reports[-1].terms["similarity"] < 0.1 * reports[0].terms["similarity"]
    energy = MetamorphicEnergy(smoothness_weight=0.01)
    for report in (reports[0], reports[-1]):
        weighted = sum(energy.weights[name] * value for name, value in report.terms.items())
        assert report.total == pytest.approx(weighted, rel=1e-4)
    inside = batch["target"][0, 0] > 0
    assert float((trace.ddf[0] + 3)[inside].abs().mean()) < 1.2  # along the ball's edge nothing reports
    assert float(trace.ddf[1:, inside].abs().mean()) < 0.6
    assert float(trace.appearance[0][batch["mask"][0, 0]].mean()) == pytest.approx(0.4, abs=0.15)
    assert torch.count_nonzero(trace.appearance * ~batch["mask"][0]) == 0


def test_refinement_starts_at_the_networks_answer_and_lowers_its_energy():
    start, batch = metaregnet(std=0.02), blobs()
    still = InstanceRegistration(start.energy, start, steps=0).trace(batch)[0]
    answer = start.trace(batch)[0]
    torch.testing.assert_close(still.ddf, answer.ddf, atol=1e-5, rtol=0)
    torch.testing.assert_close(still.image, answer.image, atol=1e-5, rtol=0)
    reports, before = [], [parameter.clone() for parameter in start.parameters()]
    InstanceRegistration(start.energy, start, steps=15, progress=reports.append).trace(batch)
    assert reports[-1].total < 0.5 * reports[0].total
    assert all(torch.equal(old, new) for old, new in zip(before, start.parameters()))
    assert all(parameter.grad is None for parameter in start.parameters())


def test_refinement_of_healthy_pairs_changes_no_intensity():
    batch = blobs(lesion=False)
    trace = InstanceRegistration(steps=5).trace_pair(batch["source"], batch["target"])[0]
    assert torch.count_nonzero(trace.appearance) == 0
    assert trace.ddf.abs().max() > 0.1


def test_instance_optimization_takes_the_segmentation_of_its_start():
    start, batch = metaregnet(segmentation=lambda image: image > 0.8), blobs()
    mask = batch.pop("mask")
    assert torch.equal(InstanceRegistration(start=start, steps=1).trace(batch)[0].mask, mask[0].float())


@pytest.mark.parametrize("shape", [(16, 24), (13, 10), (9, 6, 11)])
@pytest.mark.parametrize("downsampling", [(0, 2), (1, 2, 3)])
def test_constant_velocities_on_all_grids_add_up_to_a_translation(shape, downsampling):
    dims = len(shape)
    shift = torch.arange(1.0, dims + 1).reshape(1, dims, *[1] * dims)
    grids = [tuple(-(-extent // 2**halving) for extent in shape) for halving in downsampling]
    fields = [shift.expand(1, dims, *grid) for grid in grids]
    ddf = multigrid_displacement(fields, downsampling, shape)
    torch.testing.assert_close(ddf, (len(downsampling) * shift).expand(1, dims, *shape), atol=1e-4, rtol=0)


def test_grids_lie_where_they_say():
    """A coarse ramp is the same ramp on the full grid: voxel i of a halved grid lies at 2i + ½."""
    coarse = (2 * torch.arange(8.0) + 0.5)[None, None, :, None].expand(1, 1, 8, 8)
    field = torch.cat([1e-3 * coarse, torch.zeros(1, 1, 8, 8)], dim=1)
    ddf = multigrid_displacement([field], (1,), (16, 16))
    expected = 1e-3 * torch.arange(16.0)[1:-1, None].expand(14, 16)
    torch.testing.assert_close(ddf[0, 0, 1:-1], expected, rtol=2e-3, atol=1e-6)
    image = torch.arange(16.0)[None, None, :, None].expand(1, 1, 16, 16).clone()
    assert warp(image, ddf).shape == image.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps: expected 0 or more"),
        ({"learning_rate": 0}, "learning_rate: expected a number above 0"),
        ({"intensity_rate": -1}, "intensity_rate: expected a number above 0"),
        ({"downsampling": ()}, "downsampling: expected one or more"),
    ],
)
def test_instance_optimization_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        InstanceRegistration(**options)
