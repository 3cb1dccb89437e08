"""The structure map, its piecewise-constant image and the exact solver on lines."""

import itertools

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import LoadImage
from scipy.ndimage import binary_fill_holes, gaussian_filter

from medtrace.transforms import StructureMap, StructureMapd, structure_map
from medtrace.transforms.potts import direction_steps, direction_weights, minimize_potts, potts_energy
from medtrace.transforms.potts_lines import lines_along, pull_multipliers, solve_copy
from medtrace.transforms.potts_regions import connected_regions, merge_regions, move_borders, neighbors, region_means
from medtrace.transforms.structure_map import METHODS
from medtrace.transforms.two_means import two_means


def solve_lines(values: np.ndarray, lengths: list[int], jump_cost: float) -> np.ndarray:
    """The one-dimensional minimizer on lines that lie one after the other."""
    solved, total = np.zeros_like(values), np.zeros_like(values)
    firsts = np.cumsum([0, *lengths])[:-1]
    nothing = np.zeros_like(values)
    solve_copy(values, total, solved, nothing, 0.0, 1.0, jump_cost, firsts, np.asarray(lengths), 1, 0, len(lengths))
    assert np.allclose(total, solved)
    return solved


def least_energy(values: np.ndarray, jump_cost: float) -> float:
    """The minimum over all partitions into segments."""
    n = len(values)
    energies = []
    for cuts in itertools.product((False, True), repeat=n - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]
        error = sum(np.square(values[a:b] - values[a:b].mean()).sum() for a, b in itertools.pairwise(edges))
        energies.append(error + jump_cost * sum(cuts))
    return min(energies)


@pytest.mark.parametrize("jump_cost", [0.0, 0.1, 0.5, 2.0, 50.0])
def test_lines_reach_the_least_energy_of_all_partitions(jump_cost):
    random = np.random.default_rng(0)
    lengths = [1, 2, 5, 8, 10, 10]
    values = random.normal(size=sum(lengths)).round(1)
    solved = solve_lines(values, lengths, jump_cost)
    for a, b in itertools.pairwise(np.cumsum([0, *lengths])):
        energy = np.square(solved[a:b] - values[a:b]).sum() + jump_cost * np.count_nonzero(np.diff(solved[a:b]))
        assert energy == pytest.approx(least_energy(values[a:b], jump_cost), abs=1e-9)


def test_lines_of_one_level_have_no_jump():
    assert np.ptp(solve_lines(np.full(50, 0.1), [50], 1e-3)) == 0


def energy_by_candidates(values: np.ndarray, jump_cost: float) -> float:
    """The minimum over all partitions, by going through every place of the last jump."""
    sums, squares = np.cumsum([0, *values]), np.cumsum([0, *np.square(values)])
    minimum = [-jump_cost]
    for r in range(1, len(values) + 1):
        s = np.arange(r)
        costs = squares[r] - squares[s] - (sums[r] - sums[s]) ** 2 / (r - s)
        minimum.append((np.asarray(minimum) + costs).min() + jump_cost)
    return minimum[-1]


