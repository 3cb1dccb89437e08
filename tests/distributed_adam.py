"""`monai.bundle run` whose Adam has a floor, for test_distributed.

Adam divides by the gradient's size: without a floor, rounding would decide where gradients vanish.
"""

from unittest import mock

import fire
from monai.bundle import run
from torch.optim import Adam


def floored(eps):
    """`medtrace.engines.build_optimizers` with another `eps`."""

    def build(method, settings):
        return {
            phase: Adam(
                list(method.parameters_of(phase)),
                lr=chosen.learning_rate,
                betas=chosen.betas,
                weight_decay=chosen.weight_decay,
                fused=chosen.fused,
                eps=eps,
            )
            for phase, chosen in settings.optimizers().items()
        }

    return build


def main(eps):
    with mock.patch("medtrace.engines.build_optimizers", floored(eps)):
        fire.Fire({"run": run})
