"""Every method keeps the contract, and the contract notices one that does not."""

import pytest
import torch
from torch import nn

from medtrace.methods import Abilities, method_class, method_names
from medtrace.testing import ContractError, check_method
from tests.trainings import methods_at_length

UNet = method_class("unet")


@pytest.mark.parametrize("name", methods_at_length())
def test_quick_contract(name):
    check_method(method_class(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", method_names())
def test_full_contract(name):
    check_method(method_class(name), "full")


class Unnamed(UNet):
    name = ""


class Register(UNet):
    """Claims to register, and cannot."""

    abilities = Abilities(tasks=("translate", "register"))


class Still(UNet):
    """Says that nothing moves, and moves."""

    def trace(self, batch):
        traces = super().trace(batch)
        moved = [trace.ddf + 0.5 for trace in traces]
        return [type(trace).build(source=trace.source, image=trace.image, ddf=ddf, affine=trace.affine,
                                  source_affine=trace.source_affine) for trace, ddf in zip(traces, moved)]  # fmt: skip


class Touching(UNet):
    """Changes its input."""

    def trace(self, batch):
        batch["source"].mul_(0.5)
        return super().trace(batch)


class Drawing(UNet):
    """Answers otherwise in another batch."""

    def trace(self, batch):
        traces = super().trace(batch)
        count = len(traces)
        return [
            type(trace).build(
                source=trace.source,
                image=trace.image + 0.1 * count,
                ddf=trace.ddf,
                affine=trace.affine,
                source_affine=trace.source_affine,
            )
            for trace in traces
        ]


class Frozen(UNet):
    """Learns nothing."""

    def regression_terms(self, phase, batch, context):
        terms = super().regression_terms(phase, batch, context)
        return {name: value * 0 for name, value in terms.items()}


class Infinite(UNet):
    """Whose loss overflows under autocast."""

    def __init__(self, networks: nn.Module) -> None:
        super().__init__(networks)

    def regression_terms(self, phase, batch, context):
        terms = super().regression_terms(phase, batch, context)
        return {name: value / 0 if torch.is_autocast_enabled("cpu") else value for name, value in terms.items()}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unnamed, "name: expected text"),
        (Register, "registers no pair|register"),
        (Still, "moves nothing"),
        (Touching, "inputs as they were|warped"),
        (Drawing, "whatever the batch"),
        (Frozen, "moves its networks"),
        (Infinite, "finite|skipped|steps"),
    ],
)
def test_a_broken_promise_is_noticed(kind, message):
    with pytest.raises((ContractError, TypeError, ValueError), match=message):
        check_method(kind)
