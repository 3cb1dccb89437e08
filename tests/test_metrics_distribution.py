"""Distances between sets of images: Bhattacharyya of intensities, FID and SFD of features; agreement of label maps."""

import math

import pytest
import torch
from monai.metrics import FIDMetric, compute_dice, compute_iou

from medtrace import metrics
from medtrace.trace import Trace

RANGE = (-1.0, 1.0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_histograms_count_channels_masks_and_what_leaves_the_range():
    images = torch.tensor([[[[-1.0, -0.4], [0.1, 7.0]]], [[[-9.0, 1.0], [0.6, 0.6]]]])
    counts = metrics.intensity_histogram(images, data_range=RANGE, num_bins=4)
    assert counts.tolist() == [[1, 1, 1, 1], [1, 0, 0, 3]]
    mask = torch.tensor([[[[True, True], [False, False]]], [[[False, False], [False, True]]]])
    assert metrics.intensity_histogram(images, mask, data_range=RANGE, num_bins=4).tolist() == [
        [1, 1, 0, 0],
        [0, 0, 0, 1],
    ]


def test_bhattacharyya_of_known_histograms():
    first, second = torch.tensor([3.0, 1.0]), torch.tensor([50.0, 50.0])
    coefficient = math.sqrt(0.75 * 0.5) + math.sqrt(0.25 * 0.5)
    assert float(metrics.bhattacharyya_from_histograms(first, second)) == pytest.approx(-math.log(coefficient))
    hellinger = metrics.bhattacharyya_from_histograms(first, second, "hellinger")
    assert float(hellinger) == pytest.approx(math.sqrt(1 - coefficient))
    apart = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert metrics.bhattacharyya_from_histograms(*apart) == math.inf
    assert metrics.bhattacharyya_from_histograms(*apart, "hellinger") == 1


@pytest.mark.parametrize("shape", [(12, 12), (8, 8, 8)], ids=["2D", "3D"])
def test_bhattacharyya_of_gaussians_approaches_the_closed_form(shape):
    first = 0.2 * normal(200, 1, *shape) - 0.2
    second = 0.1 * normal(300, 1, *shape, seed=1) + 0.1  # another number of images
    result = metrics.bhattacharyya_distance(first, second, data_range=(-1.5, 1.5), num_bins=128)
    closed = 0.25 * 0.3**2 / (0.2**2 + 0.1**2) + 0.5 * math.log((0.2**2 + 0.1**2) / (2 * 0.2 * 0.1))
    assert float(result) == pytest.approx(closed, rel=0.02)
    assert float(metrics.bhattacharyya_distance(first, first, data_range=RANGE)) == pytest.approx(0, abs=1e-12)


def test_bhattacharyya_counts_the_masks_of_both():
    first, second = torch.full((1, 1, 4, 4), -1.0), torch.full((1, 1, 4, 4), 1.0)
    first[..., :2, :] = 0.5
    second[..., 2:, :] = 0.5
    top = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    top[..., :2, :] = True
    assert float(metrics.bhattacharyya_distance(first, second, top, ~top, data_range=RANGE)) == pytest.approx(0)
    assert float(metrics.bhattacharyya_distance(first, second, data_range=RANGE)) == pytest.approx(math.log(2))


def test_the_metric_pools_over_batches():
    first, second = normal(6, 1, 8, 8).clamp(-1, 1), normal(6, 1, 8, 8, seed=1).clamp(-1, 1) * 0.5
    metric = metrics.BhattacharyyaDistanceMetric(RANGE)
    assert metric.aggregate().isnan()
    for start in (0, 2, 4):
        metric(first[start : start + 2], second[start : start + 2])
    whole = metrics.bhattacharyya_distance(first, second, data_range=RANGE)
    assert float(metric.aggregate()) == pytest.approx(float(whole))
    with pytest.raises(ValueError, match="expected as many images"):
        metric(first, second[:2])


@pytest.mark.parametrize(("images", "others", "features"), [(40, 60, 8), (12, 9, 30), (50, 10, 20)])
def test_fid_is_monais(images, others, features):
    mixing = normal(features, features, seed=2).double()
    first = normal(images, features).double() @ mixing
    second = normal(others, features, seed=1).double() + 0.3
    result = float(metrics.frechet_distance(first, second))
    # The root of a singular product, of fewer images than features, is good to a few digits only.
    assert result == pytest.approx(float(FIDMetric()(first, second)), rel=1e-8 if features == 8 else 1e-3)


def test_frechet_distances_of_known_gaussians():
    axis = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    correlated = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]).double()
    shift = torch.tensor([3.0, 4.0]).double()
    assert float(metrics.frechet_distance(axis, 2 * axis + shift)) == pytest.approx(25 + 2 * 2 / 3)
    assert float(metrics.simplified_frechet_distance(axis, 2 * axis + shift)) == pytest.approx(25 + 2 * 2 / 3)
    # C₁ = 2/3·I, C₂ = 2/3·[[1, 1], [1, 1]]: equal variances, so only the correlation distinguishes them.
    assert float(metrics.simplified_frechet_distance(axis, correlated)) == pytest.approx(0)
    assert float(metrics.frechet_distance(axis, correlated)) == pytest.approx(2 / 3 * (4 - 2 * math.sqrt(2)))


def test_sfd_never_exceeds_fid():
    for seed in range(5):
        first, second = normal(20, 6, seed=seed), normal(15, 6, seed=seed + 9) @ normal(6, 6, seed=seed + 20)
        assert metrics.simplified_frechet_distance(first, second) <= metrics.frechet_distance(first, second) + 1e-9


@pytest.fixture
def network_file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "features.ts"
    torch.jit.script(torch.nn.Conv2d(1, 5, 3)).save(str(path))
    return path


