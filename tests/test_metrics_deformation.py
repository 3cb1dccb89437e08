"""Deformation metrics against closed forms."""

import math

import pytest
import torch

from medtrace import fields
from medtrace.metrics import (
    EndPointErrorMetric,
    InverseConsistencyMetric,
    LandmarkErrorMetric,
    NonDiffeomorphicFractionMetric,
    NonDiffeomorphicVolumeMetric,
    SDLogJacobianMetric,
    deformed_region,
    end_point_error,
    folded_volume,
    landmark_error,
    mean_inverse_consistency,
    sd_log_jacobian,
)

ANISOTROPIC = torch.diag(torch.tensor([2.0, 0.5, 4.0, 1.0], dtype=torch.float64))
GRIDS = [(2, (7, 6)), (3, (5, 6, 4))]


def constant_field(vector, shape, batch=1):
    vector = torch.tensor(vector, dtype=torch.float64)
    return vector.view(1, -1, *[1] * len(shape)).expand(batch, -1, *shape).clone()


def bump(shape, height):
    """A smooth bump along the first axis that vanishes at the border."""
    grid = fields.identity_grid(shape, dtype=torch.float64)
    profile = torch.ones(shape, dtype=torch.float64)
    for axis, size in enumerate(shape):
        profile = profile * torch.sin(math.pi * grid[axis] / (size - 1)) ** 2
    field = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
    field[0, 0] = height * profile
    return field


class TestEndPointError:
    def test_voxels_and_millimeters_by_hand(self):
        true = constant_field([0, 0], (6, 5))
        result = constant_field([3, 4], (6, 5))
        assert end_point_error(result, true).item() == pytest.approx(5)
        expected = math.hypot(3 * 2, 4 * 0.5)
        assert end_point_error(result, true, affine=ANISOTROPIC).item() == pytest.approx(expected)

    def test_3d_oblique(self):
        rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = rotation @ torch.diag(torch.tensor([2.0, 0.5, 4.0], dtype=torch.float64))
        affine[:3, 3] = 100
        result = constant_field([1, 2, -1], (4, 5, 6), batch=2)
        value = end_point_error(result, torch.zeros_like(result), affine=torch.stack([affine, 2 * affine]))
        length = math.sqrt(2**2 + 1**2 + 4**2)
        assert value.tolist() == pytest.approx([length, 2 * length])

    def test_mask_and_deformed_region_are_both_respected(self):
        true = torch.zeros(2, 2, 4, 4)
        true[0, 0, :2] = 1.0
        true[1, 1, 3, 3] = 0.2
        result = true.clone()
        result[0, 0, 0] += 3  # inside the deformed half
        result[0, 0, 3] += 100  # outside it
        region = deformed_region(true, 0.3)
        assert region.sum((1, 2, 3)).tolist() == [8, 0]
        value = end_point_error(result, true, deformed_above=0.3)
        assert value[0].item() == pytest.approx(3 * 4 / 8)
        assert math.isnan(value[1].item())  # nothing moves that far: no such mean
        mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        mask[:, :, :, 0] = True
        mask[:, :, 0, :2] = True
        inside = end_point_error(result, true, mask, deformed_above=0.3)
        assert inside[0].item() == pytest.approx(3 * 2 / 3)
        assert end_point_error(result, true, mask)[0].item() == pytest.approx((2 * 3 + 100) / 5)

    def test_metric_counts_undefined_cases(self):
        true = torch.zeros(2, 2, 4, 4)
        true[0] = 1
        metric = EndPointErrorMetric("voxel", deformed_above=0.3)
        metric(torch.zeros_like(true), true)
        with pytest.warns(UserWarning, match="1 undefined"):
            assert metric.aggregate().item() == pytest.approx(math.sqrt(2))
        assert metric.summary().undefined == 1

    def test_the_metric_asks_for_its_affine(self):
        field = torch.zeros(1, 3, 4, 4, 4)
        metric = EndPointErrorMetric()
        with pytest.raises(TypeError, match=r"affine: expected a \(4, 4\) tensor for millimeters, received None"):
            metric(field, field)
        metric(list(field.expand(2, -1, -1, -1, -1)), list(field.expand(2, -1, -1, -1, -1)), affine=ANISOTROPIC)
        assert metric.aggregate().item() == 0
        assert len(metric) == 2

    def test_errors(self):
        field = torch.zeros(1, 2, 4, 4)
        with pytest.raises(ValueError, match="expected the shape of true_ddf"):
            end_point_error(field, torch.zeros(1, 2, 4, 5))
        with pytest.raises(ValueError, match="true_ddf: expected 2 channels"):
            end_point_error(field, torch.zeros(1, 1, 4, 4))
        with pytest.raises(ValueError, match="ddf: expected finite numbers"):
            end_point_error(field / 0, field)
        with pytest.raises(ValueError, match="unit: expected one of 'mm', 'voxel'"):
            EndPointErrorMetric("cm")
        with pytest.raises(ValueError, match="threshold"):
            deformed_region(field, -1)
        with pytest.raises(ValueError, match="empty mask"):
            end_point_error(field, field, torch.zeros(1, 1, 4, 4))