@pytest.mark.parametrize("kind", ["noise", "pieces", "waves", "levels", "two levels in turn"])
@pytest.mark.parametrize("jump_cost", [1e-4, 0.03, 1.0, 30.0])
def test_lines_reach_the_least_energy_on_long_lines(kind, jump_cost):
    random = np.random.default_rng(4)
    place = np.arange(400)
    values = {
        "noise": random.normal(size=400),
        "pieces": np.repeat(random.normal(size=20), 20) + 0.01 * random.normal(size=400),
        "waves": np.sin(place / 7) + np.cos(place / 31),
        "levels": random.integers(0, 4, 400) / 3,
        "two levels in turn": (place // 25 % 2) + 0.2 * random.normal(size=400),
    }[kind]
    solved = solve_lines(values, [400], jump_cost)
    energy = np.square(solved - values).sum() + jump_cost * np.count_nonzero(np.diff(solved))
    assert energy == pytest.approx(energy_by_candidates(values, jump_cost), rel=1e-9)


def test_threads_do_not_change_a_byte(monkeypatch):
    image = np.random.default_rng(5).normal(size=(160, 140)) + (np.indices((160, 140))[0] > 70)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = minimize_potts(image, 1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert alone.values.tobytes() == minimize_potts(image, 1.0).values.tobytes()


def test_multipliers_are_pulled_by_the_distance_from_the_mean():
    copies = np.array([[1.0, 2.0], [1.0, 4.0]])
    multipliers = np.zeros((2, 2))
    assert pull_multipliers(copies, multipliers, copies.sum(0), 0.5, 0, 2) == pytest.approx(2.0)
    assert multipliers == pytest.approx(np.array([[0, -1.0], [0, 1.0]]))


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5), (1, 6)])
@pytest.mark.parametrize("beyond_rows", [0, 3])
def test_lines_visit_every_voxel_once_and_step_by_step(shape, beyond_rows):
    stored = (*shape[:-1], shape[-1] + beyond_rows)
    voxels = np.arange(np.prod(stored)).reshape(stored)[..., : shape[-1]]
    for step in direction_steps(len(shape), "diagonals"):
        lines = lines_along(shape, step, stored[-1])
        visited = [first + lines.stride * np.arange(length) for first, length in zip(lines.firsts, lines.lengths)]
        assert sorted(np.concatenate(visited)) == voxels.ravel().tolist()
        for line in visited:
            places = np.stack(np.unravel_index(line, stored), axis=1)
            assert (np.diff(places, axis=0) == step).all()
            for beyond in (places[0] - step, places[-1] + step):
                assert ((beyond < 0) | (beyond >= shape)).any()


def test_regions_are_cut_where_a_piece_jumps_along_its_own_step():
    across = np.array([[0, 0, 1], [0, 0, 1]])
    down = np.array([[5, 5, 5], [6, 5, 5]])
    result = connected_regions([across, down], [(0, 1), (1, 0)])
    assert result.tolist() == [[0, 0, 1], [0, 0, 1]]  # the left column is cut, but holds together by the middle one
    assert connected_regions([across, 7 * across], [(0, 1), (1, 0)]).max() == 1


def potts_of(regions, image, gamma, steps, weights):
    return potts_energy(region_means(regions, image)[regions], image, gamma, steps, weights)


@pytest.mark.parametrize("shape", [(24, 20), (9, 8, 7)])
def test_mergers_and_moves_lower_the_energy_as_far_as_one_of_them_can(shape):
    random = np.random.default_rng(6)
    image = (np.indices(shape)[0] > shape[0] // 2) + 0.4 * random.normal(size=shape)
    steps = direction_steps(len(shape), "diagonals" if len(shape) == 2 else "axes")
    weights = direction_weights(steps)
    start = np.arange(image.size).reshape(shape) // 3
    merged = merge_regions(start, image, 0.2, steps, weights)
    assert sorted(np.unique(merged)) == list(range(merged.max() + 1))
    before = potts_of(merged, image, 0.2, steps, weights)
    assert before < potts_of(start, image, 0.2, steps, weights)
    assert all(
        potts_of(np.unique(np.where(merged == b, a, merged), return_inverse=True)[1].reshape(shape), image, 0.2, steps,
                 weights) >= before - 1e-9
        for a in range(merged.max() + 1) for b in range(a)
        if _touch(merged, a, b, steps)
    )  # fmt: skip
    moved = move_borders(merged, image, 0.2, steps, weights)
    after = potts_of(moved, image, 0.2, steps, weights)
    assert after < before
    assert np.unique(moved).size == merged.max() + 1
    for voxel in random.choice(image.size, 40, replace=False):
        for other in range(moved.max() + 1):
            tried = moved.copy()
            tried.flat[voxel] = other
            if np.unique(tried).size == moved.max() + 1 and _near(moved, voxel, other, steps):
                assert potts_of(tried, image, 0.2, steps, weights) >= after - 1e-9


def _touch(regions, a, b, steps):
    pairs = [neighbors(regions, step) for step in steps]
    return any((((one == a) & (two == b)) | ((one == b) & (two == a))).any() for one, two in pairs)


def _near(regions, voxel, other, steps):
    place = np.unravel_index(voxel, regions.shape)
    ends = [tuple(np.add(place, sign * np.asarray(step))) for step in steps for sign in (1, -1)]
    return any(all(0 <= k < n for k, n in zip(end, regions.shape)) and regions[end] == other for end in ends)


@pytest.mark.parametrize("seed", [0, 1])
def test_energy_is_no_higher_than_slow_copies_that_meet(seed):
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(72, 80)), 4) * 14
    image = (smooth > 0) + 0.4 * (smooth > 1) + 0.15 * random.normal(size=(72, 80))
    quick = minimize_potts(image, 0.2)
    slow = minimize_potts(image, 0.2, growth=1.5, tolerance=1e-3)
    assert quick.energy <= 1.01 * slow.energy
    assert np.mean((quick.values > 0.5) != (slow.values > 0.5)) < 0.01