def test_features_come_from_the_named_file(network_file):
    network = metrics.load_feature_network(network_file)
    images = normal(4, 1, 9, 8)
    features = metrics.image_features(network, images)
    assert features.shape == (4, 5)
    assert features.dtype == torch.float64
    assert torch.allclose(features.float(), network(images).flatten(2).mean(2), atol=1e-6)
    other = 2 * normal(4, 1, 9, 8, seed=1)
    fid, sfd = metrics.FIDMetric(network), metrics.SFDMetric(network)
    for metric, distance in ((fid, metrics.frechet_distance), (sfd, metrics.simplified_frechet_distance)):
        assert metric.aggregate().isnan()
        metric(images[:1], other[:1])
        metric(images[1:], other[1:])
        expected = distance(features, metrics.image_features(network, other))
        assert float(metric.aggregate()) == pytest.approx(float(expected))
    assert float(fid.aggregate()) != float(sfd.aggregate())


def test_a_damaged_network_is_refused_by_its_checksum(network_file, monkeypatch):
    """torch would believe what a damaged file says of its lengths, and ask for as much memory."""
    content = bytearray(network_file.read_bytes())
    content[content.index(b"data.pkl") + 200] ^= 1
    network_file.write_bytes(content)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("torch was given a damaged file"))
    with pytest.raises(
        ValueError, match=r"features\.ts is damaged \('features/data\.pkl' does not have its checksum\)"
    ):
        metrics.load_feature_network(network_file)
    network_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is not a TorchScript file"):
        metrics.load_feature_network(network_file)


def test_a_wrong_network_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="none is downloaded"):
        metrics.load_feature_network(tmp_path / "none.ts")
    weights = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), weights)
    with pytest.raises(ValueError, match="is not a TorchScript file"):
        metrics.load_feature_network(weights)
    with pytest.raises(ValueError, match=r"expected \(2, features, ...\)"):
        metrics.image_features(lambda images: images.mean(), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="at least 2 images"):
        metrics.frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="expected 3 features"):
        metrics.frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))


@pytest.mark.parametrize("shape", [(6, 7), (5, 4, 6)], ids=["2D", "3D"])
def test_overlap_is_monais(shape):
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randint(4, (3, 1, *shape), generator=generator) for _ in range(2))
    result = metrics.label_overlap(pred, target, 4)
    one_hot = [torch.nn.functional.one_hot(x[:, 0], 4).movedim(-1, 1) for x in (pred, target)]
    assert torch.allclose(result.dice.float(), compute_dice(*one_hot))
    assert torch.allclose(result.iou.float(), compute_iou(*one_hot))
    assert torch.allclose(result.accuracy, (pred == target).flatten(1).double().mean(1))
    assert torch.allclose(metrics.LabelDiceMetric(4)(pred, target)[:, 0], result.dice[:, 1:].mean(1))
    assert torch.allclose(metrics.LabelIoUMetric(4, include_background=True)(pred, target)[:, 0], result.iou.mean(1))
    assert torch.allclose(metrics.LabelAccuracyMetric(4)(pred, target)[:, 0], result.accuracy)


def test_absent_classes_are_left_out_and_invented_ones_count_zero():
    target = torch.tensor([[[0, 1], [1, 0]]])
    pred = torch.tensor([[[0, 1], [2, 0]]])
    result = metrics.segmentation_scores(pred, target, {"csf": 1, "gm": 2, "wm": 3})
    assert result["accuracy"] == 0.75
    assert result["dice_csf"] == pytest.approx(2 / 3)
    assert result["dice_gm"] == 0
    assert math.isnan(result["dice_wm"])
    assert result["dice"] == pytest.approx(1 / 3)
    assert result["miou"] == pytest.approx(1 / 4)
    assert result["dice_with_background"] == pytest.approx((1 + 2 / 3) / 3)
    with pytest.raises(ValueError, match="expected names of the labels 1 to 2"):
        metrics.segmentation_scores(pred, target, {"a": 1, "b": 5})
    with pytest.raises(TypeError, match="expected integer labels"):
        metrics.label_overlap(pred[None].float(), target[None], 4)


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_labels_come_back_where_they_came_from(interpolation):
    source = torch.zeros(1, 8, 9)
    labels = torch.zeros(1, 8, 9, dtype=torch.uint8)
    labels[0, 4, 5] = 2  # on the target, moved by (+2, +1) from (2, 4)
    ddf = torch.zeros(2, 8, 9)
    ddf[0], ddf[1] = -2, -1
    trace = Trace.build(source, source, ddf, inverse_ddf=-ddf)
    back = metrics.warp_to_source(trace, labels, 3, interpolation=interpolation)
    assert back.dtype == torch.uint8
    assert (back[0] == 2).nonzero().tolist() == [[2, 4]]
    assert torch.equal(metrics.warp_to_source(trace, labels, 3, interpolation=interpolation, follow=False), labels)


def test_labels_come_back_to_another_grid():
    affine, source_affine = torch.eye(4).double(), torch.eye(4).double()
    source_affine[0, 0], source_affine[0, 3] = 2.0, 1.0  # source row i is on target row 2i + 1
    labels = torch.arange(8)[None, :, None].expand(1, 8, 3).contiguous()
    trace = Trace.build(
        torch.zeros(1, 4, 3), torch.zeros(1, 8, 3), torch.zeros(2, 8, 3), affine=affine, source_affine=source_affine
    )
    assert metrics.warp_to_source(trace, labels, 8)[0, :, 0].tolist() == [1, 3, 5, 7]
    assert metrics.warp_to_source(trace, labels, 8, interpolation="nearest")[0, :, 0].tolist() == [1, 3, 5, 7]
