"""Networks on several devices, each wrapped on its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from medtrace.methods.base import Method

_WRAPPED = "module."


class DistributedNetwork(DistributedDataParallel):
    """`DistributedDataParallel` that looks like the network inside it.

    Attributes that it lacks are the network's, and its state dict has the network's own names, so that a method
    runs unchanged and a checkpoint is the same whether it was trained on one device or several.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(_add_wrapper)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's state dict."""
        return self.module.state_dict(*args, **kwargs)


def join(backend: str = "gloo") -> None:
    """Join the process group that torchrun (or SLURM, through torchrun) has laid out; without one, be one alone.

    A group that is already initialized is kept.

    Args:
        backend: "nccl" or "gloo".
    """
    if torch.distributed.is_initialized():
        return
    if "RANK" in os.environ:
        torch.distributed.init_process_group(backend)
    else:
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)


def leave() -> None:
    """Leave the process group, so that a later training of this process starts afresh."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        ignite.distributed.sync()  # ignite caches the group that it found


def distribute(method: Method, networks: Mapping[str, Mapping[str, Any]] | Sequence[str]) -> Method:
    """Wrap networks of a method, one by one, for the process group that is initialized.

    Call it before the optimizers are created. Everything in the method's state dict is sent from rank 0 to every
    rank, including what is not wrapped, such as averaged weights and running means.

    Args:
        method: on its device.
        networks: paths of sub-modules, such as "networks.generator"; as a mapping, each with arguments of
            `DistributedDataParallel`. Buffers are not broadcast before a forward pass unless requested: ranks with
            unequal parts of a validation would wait for each other.

    Returns:
        The same method.

    Raises:
        AttributeError: if a path names no sub-module.
        RuntimeError: if no process group is initialized.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise RuntimeError(
            "process group: expected an initialized one, received none; start with torchrun and call"
            " torch.distributed.init_process_group first"
        )
    settings = networks if isinstance(networks, Mapping) else {path: {} for path in networks}
    for path, arguments in settings.items():
        network = method.get_submodule(path)
        device = next(network.parameters()).device
        options = dict(arguments)
        if any(True for _ in network.buffers()):
            options.setdefault("broadcast_buffers", False)
        wrapped = DistributedNetwork(network, device_ids=[device] if device.type == "cuda" else None, **options)
        owner, _, name = path.rpartition(".")
        setattr(method.get_submodule(owner), name, wrapped)
    for value in method.state_dict().values():
        if isinstance(value, Tensor):
            torch.distributed.broadcast(value, src=0)
    return method


def _add_wrapper(_module: DistributedNetwork, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in [name for name in state_dict if name.startswith(prefix)]:
        state_dict[prefix + _WRAPPED + name.removeprefix(prefix)] = state_dict.pop(name)
