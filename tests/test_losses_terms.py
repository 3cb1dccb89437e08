"""Smoothness and least-squares adversarial terms: values by hand, contracts, error text."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from medtrace.losses import (
    LeastSquaresAdversarialLoss,
    VelocitySmoothnessLoss,
    adversarial,
    adversarial_discriminator,
    least_squares_adversarial,
    least_squares_discriminator,
    log_adversarial,
    velocity_smoothness,
)


class TestSmoothness:
    def test_ramp_in_2d(self):
        velocity = torch.zeros(3, 2, 5, 4)
        velocity[:, 0] = 2.0 * torch.arange(5)[:, None]  # slope 2 along axis 0, in one of two components
        # per image: 4 differences of 2² in each of 4 columns
        assert velocity_smoothness(velocity, "sum").item() == pytest.approx(4 * 4 * 4)
        # axis 0: half of the components have 4, axis 1: 0; mean of the axes
        assert velocity_smoothness(velocity, "mean").item() == pytest.approx((4 / 2 + 0) / 2)

    def test_ramp_in_3d(self):
        velocity = torch.zeros(1, 3, 3, 4, 5)
        velocity[:, 1] = 0.5 * torch.arange(5)
        assert velocity_smoothness(velocity, "sum").item() == pytest.approx(0.25 * 3 * 4 * 4)
        assert velocity_smoothness(velocity).item() == pytest.approx(0.25 / 3 / 3)

    @pytest.mark.parametrize("shape", [(2, 2, 6, 5), (2, 3, 4, 5, 3)])
    def test_against_numpy(self, shape):
        velocity = torch.randn(shape, dtype=torch.float64)
        steps = [np.diff(velocity.numpy(), axis=axis) ** 2 for axis in range(2, len(shape))]
        assert velocity_smoothness(velocity).item() == pytest.approx(np.mean([s.mean() for s in steps]))
        total = sum(s.sum() for s in steps) / shape[0]
        assert velocity_smoothness(velocity, "sum").item() == pytest.approx(total)

    def test_a_constant_field_is_smooth_and_shifts_do_not_matter(self):
        velocity = torch.randn(1, 2, 6, 6)
        assert velocity_smoothness(torch.full((1, 2, 6, 6), 7.0)).item() == 0
        torch.testing.assert_close(velocity_smoothness(velocity + 3), velocity_smoothness(velocity))

    def test_an_axis_of_length_one_does_not_count(self):
        velocity = torch.randn(1, 3, 6, 1, 5)
        steps = [velocity.diff(dim=2).square().mean(), velocity.diff(dim=4).square().mean()]
        torch.testing.assert_close(velocity_smoothness(velocity), torch.stack(steps).mean())
        point = torch.ones(1, 2, 1, 1, requires_grad=True)
        for reduction in ("mean", "sum"):
            value = velocity_smoothness(point, reduction)
            value.backward()
            assert value.item() == 0
            assert (point.grad == 0).all()

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("shape", [(1, 2, 3, 4), (1, 3, 3, 2, 3)])
    def test_gradcheck(self, shape, reduction):
        velocity = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(VelocitySmoothnessLoss(reduction), (velocity,))

    def test_half_precision_is_computed_in_float32(self):
        velocity = (torch.randn(1, 2, 64, 64) * 100).half()
        with torch.autocast("cpu", dtype=torch.float16):
            value = velocity_smoothness(velocity, "sum")
        assert value.dtype == torch.float32
        assert torch.isfinite(value)  # the sum is far above what float16 can hold

    def test_errors(self):
        with pytest.raises(ValueError, match="velocity: expected 2 channels"):
            velocity_smoothness(torch.zeros(1, 3, 4, 4))
        with pytest.raises(ValueError, match="reduction: expected one of 'mean', 'sum', received 'none'"):
            VelocitySmoothnessLoss("none")


class TestAdversarial:
    logits = torch.tensor([[[[1.0, 3.0], [0.0, -1.0]]]])

    def test_values(self):
        assert least_squares_adversarial(self.logits, True).item() == pytest.approx((0 + 4 + 1 + 4) / 4)
        assert least_squares_adversarial(self.logits, False).item() == pytest.approx((1 + 9 + 0 + 1) / 4)
        assert LeastSquaresAdversarialLoss()(self.logits, True).item() == pytest.approx(9 / 4)

    def test_discriminator_has_the_half(self):
        value = least_squares_discriminator(self.logits, 2 * self.logits)
        assert value.item() == pytest.approx(0.5 * (9 / 4 + 44 / 4))

    def test_no_activation_squashes_the_logits(self):
        logits = torch.tensor([50.0], requires_grad=True)
        least_squares_adversarial(logits, True).backward()
        assert logits.grad.item() == pytest.approx(98)

    @pytest.mark.parametrize("real", [True, False])
    def test_gradcheck(self, real):
        logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: least_squares_adversarial(x, real), (logits,))

    def test_half_precision_is_computed_in_float32(self):
        value = least_squares_adversarial(torch.full((4,), 1000.0, dtype=torch.float16), False)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(1e6)

    def test_a_feature_list_is_refused_with_the_remedy(self):
        with pytest.raises(TypeError, match=r"received list; .*pass its last output, \[-1\]"):
            least_squares_adversarial([self.logits, self.logits], True)
        with pytest.raises(TypeError, match="fake_logits"):
            least_squares_discriminator(self.logits, [self.logits])
        with pytest.raises(TypeError, match="floating-point"):
            least_squares_adversarial(self.logits.long(), True)
        with pytest.raises(ValueError, match="at least one logit"):
            least_squares_adversarial(self.logits[:0], True)

    @pytest.mark.parametrize("real", [True, False])
    def test_log_is_binary_cross_entropy(self, real):
        logits = torch.randn(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
        expected = binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
        torch.testing.assert_close(log_adversarial(logits, real), expected)
        assert torch.autograd.gradcheck(lambda x: log_adversarial(x, real), (logits,))

    def test_log_of_a_certain_discriminator_is_finite_and_teaches_the_generator(self):
        logits = torch.tensor([-200.0, 200.0], requires_grad=True)
        value = log_adversarial(logits, True)
        assert value.item() == pytest.approx(100)
        value.backward()
        assert logits.grad.tolist() == pytest.approx([-0.5, 0])  # not saturated where the image was found out
        assert log_adversarial(logits.half(), False).dtype == torch.float32

    @pytest.mark.parametrize(("loss", "term"), [("least_squares", least_squares_adversarial), ("log", log_adversarial)])
    def test_scales_count_alike_whatever_their_size(self, loss, term):
        true = [torch.randn(1, 1, size, size) for size in (8, 4, 1)]
        false = [torch.randn(1, 1, size, size) for size in (8, 4, 1)]
        torch.testing.assert_close(adversarial(false, loss), sum(term(scale, True) for scale in false) / 3)
        expected = sum(0.5 * (term(t, True) + term(f, False)) for t, f in zip(true, false)) / 3
        torch.testing.assert_close(adversarial_discriminator(true, false, loss), expected)

    def test_scales_refuse_what_they_cannot_assess(self):
        with pytest.raises(ValueError, match="loss: expected one of 'least_squares', 'log', received 'hinge'"):
            adversarial([self.logits], "hinge")
        with pytest.raises(ValueError, match="fake_logits: expected as many scales as real_logits, 2, received 1"):
            adversarial_discriminator([self.logits] * 2, [self.logits])
        with pytest.raises(TypeError, match="logits: expected a list of logits, one tensor per scale, received Tensor"):
            adversarial(self.logits)