class TestLandmarks:
    true = torch.tensor([[[0.0, 0, 0], [10, 0, 0]], [[0.0, 0, 0], [0, 0, 0]]])

    def test_by_hand(self):
        result = self.true.clone()
        result[0, 0] += torch.tensor([3.0, 4, 0])
        result[1] += torch.tensor([1.0, 2, 2])
        assert landmark_error(result, self.true).tolist() == pytest.approx([2.5, 3])
        metric = LandmarkErrorMetric()
        assert metric(result, self.true)[:, 0].tolist() == pytest.approx([2.5, 3])
        assert metric.aggregate().item() == pytest.approx(2.75)

    def test_missing_landmarks(self):
        result = self.true + 1
        result[0, 1] = float("nan")
        with pytest.raises(ValueError, match="mark missing landmarks in `valid`"):
            landmark_error(result, self.true)
        valid = torch.tensor([[True, False], [False, False]])
        value = landmark_error(result, self.true, valid)
        assert value[0].item() == pytest.approx(math.sqrt(3))
        assert math.isnan(value[1].item())

    def test_errors(self):
        with pytest.raises(ValueError, match=r"points: expected \(batch, landmarks, 2 or 3\) in mm"):
            landmark_error(self.true[0], self.true[0])
        with pytest.raises(TypeError, match="floating-point"):
            landmark_error(self.true.long(), self.true)
        with pytest.raises(ValueError, match="valid: expected shape"):
            landmark_error(self.true, self.true, torch.ones(2, 3, dtype=torch.bool))
        with pytest.raises(TypeError, match="valid: expected a boolean tensor"):
            landmark_error(self.true, self.true, torch.ones(2, 2))


