"""A method of another package whose answer is known beforehand, and run folders without a training."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import RunRecord, save_weights
from medtrace.fields import exponentiate
from medtrace.methods import Method, MethodSettings, Prediction, method_class, resolve
from medtrace.trace.validation import as_tensor


class ShiftSettings(MethodSettings):
    """Of `ShiftMethod`."""

    displacement: Annotated[tuple[float, ...], Field(min_length=2, max_length=3)] = (1.0, 0.0)
    gain: float = 0.0
    channels: int = 1


class ShiftMethod(Method):
    """Moves everything by one displacement and raises intensities by `gain`."""

    name = "shift"
    title = "Shift"
    settings_type = ShiftSettings
    phases = ()

    def __init__(self, displacement: tuple[float, ...], gain: float = 0.0, channels: int = 1) -> None:
        super().__init__()
        self.spatial_dims = len(displacement)
        self.displacement = nn.Parameter(torch.tensor(displacement))
        self.gain = gain
        self.channels = channels

    @classmethod
    def from_settings(cls, settings: ShiftSettings) -> "ShiftMethod":
        return cls(settings.displacement, settings.gain, settings.channels)

    def predict(self, batch) -> Prediction:
        values = as_tensor(batch["source"])
        if values.shape[1] != self.channels:
            raise ValueError(f"source: expected {self.channels} channel(s), received {values.shape[1]}")
        velocity = self.displacement.detach().reshape(1, -1, *(1,) * self.spatial_dims)
        velocity = velocity.expand(len(values), -1, *values.shape[2:]).contiguous()
        image = (values + self.gain).clamp(-1, 1)
        return Prediction(image, exponentiate(velocity), exponentiate(-velocity), velocity)


def register(folder: Path) -> Path:
    """Make a folder that, on Python's path, has the method `shift` as an installed package's; also in new processes."""
    metadata = folder / "standins-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: standins\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[medtrace.methods]\nshift = {__name__}:ShiftMethod\n")
    return folder


def make_run(folder: Path, method: str, preparation: Preparation | None = None, presets=(), **settings) -> Path:
    """A run folder as a training leaves it, with the method's first weights."""
    kind = method_class(method)
    resolved = resolve(kind.settings_type, presets, settings)
    folder.mkdir(parents=True, exist_ok=True)
    RunRecord(method, resolved).write(folder)
    save_weights(kind.from_settings(resolved), folder)
    if preparation is not None:
        preparation.save(folder / "preparation.json")
    return folder


def shift_run(folder, displacement, preparation=None, **settings):
    return make_run(folder, "shift", preparation, displacement=displacement, spatial_dims=len(displacement), **settings)


def tiny_tracetrans(folder, spatial_dims=2, preparation=None, **settings):
    sizes = {"channels": [4, 4], "discriminator_channels": 4, "discriminator_layers": 1}
    return make_run(folder, "tracetrans", preparation, spatial_dims=spatial_dims, **{**sizes, **settings})