def test_weights_measure_planes_along_axes_and_diagonals_exactly():
    assert direction_weights(direction_steps(3, "axes")) == pytest.approx([1, 1, 1])
    flat = dict(zip(direction_steps(2, "diagonals"), direction_weights(direction_steps(2, "diagonals"))))
    assert flat[1, 0] == pytest.approx(np.sqrt(2) - 1)
    assert flat[1, -1] == pytest.approx(1 - np.sqrt(2) / 2)
    steps = direction_steps(3, "diagonals")
    weights = direction_weights(steps)
    assert len(steps) == 13
    assert weights.min() > 0
    for normal in ([0, 1, 0], [1, 0, -1], [1, -1, 1]):
        crossings = np.abs(np.asarray(steps) @ normal) / np.linalg.norm(normal)
        assert weights @ crossings == pytest.approx(1)


def test_energy_counts_edges_and_errors():
    image = np.zeros((4, 4))
    image[:, 2:] = 1
    steps = direction_steps(2, "axes")
    energy = potts_energy(image, image + 0.5, 0.1, steps, direction_weights(steps))
    assert energy == pytest.approx(0.1 * 4 + 16 * 0.25)


@pytest.mark.parametrize("directions", ["axes", "diagonals"])
def test_potts_reaches_the_least_energy_of_a_small_image(directions):
    image = np.random.default_rng(2).normal(size=(3, 3)) + np.array([[0, 0, 2], [0, 2, 2], [0, 2, 2]])
    steps = direction_steps(2, directions)
    weights = direction_weights(steps)
    energies = []
    for classes in itertools.product((False, True), repeat=9):
        mask = np.reshape(classes, (3, 3))
        values = np.zeros((3, 3))
        for part in (mask, ~mask):
            if part.any():
                values[part] = image[part].mean()
        energies.append(potts_energy(values, image, 1.0, steps, weights))
    assert minimize_potts(image, 1.0, directions).energy <= min(energies) * 1.001