class TestRegularity:
    @pytest.mark.parametrize(("dims", "shape"), GRIDS)
    def test_rigid_and_uniform_maps_are_regular(self, dims, shape):
        shift = constant_field([1.5] * dims, shape)
        grid = fields.identity_grid(shape, dtype=torch.float64)[None]
        for field in (shift, 0.2 * grid, -0.3 * grid):
            assert sd_log_jacobian(field).item() == pytest.approx(0, abs=1e-7)
            assert folded_volume(field).item() == 0
            assert NonDiffeomorphicFractionMetric()(field).item() == 0

    def test_sd_log_jacobian_of_a_piecewise_stretch(self):
        # determinants: halves of the image are stretched by 1.5 and by 0.5
        position = torch.arange(8, dtype=torch.float64)
        field = torch.zeros(1, 2, 8, 4, dtype=torch.float64)
        field[0, 0] = torch.where(position < 4, 0.5 * position, 2 - 0.5 * (position - 4))[:, None]
        mask = torch.zeros(1, 1, 8, 4)
        mask[:, :, [0, 1, 2, 5, 6, 7]] = 1  # where differences do not straddle the change
        expected = (math.log(1.5) - math.log(0.5)) / 2
        assert sd_log_jacobian(field, mask).item() == pytest.approx(expected)
        assert SDLogJacobianMetric()(field, mask=mask).item() == pytest.approx(expected)

    @pytest.mark.parametrize(("dims", "shape"), [(2, (16, 16)), (3, (10, 10, 10))])
    def test_folding_shows_everywhere(self, dims, shape):
        calm, folded = bump(shape, 1.0), bump(shape, 8.0)
        assert folded_volume(calm).item() == 0
        volume = folded_volume(folded).item()
        assert volume > 1
        percent = folded_volume(folded, unit="percent").item()
        assert percent == pytest.approx(100 * volume / math.prod(shape))
        assert NonDiffeomorphicVolumeMetric("percent")(folded).item() == pytest.approx(percent)
        fraction = NonDiffeomorphicFractionMetric()(folded).item()
        assert fraction == pytest.approx(fields.non_diffeomorphic_fraction(folded).item())
        assert fraction > 0.01
        assert sd_log_jacobian(folded).item() > 3 * sd_log_jacobian(calm).item() > 0
        assert sd_log_jacobian(folded, floor=0.1).item() < sd_log_jacobian(folded).item()

    def test_one_field_only(self):
        field = torch.zeros(1, 2, 4, 4)
        for metric in (NonDiffeomorphicFractionMetric(), NonDiffeomorphicVolumeMetric(), SDLogJacobianMetric()):
            with pytest.raises(TypeError, match="this metric takes one field"):
                metric(field, field)
            with pytest.raises(ValueError, match="expected 2 channels"):
                metric(torch.zeros(1, 3, 4, 4))
            metric([field[0], field[0]])
            assert metric.aggregate().item() == 0
        with pytest.raises(ValueError, match="floor"):
            sd_log_jacobian(field, floor=0)
        with pytest.raises(ValueError, match="unit"):
            NonDiffeomorphicVolumeMetric("mm")


class TestInverseConsistency:
    @pytest.mark.parametrize(("dims", "shape"), GRIDS)
    def test_shift_and_its_inverse(self, dims, shape):
        shift = constant_field([1.0] + [0.0] * (dims - 1), shape)
        assert mean_inverse_consistency(shift, -shift).item() == pytest.approx(0, abs=1e-12)
        assert mean_inverse_consistency(shift, shift).item() == pytest.approx(2)
        in_mm = mean_inverse_consistency(shift, shift, affine=ANISOTROPIC)
        assert in_mm.item() == pytest.approx(4)
        assert InverseConsistencyMetric()(shift, shift, affine=ANISOTROPIC).item() == pytest.approx(4)
        assert InverseConsistencyMetric("voxel")(shift, shift).item() == pytest.approx(2)

    def test_agrees_with_the_field_function_and_with_a_real_inverse(self):
        field = bump((20, 18), 1.5)
        inverse = fields.invert(field).ddf
        expected = fields.inverse_consistency(field, inverse).mean().item()
        assert mean_inverse_consistency(field, inverse).item() == pytest.approx(expected)
        assert expected < 0.01
        assert mean_inverse_consistency(field, -field).item() > 0.02

    def test_points_that_leave_the_grid_can_be_left_out(self):
        out = constant_field([1.0, 0.0], (4, 4))
        out[:, 0, 3] = 50.0  # read beyond the border by the last rows only
        back = constant_field([0.0, 0.0], (4, 4))
        back[:, 0, 2:] = 10.0
        inside = mean_inverse_consistency(out, back, inside_only=True)
        assert inside.item() == pytest.approx(1)
        assert mean_inverse_consistency(out, back).item() > 10
        assert math.isnan(mean_inverse_consistency(out, back + 10, inside_only=True).item())
        with pytest.raises(TypeError, match="affine"):
            InverseConsistencyMetric()(out, back)
