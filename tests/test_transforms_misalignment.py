"""Random misalignment: its draws, its map and inverse, replay, and the dictionary form."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from monai.utils import set_determinism
from scipy.ndimage import affine_transform, gaussian_filter

from medtrace.fields import compose, jacobian_determinant, rigid_scale_matrix, warp
from medtrace.transforms import (
    MISALIGNMENT_LEVELS,
    Misalignment,
    MisalignmentDraw,
    RandMisalign,
    RandMisalignd,
    RandMisalignDict,
    misalignment_between,
)

SHAPES = {"2d": (20, 26), "3d": (12, 10, 14)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def smooth_image(shape, channels=1, seed=0):
    random = np.random.default_rng(seed)
    image = np.stack([gaussian_filter(random.standard_normal(shape), 2) for _ in range(channels)])
    return torch.from_numpy(np.clip(image / np.abs(image).max(), -1, 1)).float()


def seeded(seed=0, **settings):
    return RandMisalign(**settings).set_random_state(seed)


class TestLevels:
    def test_are_those_of_the_paper(self):
        assert list(MISALIGNMENT_LEVELS) == ["0", "1", "2", "3", "4", "5", "table1", "nonrigid"]
        for level in range(6):
            bounds = MISALIGNMENT_LEVELS[str(level)]
            assert dataclasses.astuple(bounds)[:4] == (level, 2 * level, 2 * level, 0)
        assert dataclasses.astuple(MISALIGNMENT_LEVELS["table1"])[:4] == (5, 5, 5, 0)
        assert MISALIGNMENT_LEVELS["nonrigid"].nonrigid_percent > 0
        with pytest.raises(TypeError):
            MISALIGNMENT_LEVELS["0"] = Misalignment()

    @pytest.mark.parametrize("dims", [2, 3])
    def test_draws_are_uniform_within_the_bounds(self, dims):
        bounds = MISALIGNMENT_LEVELS["5"]
        random = np.random.RandomState(1)
        draws = [bounds.draw(random, dims) for _ in range(2000)]
        numbers = np.array([[*d.angles_degrees, *d.translation_percent, 100 * (d.scale - 1)] for d in draws])
        assert numbers.shape[1] == {2: 1 + 2 + 1, 3: 3 + 3 + 1}[dims]
        reach = np.array([5] * (1 if dims == 2 else 3) + [10] * (dims + 1))
        assert (np.abs(numbers) <= reach).all()
        # uniform: mean 0, standard deviation reach/√3, extremes reached; independent of each other
        np.testing.assert_allclose(numbers.mean(0) / reach, 0, atol=0.05)
        np.testing.assert_allclose(numbers.std(0) / reach, 3**-0.5, atol=0.02)
        assert (np.abs(numbers).max(0) > 0.99 * reach).all()
        assert np.abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 0.08

    def test_the_same_seed_moves_the_same_way_at_every_level(self):
        low, high = (MISALIGNMENT_LEVELS[k].draw(np.random.default_rng(4), 2) for k in "14")
        np.testing.assert_allclose(4 * np.array(low.translation_percent), high.translation_percent)
        np.testing.assert_allclose(4 * np.array(low.angles_degrees), high.angles_degrees)

    @pytest.mark.parametrize(
        ("settings", "kind", "text"),
        [
            ({"rotation_degrees": -1}, ValueError, "rotation_degrees: expected a finite bound of at least 0"),
            ({"translation_percent": float("nan")}, ValueError, "translation_percent: expected a finite"),
            ({"scale_percent": 100}, ValueError, "scale_percent: expected at most 99"),
            ({"scale_percent": "5"}, TypeError, "scale_percent: expected a number"),
            ({"nonrigid_percent": 5, "nonrigid_intervals": 4}, ValueError, "one-to-one"),
            ({"nonrigid_intervals": 2.5}, TypeError, "nonrigid_intervals: expected a whole number"),
            ({"nonrigid_intervals": 0}, ValueError, "nonrigid_intervals: expected at least 1"),
        ],
    )
    def test_errors(self, settings, kind, text):
        with pytest.raises(kind, match=text):
            Misalignment(**settings)


class TestDraw:
    @each_shape
    @pytest.mark.parametrize("level", ["5", "nonrigid"])
    def test_push_undoes_pull_also_beyond_the_grid(self, shape, level):
        draw = MISALIGNMENT_LEVELS[level].draw(np.random.default_rng(0), len(shape))
        points = torch.rand(len(shape), 50, dtype=torch.float64) * 60 - 20
        spacing = (0.5, 1.0, 2.0)[: len(shape)]
        pulled = draw.pull(points, shape, spacing)
        assert float((pulled - points).abs().max()) > 0.5
        torch.testing.assert_close(draw.push(pulled, shape, spacing), points, atol=2e-6, rtol=0)

    @each_shape
    @pytest.mark.parametrize("level", ["5", "nonrigid"])
    def test_displacement_is_pull_minus_the_place(self, shape, level):
        draw = MISALIGNMENT_LEVELS[level].draw(np.random.default_rng(1), len(shape))
        index = torch.tensor([[0, 3, size - 1] for size in shape])
        field = draw.displacement(shape, dtype=torch.float64)
        pulled = draw.pull(index.double(), shape)
        torch.testing.assert_close(field[(slice(None), *index)] + index, pulled, atol=1e-10, rtol=0)

    @each_shape
    def test_the_largest_smooth_part_is_one_to_one_and_within_its_bound(self, shape):
        bounds = Misalignment(nonrigid_percent=4.1, nonrigid_intervals=4)
        draw = bounds.draw(np.random.default_rng(2), len(shape))
        extreme = draw._replace(control=np.sign(draw.control) * 4.1)
        # alternating control points bend most
        sign = (-1.0) ** np.indices(extreme.control.shape[1:]).sum(0)
        for control in (extreme.control, 4.1 * np.broadcast_to(sign, extreme.control.shape)):
            field = draw._replace(control=control).displacement(shape, dtype=torch.float64)
            assert float(jacobian_determinant(field[None]).min()) > 0
            reach = torch.tensor(shape) * 0.041
            assert bool((field.flatten(1).abs().amax(1) <= reach + 1e-9).all())

    def test_a_smooth_part_with_equal_control_points_is_a_translation(self):
        shape = (16, 20)
        control = np.stack([np.full((7, 7), 2.0), np.full((7, 7), -3.0)])
        draw = MisalignmentDraw((0.0,), (0.0, 0.0), 1.0, control)
        field = draw.displacement(shape, dtype=torch.float64)
        torch.testing.assert_close(field[0], torch.full(shape, 0.32, dtype=torch.float64))
        torch.testing.assert_close(field[1], torch.full(shape, -0.6, dtype=torch.float64))

    @each_shape
    def test_two_misaligned_images_are_brought_together(self, shape):
        """S on the source and T on the target make R = S⁻¹∘T."""
        bounds, dims = MISALIGNMENT_LEVELS["nonrigid"], len(shape)
        source, target = (bounds.draw(np.random.default_rng(seed), dims) for seed in (3, 4))
        between = misalignment_between(source, target, shape, dtype=torch.float64)
        # S(R(p)) = T(p), for every voxel
        grid = torch.stack(torch.meshgrid(*(torch.arange(float(size)) for size in shape), indexing="ij")).double()
        again = source.pull(grid + between.ddf, shape)
        torch.testing.assert_close(again, target.pull(grid, shape), atol=1e-5, rtol=0)
        back = target.pull(grid + between.inverse_ddf, shape)
        torch.testing.assert_close(back, source.pull(grid, shape), atol=1e-5, rtol=0)
        # and on images, up to the second interpolation
        image = smooth_image(shape)[None].double()
        x, y = (warp(image, draw.displacement(shape)[None]) for draw in (source, target))
        inside = (..., *(slice(3, -3),) * dims)
        misaligned, aligned = ((a - y)[inside].abs().mean() for a in (x, warp(x, between.ddf[None])))
        assert float(aligned) < 0.35 * float(misaligned)

    def test_rigid_parts_of_a_pair_are_products_of_matrices(self):
        shape = (20, 24)
        source, target = (MISALIGNMENT_LEVELS["5"].draw(np.random.default_rng(seed), 2) for seed in (5, 6))
        expected = torch.linalg.inv(source.matrix(shape)) @ target.matrix(shape)
        ddf = misalignment_between(source, target, shape, dtype=torch.float64).ddf
        point = torch.tensor([2.0, 17.0, 1.0], dtype=torch.float64)
        torch.testing.assert_close(ddf[:, 2, 17], (expected @ point - point)[:2])

    def test_of_another_dimension_is_refused(self):
        with pytest.raises(ValueError, match="shape: expected 2 axes"):
            MisalignmentDraw.identity(2).displacement((4, 4, 4))


class TestArray:
    @each_shape
    @pytest.mark.parametrize("fill", ["border", -0.7])
    def test_a_known_draw_agrees_with_scipy(self, shape, fill):
        dims = len(shape)
        draw = MISALIGNMENT_LEVELS["4"].draw(np.random.default_rng(7), dims)
        image = torch.rand(2, *shape, dtype=torch.float64)
        result = RandMisalign(level=0, fill=fill).apply(image, draw)
        translation = [percent / 100 * size for percent, size in zip(draw.translation_percent, shape)]
        matrix = rigid_scale_matrix(draw.angles_degrees, translation, draw.scale, shape).numpy()
        for channel in range(2):
            values = image[channel].numpy()
            if fill == "border":
                expected = affine_transform(values, matrix, order=1, mode="nearest")
            else:
                expected = affine_transform(values, matrix, order=1, mode="grid-constant", cval=fill)
            np.testing.assert_allclose(result[channel].numpy(), expected, atol=1e-5)

    @each_shape
    @pytest.mark.parametrize("fill", ["border", -1.0])
    def test_level_0_is_exactly_the_identity(self, shape, fill):
        image = torch.randn(2, *shape)
        transform = RandMisalign(level="0", fill=fill)
        result = transform(image)
        assert torch.equal(result, image)
        assert result.data_ptr() != image.data_ptr()
        assert not transform.displacement(image, transform.drawn).any()

    @each_shape
    @pytest.mark.parametrize("level", [3, "nonrigid"])
    def test_seeds_and_replay_are_bit_for_bit(self, shape, level):
        image, other = smooth_image(shape), smooth_image(shape, channels=2, seed=1)
        transform = seeded(3, level=level)
        first = transform(image)
        assert torch.equal(first, seeded(3, level=level)(image))
        assert not torch.equal(first, transform(image))
        drawn = pickle.loads(pickle.dumps(transform.drawn))
        again = transform.apply(image, drawn)
        assert torch.equal(again, transform(image, randomize=False))
        assert torch.equal(transform.apply(other, drawn), RandMisalign(level=0).apply(other, drawn))
        expected = warp(image[None], transform.displacement(image, drawn)[None])[0]
        assert torch.equal(again, expected)

    def test_own_bounds_and_generality_of_a_draw_over_resolutions(self):
        transform = seeded(misalignment=Misalignment(translation_percent=25))
        transform(torch.rand(1, 8, 8))
        coarse = transform.displacement(torch.rand(1, 8, 8), transform.drawn)
        fine = transform.displacement(torch.rand(1, 80, 80), transform.drawn)
        torch.testing.assert_close(fine[:, 0, 0], 10 * coarse[:, 0, 0])

    def test_metatensors_keep_their_affine_and_give_the_rotation_its_spacing(self):
        affine = torch.diag(torch.tensor([1.0, 3.0, 1.0, 1.0], dtype=torch.float64))
        image = MetaTensor(smooth_image((20, 12)), affine=affine, meta={"filename_or_obj": "a.nii"})
        transform = seeded(misalignment=Misalignment(rotation_degrees=20))
        result = transform(image)
        assert isinstance(result, MetaTensor)
        assert torch.equal(result.affine, affine)
        assert result.meta["filename_or_obj"] == "a.nii"
        matrix = transform.drawn.matrix((20, 12), (1.0, 3.0))
        in_mm = (
            torch.diag(torch.tensor([1.0, 3.0]).double())
            @ matrix[:2, :2]
            @ torch.diag(torch.tensor([1, 1 / 3.0])).double()
        )
        torch.testing.assert_close(in_mm @ in_mm.T, torch.eye(2).double(), atol=1e-6, rtol=0)
        expected = warp(image.as_tensor()[None], transform.drawn.displacement((20, 12), (1.0, 3.0))[None])[0]
        assert torch.equal(result.as_tensor(), expected)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    @pytest.mark.parametrize("fill", ["border", 1])
    def test_labels_stay_labels(self, dtype, fill):
        labels = (torch.rand(1, 20, 20) * 4).to(dtype)
        result = seeded(level=5, mode="nearest", fill=fill)(labels)
        assert result.dtype == dtype
        assert set(result.unique().tolist()) <= set(labels.unique().tolist())

    def test_fill_is_what_comes_in(self):
        image = torch.ones(1, 10, 10)
        draw = MisalignmentDraw((0.0,), (30.0, 0.0), 1.0)
        assert RandMisalign(0, fill=-1).apply(image, draw)[0, :, 4].tolist() == pytest.approx([1] * 7 + [-1] * 3)
        assert torch.equal(RandMisalign(0).apply(image, draw), image)

    def test_prob(self):
        transform = seeded(level=5, prob=0.3)
        image = smooth_image((10, 10))
        moved = [not torch.equal(transform(image), image) for _ in range(300)]
        assert 0.2 < np.mean(moved) < 0.4
        transform.prob = 0.0
        assert torch.equal(transform(image), image)
        assert transform.drawn == MisalignmentDraw.identity(2)

    def test_interpolates_once(self):
        """Affine and smooth part are one displacement: sharper than two reads in turn, at the same places."""
        draw = MISALIGNMENT_LEVELS["nonrigid"].draw(np.random.default_rng(8), 2)
        shape = (32, 32)
        image = torch.rand(1, *shape)
        once = RandMisalign(0).apply(image, draw)
        affine = draw._replace(control=None).displacement(shape)[None]
        smooth = MisalignmentDraw.identity(2)._replace(control=draw.control).displacement(shape)[None]
        twice = warp(warp(image[None], affine), smooth)[0]
        assert float(once[:, 4:-4, 4:-4].std()) > float(twice[:, 4:-4, 4:-4].std())
        inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
        joined = compose(affine, smooth)
        torch.testing.assert_close(joined[inner], draw.displacement(shape)[None][inner], atol=1e-4, rtol=0)

    @pytest.mark.parametrize(
        ("settings", "kind", "text"),
        [
            ({}, ValueError, "level, misalignment: expected one of them"),
            ({"level": 1, "misalignment": Misalignment()}, ValueError, "expected one of them"),
            ({"level": 6}, ValueError, "level: expected one of '0'"),
            ({"misalignment": "3"}, TypeError, "pass names as level"),
            ({"level": 1, "mode": "bicubic"}, ValueError, "mode: expected one of"),
            ({"level": 1, "fill": "zeros"}, ValueError, "fill: expected one of 'border'"),
            ({"level": 1, "fill": None}, TypeError, "fill: expected a number or 'border'"),
        ],
    )
    def test_errors_of_settings(self, settings, kind, text):
        with pytest.raises(kind, match=text):
            RandMisalign(**settings)

    def test_errors_of_images(self):
        with pytest.raises(TypeError, match="expected a tensor or array"):
            RandMisalign(3)("image.nii")
        with pytest.raises(ValueError, match="EnsureChannelFirst"):
            RandMisalign(3)(torch.rand(5, 5))
        with pytest.raises(TypeError, match='use mode="nearest"'):
            RandMisalign(3)(torch.zeros(1, 5, 5, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"fill: expected a value of torch\.uint8"):
            seeded(level=3, mode="nearest", fill=0.5)(torch.zeros(1, 5, 5, dtype=torch.uint8))
        with pytest.raises(ValueError, match="nothing was drawn"):
            RandMisalign(3)(torch.rand(1, 5, 5), randomize=False)


class TestDictionary:
    def item(self, shape=(20, 24)):
        return {"image": smooth_image(shape), "label": (smooth_image(shape) > 0.1).to(torch.uint8), "other": 3}

    @each_shape
    def test_keys_move_together(self, shape):
        transform = RandMisalignd(("image", "label"), 4, mode=("bilinear", "nearest"), ddf_key="ddf")
        transform.set_random_state(2)
        item = self.item(shape)
        result = transform(item)
        assert set(item) == {"image", "label", "other"}
        assert result["other"] == 3
        ddf = result["ddf"][None]
        assert torch.equal(result["image"], warp(item["image"][None], ddf)[0])
        assert torch.equal(result["label"], warp(item["label"][None], ddf, mode="nearest")[0])
        assert transform.drawn["image"] is transform.drawn["label"]
        again = transform.apply(item, transform.drawn)
        assert all(torch.equal(again[key], result[key]) for key in ("image", "label", "ddf"))
        alone = RandMisalign(4).set_random_state(2)(item["image"])
        assert torch.equal(alone, result["image"])

    def test_keys_move_apart(self):
        transform = RandMisalignd(
            ("image", "label"), 4, mode=("bilinear", "nearest"), together=False, ddf_key=("a", "b")
        )
        transform.set_random_state(2)
        item = self.item()
        result = transform(item)
        assert not torch.equal(result["a"], result["b"])
        assert torch.equal(result["label"], warp(item["label"][None], result["b"][None], mode="nearest")[0])
        assert transform.drawn["image"].scale != transform.drawn["label"].scale

    def test_in_compose_under_set_determinism(self):
        results = []
        for _ in range(2):
            set_determinism(5)
            chain = Compose([RandMisalignDict("image", "nonrigid")])
            chain.set_random_state(5)
            results.append(chain(self.item())["image"])
        set_determinism(None)
        assert torch.equal(*results)
        assert not torch.equal(results[0], self.item()["image"])

    def test_collates(self):
        items = [{"image": MetaTensor(smooth_image((12, 12)))} for _ in range(4)]
        loader = DataLoader(Dataset(items, RandMisalignd("image", 3, ddf_key="ddf")), batch_size=4)
        batch = next(iter(loader))
        assert batch["ddf"].shape == (4, 2, 12, 12)
        assert len({float(field.sum()) for field in batch["ddf"]}) == 4

    def test_missing_keys(self):
        item = {"image": torch.rand(1, 8, 8)}
        with pytest.raises(KeyError):
            RandMisalignd(("label", "image"), 3)(item)
        transform = RandMisalignd(
            ("label", "image"), 3, together=False, ddf_key=("of_label", "of_image"), allow_missing_keys=True
        )
        assert set(transform(item)) == {"image", "of_image"}

    def test_errors(self):
        with pytest.raises(ValueError, match="ddf_key: expected 1 name"):
            RandMisalignd(("image", "label"), 3, ddf_key=("a", "b"))
        with pytest.raises(ValueError, match="ddf_key: expected 2 name"):
            RandMisalignd(("image", "label"), 3, together=False, ddf_key="a")
        with pytest.raises(ValueError, match="ddf_key: expected one grid"):
            RandMisalignd(("a", "b"), 3, ddf_key="ddf")({"a": torch.rand(1, 8, 8), "b": torch.rand(1, 9, 8)})
        with pytest.raises(ValueError, match="drawn: expected a draw for"):
            RandMisalignd("image", 3).apply(self.item(), {})
        with pytest.raises(TypeError, match='image: expected floating-point values for mode="bilinear"'):
            RandMisalignd("image", 3)({"image": torch.zeros(1, 5, 5, dtype=torch.uint8)})
