"""Options that make a training quicker and leave what it learns alone, as one handler of the trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn

from medtrace.engines.trainer import Trainer

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Acceleration:
    """Compile networks and lay out their weights channels-last; names and values of the weights stay.

    Results agree with those of plain training up to rounding, and a checkpoint of either can be resumed with the other:
    when the training starts, the optimizers' averages are laid out like the weights, as fused optimizers expect.

    Args:
        channels_last: store the weights of 2D and 3D convolutions channels-last, so that features are too. For CUDA
            under autocast; instance normalization undoes it for features, and on a CPU nothing is gained.
        compile: compile every network that a phase steps, by `torch.compile`; a mapping gives its arguments, such as
            {"backend": "aot_eager"}. A network whose parts are called one by one is left as it is.

    Raises:
        TypeError: if `compile` is neither a Boolean nor a mapping.
    """

    def __init__(self, channels_last: bool = False, compile: bool | Mapping[str, Any] = False) -> None:
        if not isinstance(compile, (bool, Mapping)):
            raise TypeError(
                f"compile: expected true, false or a mapping of arguments of torch.compile, received {compile!r}"
            )
        self.channels_last = channels_last
        self.compile = compile

    def attach(self, engine: Trainer) -> None:
        """Convert the trainer's networks; list it after `Checkpoint`, whose state it lays out."""
        method = engine.method
        if self.channels_last:
            for parameter in method.parameters():
                if parameter.ndim in _CHANNELS_LAST:
                    parameter.data = parameter.data.contiguous(memory_format=_CHANNELS_LAST[parameter.ndim])
        if self.compile is not False:
            arguments = self.compile if isinstance(self.compile, Mapping) else {}
            paths = dict.fromkeys(path for phase in method.phases for path in phase.networks)
            for network in _called(method.get_submodule(path) for path in paths):
                network.compile(**arguments)
        engine.add_event_handler(Events.STARTED, _lay_out_averages)


def _called(modules: Iterator[nn.Module]) -> Iterator[nn.Module]:
    """The networks themselves where a module only holds them."""
    for module in modules:
        if isinstance(module, (nn.ModuleDict, nn.ModuleList)):
            yield from _called(module.children())
        else:
            yield module


def _lay_out_averages(engine: Trainer) -> None:
    """Give every tensor of an optimizer's state the strides of its parameter."""
    for optimizer in engine.optimizers.values():
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if (
                    isinstance(value, Tensor)
                    and value.shape == parameter.shape
                    and value.stride() != parameter.stride()
                ):
                    state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
