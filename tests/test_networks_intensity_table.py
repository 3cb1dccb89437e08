"""The learned intensity curve, and the translators that add it to what they make."""

import numpy as np
import pytest
import torch

from medtrace.methods import method_class, resolve
from medtrace.networks import CycleGAN, RegressionUNet, TraceTrans
from medtrace.networks.blocks.intensity_table import RATE, IntensityTable, curve_of


@pytest.mark.parametrize("dims", [2, 3])
def test_a_table_interpolates_and_sums_channels(dims):
    table = IntensityTable(dims, 2, 3, knots=5)
    values = torch.randn_like(table.weights.weight)
    table.weights.weight.data.copy_(values)
    image = torch.rand(2, 2, *[6] * dims) * 2.4 - 1.2  # beyond the range its ends count
    knots = values.reshape(3, 2, 5).numpy() * RATE
    expected = [
        sum(np.interp(image[:, i].numpy(), np.linspace(-1, 1, 5), knots[o, i]) for i in range(2)) for o in range(3)
    ]
    np.testing.assert_allclose(table(image).detach().numpy(), np.stack(expected, 1), atol=1e-5)
    with pytest.raises(ValueError, match="knots: expected at least 2"):
        IntensityTable(dims, 1, 1, knots=1)


def test_a_table_learns_an_inverted_contrast_in_a_few_steps():
    torch.manual_seed(0)
    table = IntensityTable(2, 1, 1)
    optimizer = torch.optim.Adam(table.parameters(), 1e-3)
    for _ in range(300):
        image = torch.rand(1, 1, 32, 32) * 2 - 1
        loss = (table(image).tanh() + 0.8 * image).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.02


@pytest.mark.parametrize(
    "build",
    [
        lambda curve: RegressionUNet(2, 2, 1, (4, 8), refine=True, curve=curve),
        lambda curve: TraceTrans(2, 2, 1, (4, 8), curve=curve),
        lambda curve: CycleGAN(2, 2, 1, channels=4, num_blocks=1, discriminator_channels=4, curve=curve),
    ],
    ids=["unet", "tracetrans", "cyclegan"],
)
def test_an_untrained_curve_changes_nothing_and_a_trained_one_adds_its_table(build):
    image = torch.rand(1, 2, 16, 18) * 2 - 1
    torch.manual_seed(0)
    plain = build(False).eval()
    network = build(True).eval()
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("curve.weights.weight") for name in missing)
    assert missing

    def made(of):
        result = of(image)
        return getattr(result, "image", result)

    torch.testing.assert_close(made(network), made(plain))
    tables = [module for module in network.modules() if isinstance(module, IntensityTable)]
    table = next(one for one in tables if one.weights.out_channels == 1)
    table.weights.weight.data.fill_(0.05)
    expected = (made(plain).atanh() + table(image)).tanh()  # the untrained field moves nothing
    torch.testing.assert_close(made(network), expected, atol=1e-4, rtol=1e-4)


def test_the_field_of_tracetrans_learns_nothing_from_the_curve():
    network = TraceTrans(2, 1, 1, (4, 8), curve=True)
    network.curve.weights.weight.data.normal_()
    network(torch.rand(1, 1, 16, 16) * 2 - 1).image.sum().backward()
    assert all(one.grad is None for one in network.velocity_decoder.parameters())
    assert network.curve.weights.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["unet", "tracetrans"])
def test_what_is_added_to_the_curve_costs(name):
    """The term of the settings, by hand; a network without a curve has none."""
    small = {"channels": (4, 8), "curve": True, "residual_weight": 0.25}
    kind = method_class(name)
    method = kind.build(resolve(kind.settings_type, (), small))
    phase = method.phases[0]
    weight = 0.25 * (0.5 if name == "tracetrans" else 1)
    assert phase.weights["residual"] == pytest.approx(weight)
    batch = {"source": torch.rand(1, 1, 16, 16) * 2 - 1, "target": torch.rand(1, 1, 16, 16) * 2 - 1}
    curve = curve_of(method.networks)
    curve.weights.weight.data.uniform_(-0.1, 0.1)
    terms = method.terms(phase.name, batch, {})
    image, warped = method.predict(batch).image, batch["source"]  # the untrained field moves nothing
    torch.testing.assert_close(terms["residual"], (image - curve(warped).tanh()).abs().mean(), atol=1e-5, rtol=1e-4)
    plain = kind.build(resolve(kind.settings_type, (), {"channels": (4, 8), "curve": True}))
    assert "residual" not in plain.phases[0].weights
    with pytest.raises(ValueError, match="residual_weight: expected 0 without an intensity curve"):
        kind.build(resolve(kind.settings_type, (), {"channels": (4, 8), "residual_weight": 0.25}))