@pytest.mark.parametrize("shape", [(48, 40), (20, 18, 16)])
def test_potts_recovers_pieces_in_noise(shape):
    random = np.random.default_rng(1)
    truth = np.zeros(shape)
    truth[tuple(slice(size // 4, 3 * size // 4) for size in shape)] = 2.0
    truth[tuple(slice(0, size // 4) for size in shape)] = -1.0
    image = truth + random.normal(scale=0.3, size=shape)
    result = minimize_potts(image, gamma=0.5)
    assert result.regions.max() + 1 == 3
    assert (np.abs(result.values - truth) > 0.1).mean() < 0.002
    steps = direction_steps(len(shape), "diagonals" if len(shape) == 2 else "axes")
    assert result.energy <= potts_energy(truth, image, 0.5, steps, direction_weights(steps))


def test_two_means_is_the_best_of_all_thresholds():
    values = np.random.default_rng(3).normal(size=60).round(1)
    within = {
        level: sum(part.var() * part.size for part in (values[values <= level], values[values > level]))
        for level in np.unique(values)[:-1]
    }
    split = two_means(values)
    assert within[split.threshold] == pytest.approx(min(within.values()))
    assert split.contrast == pytest.approx(
        values[values > split.threshold].mean() - values[values <= split.threshold].mean()
    )


def disc(size: int = 48, noise: float = 0.1, spatial_dims: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright disc or ball with a dark core, and its image with noise."""
    grid = torch.meshgrid(*[torch.arange(size) - size / 2 + 0.5] * spatial_dims, indexing="ij")
    radius = torch.stack(grid).square().sum(0).sqrt()[None]
    truth = ((radius < 0.4 * size) & (radius > 0.15 * size)).float()
    return truth, truth + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_map_is_the_brighter_class(method, spatial_dims):
    truth, image = disc(32 if spatial_dims == 2 else 16, spatial_dims=spatial_dims)
    result = StructureMap(method)(image)
    assert result.dtype == torch.float32
    assert torch.equal(result.as_tensor(), truth)


@pytest.mark.parametrize("method", METHODS)
def test_map_ignores_scale_and_shift(method):
    _, image = disc(noise=0.3)
    expected = structure_map(image, method)
    assert 0 < expected.mean() < 1
    for scale, shift in ((2.0, -1.0), (1000.0, 50.0), (1e-3, 0.0)):
        assert (structure_map(scale * image.double() + shift, method) != expected).float().mean() < 2e-3


def test_potts_leaves_out_the_noise_that_a_threshold_keeps():
    truth, image = disc(noise=0.3)
    wrong = {method: int((structure_map(image, method, gamma=1e-2) != truth).sum()) for method in METHODS}
    assert wrong["otsu"] > 50
    assert wrong["potts"] < 0.2 * wrong["otsu"]


def rings(noise: float, spatial_dims: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Air, and in it three balls about one center, the inner ones darker, as (classes, image)."""
    size = 48 if spatial_dims == 2 else 24
    grid = torch.meshgrid(*[torch.arange(size) - size / 2 + 0.5] * spatial_dims, indexing="ij")
    radius = torch.stack(grid).square().sum(0).sqrt()[None] / size
    truth = torch.zeros_like(radius)
    for within, number in ((0.45, 3), (0.33, 2), (0.2, 1)):
        truth[radius < within] = number
    image = torch.tensor([0.0, 0.3, 0.6, 1.0])[truth.long()]
    return truth / 3, image + noise * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_several_classes_are_in_the_order_of_their_brightness(method, spatial_dims):
    truth, image = rings(0.01, spatial_dims)
    torch.testing.assert_close(structure_map(image, method, classes=4), truth)
    torch.testing.assert_close(structure_map(1000 * image.double() - 40, method, classes=4), truth)


def test_several_classes_of_pieces_have_no_specks():
    truth, image = rings(0.1)
    wrong = {method: int((structure_map(image, method, 1e-3, classes=4) != truth).sum()) for method in METHODS[:2]}
    assert wrong["otsu"] > 100
    assert wrong["potts"] < 0.2 * wrong["otsu"]


def test_fewer_values_than_classes_are_classes_of_their_own():
    image = torch.tensor([[[-2.0, -2.0, 5.0, 7.0]]])
    torch.testing.assert_close(structure_map(image, "otsu", classes=5), torch.tensor([[[0, 0, 0.25, 0.5]]]))
    assert structure_map(torch.full((1, 8, 9), 3.7), classes=4).abs().sum() == 0
    clustered = torch.tensor([[[0.0, 1e-6, 2e-6, 1.0, 1.0 - 1e-6]]])
    torch.testing.assert_close(structure_map(clustered, "otsu", classes=4), torch.tensor([[[0, 0, 0, 1 / 3, 1 / 3]]]))


def test_several_classes_are_those_of_the_best_k_means():
    values = torch.rand(1, 5, 8, generator=torch.Generator().manual_seed(3)).double() ** 2
    levels = values.flatten().sort().values

    def scatter(*ends):
        return sum(float(part.var(correction=0) * len(part)) for part in levels.tensor_split(ends))

    best = min((scatter(i, j), i, j) for i in range(1, 39) for j in range(i + 1, 40))
    result = structure_map(values, "kmeans", classes=3)
    found = [int((result < value).sum()) for value in (0.5, 1.0)]
    assert scatter(*found) == pytest.approx(best[0])


@pytest.mark.parametrize("method", METHODS)
def test_constant_image_has_no_brighter_class(method):
    assert structure_map(torch.full((1, 8, 9), 3.7), method).abs().sum() == 0
    assert structure_map(torch.ones(1, 1, 1), method).shape == (1, 1, 1)


def test_noise_alone_is_one_region():
    assert structure_map(torch.rand(1, 24, 24, generator=torch.Generator().manual_seed(0)), gamma=1.0).sum() == 0


def test_metadata_and_input_stay():
    truth, values = disc(24)
    image = MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])), meta={"case": "one"})
    before = image.clone()
    result = StructureMap()(image)
    assert torch.equal(result.affine, image.affine)
    assert result.meta["case"] == "one"
    assert torch.equal(image.as_tensor(), before.as_tensor())
    assert isinstance(structure_map(image), MetaTensor)
    assert type(structure_map(values)) is torch.Tensor
    for other in (values.numpy(), values.half(), (100 * values + 50).to(torch.int16)):
        assert torch.equal(StructureMap()(other).as_tensor(), truth)


def test_dictionary_form_names_its_maps():
    truth, image = disc(24)
    item = {"source": image, "target": 1 - image}
    maps = StructureMapd(("source", "target"), method="kmeans")(item)
    assert torch.equal(maps["source_structure"].as_tensor(), truth)
    assert torch.equal(maps["target_structure"].as_tensor(), 1 - truth)
    assert maps["source"] is image
    assert set(StructureMapd(("source", "target"), out_keys=("a", "b"))(item)) == {"source", "target", "a", "b"}
    assert set(StructureMapd(("source", "mask"), allow_missing_keys=True)({"source": image})) == {
        "source",
        "source_structure",
    }
    with pytest.raises(ValueError, match="out_keys"):
        StructureMapd(("source", "target"), out_keys=("a",))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.full((1, 4, 4), float("nan")), ValueError, "received 16 that are NaN"),
        (torch.zeros(2, 4, 4), ValueError, "expected 1 channel, received 2"),
        (torch.zeros(4, 4), ValueError, "add the channel axis"),
        ("slice.png", TypeError, "load it first"),
    ],
)
def test_wrong_images_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        StructureMap()(image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "watershed"}, "method: expected one of 'potts', 'otsu', 'kmeans'"),
        ({"gamma": 0}, "gamma: expected a number above 0"),
        ({"directions": "knight"}, "directions: expected one of"),
        ({"classes": 1}, "classes: expected at least 2, received 1"),
        ({"classes": 6}, "classes: expected 2 to 5, received 6"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StructureMap(**settings)


def test_settings_of_the_minimization_are_checked():
    image = np.eye(4)
    for settings, message in (
        ({"gamma": 1.0, "growth": 1.0}, "growth: expected a factor above 1"),
        ({"gamma": 1.0, "coupling": 0.0}, "coupling"),
        ({"gamma": -1.0}, "gamma"),
    ):
        with pytest.raises(ValueError, match=message):
            minimize_potts(image, **settings)


@pytest.mark.real_data
def test_ventricles_of_a_real_slice_are_dark(real_data):
    volume = LoadImage(image_only=True, ensure_channel_first=True)(real_data / "open_ms/mni/patient19/T1.nii.gz")
    image = volume[..., volume.shape[-1] // 2]
    result = structure_map(image.as_tensor())
    head = binary_fill_holes(result[0].numpy())
    inside = head & (result[0] == 0).numpy()
    assert 0.02 < inside.sum() / head.sum() < 0.2
