"""Every check takes exactly what it says, to the last number before the border, and names what is wrong beyond it."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from medtrace import checks

INFINITY = float("inf")
NAN = float("nan")


def refuses(kind, text, check, *arguments, **options):
    """The check raises this kind of error with exactly this text."""
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        check(*arguments, **options)


class TestBatched:
    @pytest.mark.parametrize(
        ("shape", "spatial_dims"), [((1, 1, 1, 1), 2), ((2, 3, 4, 5), 2), ((1, 1, 1, 1, 1), 3), ((2, 3, 4, 5, 6), 3)]
    )
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_images_and_volumes_of_floating_numbers(self, shape, spatial_dims, dtype):
        assert checks.check_batched("x", torch.zeros(shape, dtype=dtype)) == spatial_dims

    @pytest.mark.parametrize("value", [None, 1.0, [[1.0]], np.zeros((1, 1, 2, 2), np.float32)])
    def test_no_tensor(self, value):
        text = f"x: expected a torch tensor, received {type(value).__name__}; convert it first"
        refuses(TypeError, text, checks.check_batched, "x", value)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64])
    def test_no_floating_numbers(self, dtype):
        text = f"x: expected floating-point values, received {dtype}; call .float() first"
        refuses(TypeError, text, checks.check_batched, "x", torch.zeros(1, 1, 2, 2, dtype=dtype))

    @pytest.mark.parametrize("shape", [(), (2,), (2, 2), (1, 2, 2), (1, 1, 2, 2, 2, 2)])
    def test_other_ranks(self, shape):
        text = (
            "x: expected (batch, channel, H, W) or (batch, channel, H, W, D), received shape"
            f" {shape}; add the batch or channel axis"
        )
        refuses(ValueError, text, checks.check_batched, "x", torch.zeros(shape))

    def test_channels(self):
        assert checks.check_batched("x", torch.zeros(1, 3, 2, 2), channels=3) == 2
        for channels in (2, 4):
            text = f"x: expected {channels} channel(s), received 3 in shape (1, 3, 2, 2); check the channel axis"
            refuses(ValueError, text, checks.check_batched, "x", torch.zeros(1, 3, 2, 2), channels=channels)

    def test_no_channel_is_not_any_number_of_them(self):
        refuses(
            ValueError,
            "x: expected 0 channel(s), received 1 in shape (1, 1, 2, 2); check the channel axis",
            checks.check_batched,
            "x",
            torch.zeros(1, 1, 2, 2),
            channels=0,
        )

    @pytest.mark.parametrize("shape", [(0, 1, 2, 2), (1, 0, 2, 2), (1, 1, 0, 2), (1, 1, 2, 2, 0)])
    def test_nothing_in_it(self, shape):
        text = f"x: expected at least one voxel, received shape {shape}"
        refuses(ValueError, text, checks.check_batched, "x", torch.zeros(shape))


class TestNetworkInput:
    def test_axes_and_channels_as_built(self):
        checks.check_network_input("image", torch.zeros(1, 2, 4, 4), 2, 2)
        checks.check_network_input("image", torch.zeros(1, 1, 4, 4, 4), 3, 1)

    @pytest.mark.parametrize(("shape", "built", "remedy"), [((1, 1, 4, 4), 3, 2), ((1, 1, 4, 4, 4), 2, 3)])
    def test_other_axes(self, shape, built, remedy):
        text = (
            f"image: expected {built} spatial axes, received shape {shape}; build the network with"
            f" spatial_dims={remedy}"
        )
        refuses(ValueError, text, checks.check_network_input, "image", torch.zeros(shape), built, 1)

    def test_other_channels_and_kinds(self):
        text = "image: expected 2 channel(s), received 1 in shape (1, 1, 4, 4); check the channel axis"
        refuses(ValueError, text, checks.check_network_input, "image", torch.zeros(1, 1, 4, 4), 2, 2)
        with pytest.raises(TypeError, match="image: expected floating-point"):
            checks.check_network_input("image", torch.zeros(1, 1, 4, 4, dtype=torch.int32), 2, 1)


class TestSpatialDims:
    def test_two_and_three(self):
        checks.check_spatial_dims(2)
        checks.check_spatial_dims(3)

    @pytest.mark.parametrize("value", [1, 4, 0, -2, 2.5, "2", None, (2, 3)])
    def test_others(self, value):
        refuses(ValueError, f"spatial_dims: expected 2 or 3, received {value!r}", checks.check_spatial_dims, value)


class TestLevels:
    @pytest.mark.parametrize(("channels", "downsampling"), [((8,), 0), ((8, 16), 0), ((8, 16), 1), ((1, 2, 3, 4), 3)])
    def test_fewer_halvings_than_levels(self, channels, downsampling):
        checks.check_levels(channels, "velocity_downsampling", downsampling)

    @pytest.mark.parametrize(("channels", "downsampling", "most"), [((8,), 1, 0), ((8, 16), 2, 1), ((8, 16), -1, 1)])
    def test_too_many_or_below_none(self, channels, downsampling, most):
        text = f"velocity_downsampling: expected 0 to {most}, fewer than the levels, received {downsampling}"
        refuses(ValueError, text, checks.check_levels, channels, "velocity_downsampling", downsampling)

    def test_no_level(self):
        text = "channels: expected at least one level, received none"
        refuses(ValueError, text, checks.check_levels, [], "velocity_downsampling", 0)


class TestField:
    def test_a_channel_for_each_axis(self):
        assert checks.check_field("ddf", torch.zeros(1, 2, 4, 4)) == 2
        assert checks.check_field("ddf", torch.zeros(1, 3, 4, 4, 4)) == 3

    @pytest.mark.parametrize(
        ("shape", "axes"), [((1, 3, 4, 4), 2), ((1, 1, 4, 4), 2), ((1, 2, 4, 4, 4), 3), ((1, 4, 4, 4, 4), 3)]
    )
    def test_other_channels(self, shape, axes):
        text = f"ddf: expected {axes} channels (one per spatial axis, in voxels), received shape {shape}"
        refuses(ValueError, text, checks.check_field, "ddf", torch.zeros(shape))


class TestSameGrid:
    @pytest.mark.parametrize(("first", "second"), [((1, 1, 4, 5), (1, 2, 4, 5)), ((2, 1, 4, 5, 6), (2, 3, 4, 5, 6))])
    def test_channels_may_differ(self, first, second):
        checks.check_same_grid("a", torch.zeros(first), "b", torch.zeros(second))

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ((1, 1, 4, 5), (2, 1, 4, 5)),
            ((1, 1, 4, 5), (1, 1, 5, 4)),
            ((1, 1, 4, 5), (1, 1, 4, 6)),
            ((1, 1, 4, 5), (1, 1, 4, 5, 1)),
        ],
    )
    def test_batch_and_axes_may_not(self, first, second):
        text = f"b: expected the batch and grid of a {first}, received {second}; resample one of them"
        refuses(ValueError, text, checks.check_same_grid, "a", torch.zeros(first), "b", torch.zeros(second))


class TestSameShape:
    def test_one_shape(self):
        checks.check_same_shape("a", torch.zeros(1, 2, 3), "b", torch.ones(1, 2, 3))
        checks.check_same_shape("a", torch.zeros(()), "b", torch.ones(()))

    @pytest.mark.parametrize("second", [(1, 2, 4), (1, 1, 3), (2, 3), (1, 2, 3, 1)])
    def test_two_shapes(self, second):
        text = f"b: expected the shape of a (1, 2, 3), received {second}"
        refuses(ValueError, text, checks.check_same_shape, "a", torch.zeros(1, 2, 3), "b", torch.zeros(second))


class TestFinite:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_the_largest_numbers_of_a_type_are_finite(self, dtype):
        largest = torch.finfo(dtype).max
        checks.check_finite("x", torch.tensor([largest, -largest, 0.0], dtype=dtype))

    @pytest.mark.parametrize(
        "value", [torch.tensor([1, 2]), torch.tensor([True]), torch.tensor([1j]), torch.zeros(0), torch.tensor(1.0)]
    )
    def test_other_kinds(self, value):
        checks.check_finite("x", value)

    @pytest.mark.parametrize(
        ("values", "count"),
        [([NAN], 1), ([1.0, INFINITY], 1), ([-INFINITY, 1.0], 1), ([NAN, 0.0, INFINITY, -INFINITY], 3)],
    )
    def test_their_number(self, values, count):
        text = (
            f"x: expected finite numbers, received {count} that are NaN or infinite; look for NaN or infinity in the"
            " input"
        )
        refuses(ValueError, text, checks.check_finite, "x", torch.tensor(values))

    def test_one_among_many(self):
        value = torch.zeros(3, 4, 5)
        value[1, 2, 3] = NAN
        text = "x: expected finite numbers, received 1 that are NaN or infinite; train again"
        refuses(ValueError, text, checks.check_finite, "x", value, "train again")

    def test_complex_numbers_and_gradients(self):
        with pytest.raises(ValueError, match="received 1 that"):
            checks.check_finite("x", torch.tensor([complex(0, NAN), 1]))
        with pytest.raises(ValueError, match="received 1 that"):
            checks.check_finite("x", torch.tensor([INFINITY], requires_grad=True))


class TestExtremes:
    def test_least_and_greatest_are_handed_over(self):
        received = []
        value = torch.tensor([[3.0, -1.5], [0.0, 2.0]], requires_grad=True)
        checks.check_extremes(value, lambda minimum, maximum: received.append((minimum, maximum)))
        assert received == [(-1.5, 3.0)]

    def test_nothing_waits_on_the_cpu(self):
        received = []
        with checks.DeferredChecks() as deferred:
            checks.check_extremes(torch.tensor([1.0, 2.0]), lambda *extremes: received.append(extremes))
            assert received == [(1.0, 2.0)]
        deferred.look()
        assert received == [(1.0, 2.0)]


@pytest.fixture
def _as_on_an_accelerator(monkeypatch):
    """Every look at a number costs a wait."""
    monkeypatch.setattr(checks, "_costs_a_wait", lambda _: True)


@pytest.mark.usefixtures("_as_on_an_accelerator")
class TestDeferredChecks:
    def test_they_wait_for_the_look_and_come_in_order(self):
        received = []
        with checks.DeferredChecks() as deferred:
            for minimum in (1.0, 2.0, 3.0):
                checks.check_extremes(torch.tensor([minimum, 9.0]), lambda *extremes: received.append(extremes))
            assert received == []
            deferred.look()
            assert received == [(1.0, 9.0), (2.0, 9.0), (3.0, 9.0)]
            deferred.look()
        assert len(received) == 3, "what was assessed is assessed again"

    def test_the_first_that_fails_is_told(self):
        with checks.DeferredChecks() as deferred:
            checks.check_range("good", torch.zeros(2), -1, 1)
            checks.check_range("first", torch.full((2,), 2.0), -1, 1)
            checks.check_range("second", torch.full((2,), 3.0), -1, 1)
            with pytest.raises(ValueError, match=r"^first: "):
                deferred.look()

    def test_types_of_several_precisions_keep_their_numbers(self):
        received = []
        with checks.DeferredChecks() as deferred:
            checks.check_extremes(torch.tensor([0.1], dtype=torch.float64), lambda *two: received.append(two))
            checks.check_extremes(torch.tensor([0.5], dtype=torch.float16), lambda *two: received.append(two))
            deferred.look()
        assert received == [(0.1, 0.1), (0.5, 0.5)]

    def test_outside_of_the_block_nothing_waits(self):
        with checks.DeferredChecks():
            pass
        with pytest.raises(ValueError, match=r"^x: "):
            checks.check_range("x", torch.tensor([5.0]), 0, 1)

    def test_a_block_within_a_block_keeps_its_own(self):
        with checks.DeferredChecks() as outer:
            with checks.DeferredChecks() as inner:
                checks.check_range("inner", torch.tensor([5.0]), 0, 1)
            checks.check_range("outer", torch.tensor([5.0]), 0, 1)
            with pytest.raises(ValueError, match=r"^outer: "):
                outer.look()
            with pytest.raises(ValueError, match=r"^inner: "):
                inner.look()


class TestRange:
    @pytest.mark.parametrize(
        ("low", "high", "value"),
        # A thousandth of the range, 2, is .002; of 255 it is .255; of 1000, 1.
        [(-1, 1, 1.0), (-1, 1, 1.0019), (-1, 1, -1.0019), (0, 255, 255.25), (0, 255, -0.25), (-500, 500, 501.0)],
    )
    def test_a_thousandth_of_the_range_is_rounding(self, low, high, value):
        checks.check_range("image", torch.tensor([(low + high) / 2, value], dtype=torch.float64), low, high)

    @pytest.mark.parametrize(
        ("low", "high", "value"), [(-1, 1, 1.0021), (-1, 1, -1.0021), (0, 255, 255.26), (-500, 500, 501.01)]
    )
    def test_more_is_not(self, low, high, value):
        with pytest.raises(ValueError, match=rf"^image: expected intensities in \[{low}, {high}\], received "):
            checks.check_range("image", torch.tensor([(low + high) / 2, value], dtype=torch.float64), low, high)

    def test_a_tolerance_of_ones_own(self):
        checks.check_range("image", torch.tensor([1.2]), -1, 1, tolerance=0.1001)
        with pytest.raises(ValueError, match="image"):
            checks.check_range("image", torch.tensor([1.2]), -1, 1, tolerance=0.0999)
        checks.check_range("image", torch.tensor([1.0]), -1, 1, tolerance=0)
        with pytest.raises(ValueError, match="image"):
            checks.check_range("image", torch.tensor([1.0001]), -1, 1, tolerance=0)

    @pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
    def test_what_is_no_number_fails(self, value):
        with pytest.raises(ValueError, match="image"):
            checks.check_range("image", torch.tensor([0.0, value]), -1, 1)

    def test_message(self):
        text = (
            "image: expected intensities in [-1, 1], received -3 to 0.5; rescale the image"
            " (monai.transforms.ScaleIntensityRange), or use `medtrace prepare` and `translate`, which do"
        )
        refuses(ValueError, text, checks.check_range, "image", torch.tensor([-3.0, 0.5]), -1, 1)


class TestChoice:
    @pytest.mark.parametrize("value", ["mean", "sum", None])
    def test_one_of_them(self, value):
        checks.check_choice("reduction", value, ("mean", "sum", None))

    @pytest.mark.parametrize("value", ["Mean", "mea", "", 1, ["mean"], {"a": 1}, torch.zeros(2)])
    def test_another(self, value):
        near = "; did you mean 'mean'?" if value in ("Mean", "mea") else ""
        text = f"reduction: expected one of 'mean', 'sum', received {value!r}{near}"
        refuses(ValueError, text, checks.check_choice, "reduction", value, ("mean", "sum"))


class TestNumber:
    @pytest.mark.parametrize(
        "value",
        [0, -1, 1.5, INFINITY, NAN, np.float32(1), np.int16(1), Fraction(1, 3), torch.tensor(1.0), torch.tensor(2)],
    )
    def test_real_numbers(self, value):
        checks.check_number("weight", value)

    @pytest.mark.parametrize(
        "value",
        [
            True,
            False,
            "1",
            None,
            1j,
            [1],
            Decimal(1),
            torch.tensor([1.0]),
            torch.tensor(True),
            torch.tensor(1j),
            np.bool_(True),
        ],
    )
    def test_others(self, value):
        refuses(TypeError, f"weight: expected a number, received {value!r}", checks.check_number, "weight", value)


class TestPositive:
    @pytest.mark.parametrize("value", [1, 0.5, 5e-324, 1.7976931348623157e308, np.float32(1e-45), torch.tensor(0.1)])
    def test_above_zero(self, value):
        checks.check_positive("weight", value)

    @pytest.mark.parametrize("value", [0, 0.0, -0.0, -5e-324, -1, -INFINITY, NAN])
    @pytest.mark.parametrize("finite", [True, False])
    def test_zero_and_below(self, value, finite):
        text = f"weight: expected a number above 0, received {value!r}"
        refuses(ValueError, text, checks.check_positive, "weight", value, finite)

    @pytest.mark.parametrize("value", [INFINITY, np.float32(INFINITY), torch.tensor(INFINITY)])
    def test_infinity_only_where_it_is_allowed(self, value):
        text = f"weight: expected a finite number, received {value!r}"
        refuses(ValueError, text, checks.check_positive, "weight", value)
        checks.check_positive("weight", value, finite=False)

    @pytest.mark.parametrize("value", [True, "1", None, torch.ones(1)])
    def test_no_number(self, value):
        refuses(TypeError, f"weight: expected a number, received {value!r}", checks.check_positive, "weight", value)


class TestWhole:
    @pytest.mark.parametrize(("value", "minimum"), [(0, 0), (1, 1), (5, 1), (-3, -3), (np.int64(2), 2), (10**30, 1)])
    def test_from_the_least_on(self, value, minimum):
        checks.check_whole("steps", value, minimum)

    @pytest.mark.parametrize(("value", "minimum"), [(0, 1), (-1, 0), (-4, -3), (np.int64(1), 2)])
    def test_less(self, value, minimum):
        text = f"steps: expected at least {minimum}, received {value!r}"
        refuses(ValueError, text, checks.check_whole, "steps", value, minimum)

    @pytest.mark.parametrize("value", [1.0, 2.5, True, False, "1", None, torch.tensor(1), np.bool_(True), INFINITY])
    def test_no_whole_number(self, value):
        text = f"steps: expected a whole number, received {value!r}"
        refuses(TypeError, text, checks.check_whole, "steps", value, 0)


class TestShape:
    @pytest.mark.parametrize(
        ("value", "spatial_dims"),
        [((1, 1), 2), ([4, 5], 2), ((4, 5, 6), 3), (torch.Size((2, 3)), 2), ((np.int64(2), 3, 4), 3)],
    )
    def test_two_or_three_whole_numbers(self, value, spatial_dims):
        assert checks.check_shape("shape", value) == spatial_dims

    @pytest.mark.parametrize("value", [4, None, "44", b"44", {4, 5}, torch.tensor([4, 5]), np.array([4, 5])])
    def test_no_sequence(self, value):
        text = f"shape: expected (H, W) or (H, W, D), received {value!r}"
        refuses(TypeError, text, checks.check_shape, "shape", value)

    @pytest.mark.parametrize("value", [(4.0, 5), (4, "5"), (4, True), (4, None), [4, [5]]])
    def test_no_whole_numbers(self, value):
        text = f"shape: expected whole numbers of voxels, received {tuple(value)}"
        refuses(TypeError, text, checks.check_shape, "shape", value)

    @pytest.mark.parametrize("value", [(4,), (4, 5, 6, 7), (0, 4), (4, 0), (4, 5, 0), (-1, 4), [4]])
    def test_other_lengths_and_empty_axes(self, value):
        text = f"shape: expected (H, W) or (H, W, D) of at least 1 voxel, received {tuple(value)}"
        refuses(ValueError, text, checks.check_shape, "shape", value)

    def test_no_axis(self):
        text = "shape: expected (H, W) or (H, W, D) of at least 1 voxel, received ()"
        refuses(ValueError, text, checks.check_shape, "shape", ())

    def test_sizes_are_symbols_while_a_network_is_traced(self):
        class Sized(torch.nn.Module):
            def forward(self, image):
                return image * checks.check_shape("shape", image.shape[2:])

        traced = torch.jit.trace(Sized(), torch.ones(1, 1, 2, 3), check_trace=False)
        assert math.isclose(float(traced(torch.ones(1, 1, 4, 4)).mean()), 2)


class TestFloating:
    @pytest.mark.parametrize("shape", [(), (0,), (2,), (1, 2, 3, 4, 5, 6)])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_of_any_shape(self, shape, dtype):
        checks.check_floating("x", torch.zeros(shape, dtype=dtype))

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (torch.zeros(1, dtype=torch.int64), "torch.int64"),
            (torch.zeros(1, dtype=torch.bool), "torch.bool"),
            (torch.zeros(1, dtype=torch.complex64), "torch.complex64"),
            (1.0, "float"),
            (np.zeros(1), "ndarray"),
            (None, "NoneType"),
        ],
    )
    def test_others(self, value, kind):
        text = f"x: expected a floating-point tensor, received {kind}; call .float() or convert it"
        refuses(TypeError, text, checks.check_floating, "x", value)


class TestFloatingType:
    @pytest.mark.parametrize("value", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_floating_types(self, value):
        checks.check_floating_type("dtype", value)

    @pytest.mark.parametrize("value", [torch.int32, torch.bool, torch.complex64, "float32", np.float32, float, None])
    def test_others(self, value):
        text = f"dtype: expected a floating type such as torch.float32, received {value!r}"
        refuses(TypeError, text, checks.check_floating_type, "dtype", value)


def test_every_check_is_tested_here():
    """A check that is added finds its way into this file."""
    named = {name for name in vars(checks) if name.startswith("check_")}
    used = set(re.findall(r"checks\.(check_\w+)", Path(__file__).read_text(encoding="utf-8")))
    assert named == used
