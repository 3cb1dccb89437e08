"""The smallest settings, batches and trainings of a method, for trying what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from torch import Tensor, nn

from medtrace.engines import Trainer, build_optimizers
from medtrace.methods import Method, MethodSettings, as_tensor, resolve

SMOKE = "smoke"
"""Preset that every method has: so small that a step takes a fraction of a second."""
AFFINE = torch.diag(torch.tensor([-1.5, 2.0, 2.5, 1.0], dtype=torch.float64))
SHAPES = {2: (32, 24), 3: (16, 24, 16)}


class ContractError(AssertionError):
    """A method does not do what every method promises; the message says what, expected and received."""


def promise(held: bool, what: str, expected: Any, received: Any) -> None:
    """Raise a `ContractError` unless a promise is held."""
    if not held:
        raise ContractError(f"{what}: expected {expected}, received {received}")


def smallest(kind: type[Method], **values: Any) -> MethodSettings:
    """The method's smallest settings, on no data of its own; `values` are single settings by name."""
    presets = [preset for preset in ("tracebench", SMOKE) if preset in kind.settings_type.presets]
    return resolve(kind.settings_type, presets, {"data": {"kind": "prepared"}, **values})


def untrained(kind: type[Method], settings: MethodSettings) -> Method:
    """The method with the weights of one seed."""
    torch.manual_seed(0)
    return kind.build(settings)


def perturbed(kind: type[Method], settings: MethodSettings, std: float = 0.05) -> Method:
    """The method with noise on its weights: a layer that starts at zero would hide what is computed from it."""
    method = untrained(kind, settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
    return method


def batch_of(settings: MethodSettings, shape: tuple[int, ...], count: int = 2) -> dict[str, Any]:
    """Smooth random images of a batch, with masks and names."""
    generator = torch.Generator().manual_seed(1)

    def image(channels: int) -> MetaTensor:
        coarse = torch.rand(count, channels, *(max(2, size // 4) for size in shape), generator=generator)
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        smooth = nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True)
        return MetaTensor(smooth * 2 - 1, affine=AFFINE.expand(count, 4, 4).clone())

    mask = torch.zeros(count, 1, *shape)
    mask[(slice(None), slice(None), *(slice(4, 8) for _ in shape))] = 1.0
    return {
        "source": image(settings.in_channels),
        "target": image(settings.out_channels),
        "mask": mask.bool(),
        "case": [f"case-{item}" for item in range(count)],
        "subject": [f"subject-{item}" for item in range(count)],
    }


def only(images: Tensor, item: int) -> MetaTensor:
    """One item of a batch, as a batch."""
    return MetaTensor(as_tensor(images)[item : item + 1].clone(), affine=AFFINE.clone())


def prepared(kind: type[Method], settings: MethodSettings, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of a batch, with what the method makes of a training case."""
    transform = kind.case_transform(settings)
    items = [
        {key: only(value, item)[0] if isinstance(value, MetaTensor) else value[item] for key, value in batch.items()}
        for item in range(len(batch["case"]))
    ]
    return items if transform is None else [transform(item) for item in items]


def trainer_of(
    method: Method, settings: MethodSettings, items: list[dict[str, Any]], epochs: int, **more: Any
) -> Trainer:
    """A trainer of the method on these items, two at a time."""
    return Trainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        method=method,
        optimizers=build_optimizers(method, settings),
        seed=0,
        **more,
    )


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two mappings hold the same tensors; what is not a tensor is not looked at."""
    return first.keys() == second.keys() and all(
        torch.equal(as_tensor(value), as_tensor(second[name]))
        for name, value in first.items()
        if isinstance(value, Tensor)
    )
