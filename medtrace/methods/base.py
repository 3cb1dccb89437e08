"""The interface between a method and the engine: named phases, named loss terms, and the trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.methods.settings import MethodSettings
from medtrace.networks.output_field import OutputField
from medtrace.networks.patches import PatchInferer
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of

Batch = Mapping[str, Any]
"""A data loader's output: batched images (B, C, *spatial) and numbers by name."""
TaskName = Literal["translate", "register"]


NEIGHBORS = "source_neighbors"
"""Entry of a batch: neighboring slices of the source, (B, 2 · neighbors · C, H, W), nearest first."""


@dataclass(frozen=True)
class Abilities:
    """The abilities of a method, as declared; commands query them instead of method names.

    Attributes:
        tasks: "translate" (an image from the source alone), "register" (the correspondence of a pair).
        spatial_dims: 2, 3 or both.
        paired: whether the training needs a target that shows the source's own subject.
        patches: whether large images can be passed through the networks in patches.
        channels: "any" where source and target may differ in their number of channels, else "equal".
        masks: whether a registration takes a mask of where intensity may change.
        moves: whether a translation carries a displacement; if not, its field is zero by design.
        one_pass: whether a translation is one pass through the networks, which can be exported as a program.
        identity_start: whether the field is zero before the training, so that learning starts at the identity.
        continued: whether the engine of `medtrace.registration` can continue the field of a registration.
    """

    tasks: tuple[TaskName, ...] = ("translate",)
    spatial_dims: tuple[int, ...] = (2, 3)
    paired: bool = True
    patches: bool = False
    channels: Literal["any", "equal"] = "equal"
    masks: bool = False
    moves: bool = True
    one_pass: bool = True
    identity_start: bool = False
    continued: bool = False


@dataclass(frozen=True)
class Phase:
    """One optimizer's turn within a training step.

    Attributes:
        name: the phase's name, and the key of its optimizer.
        networks: paths of the method's sub-modules whose parameters this phase updates.
        weights: weight of each loss term. A term of weight 0 is not computed.
        shared: paths of networks whose forward pass here is backpropagated by a later phase of the step. They are not
            updated in this phase; its results stay in memory until the step ends.
        rates: path of a network among `networks`, or within one of them → fraction of the optimizer's rate for it.
    """

    name: str
    networks: tuple[str, ...]
    weights: Mapping[str, float]
    shared: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)

    def active(self, term: str) -> bool:
        """Whether `term` has a weight other than 0."""
        return self.weights[term] != 0

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Sum the terms with their weights.

        Raises:
            ValueError: if a term has no weight or an active weight has no term.
        """
        expected = {name for name in self.weights if self.active(name)}
        if set(terms) != expected:
            raise ValueError(
                f"terms of phase {self.name!r}: expected {sorted(expected)}, received {sorted(terms)};"
                " return exactly the terms whose weight is not 0"
            )
        return torch.stack([self.weights[name] * value.float() for name, value in terms.items()]).sum()


class _PredictedImage(nn.Module):
    """The image that a method predicts from a source alone."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, source: Tensor) -> Tensor:
        return self.method.predict({"source": source}).image


class Method(nn.Module):
    """A method: its networks, its loss terms by phase, and how its networks turn an image into a `Trace`.

    A subclass names itself and its settings, declares its abilities, and builds itself from settings. It sets `phases`
    in its constructor, has one function `<phase>_terms(phase, batch, context)` per phase, and `trace`. `context` is a
    dict that lasts for one step: an earlier phase stores there (detached) what a later one needs, so that no forward
    pass runs twice.
    """

    name: ClassVar[str] = ""
    """The name of the method's folder, and on the command line."""
    title: ClassVar[str] = ""
    """What people call it."""
    paper: ClassVar[str] = ""
    """Whose idea it is."""
    settings_type: ClassVar[type[MethodSettings]] = MethodSettings
    abilities: Abilities = Abilities()

    networks: Any
    phases: tuple[Phase, ...]
    neighbors: int = 0
    """Slices on either side that the networks read with a source, as channels after its own (2.5D)."""
    inferer: PatchInferer | None = None
    """How large images are divided; None passes them whole. May be set after the training; never used in training."""

    @classmethod
    def from_settings(cls, settings: Any) -> Self:
        """Build the method, untrained, from settings of `settings_type`."""
        raise NotImplementedError

    @classmethod
    def build(cls, settings: Any) -> Self:
        """`from_settings`, if the settings have dimensions that the method declares.

        Raises:
            ValueError: if they have others, or neighboring slices although source and target share their channels.
        """
        if settings.spatial_dims not in cls.abilities.spatial_dims:
            able = " or ".join(map(str, cls.abilities.spatial_dims))
            raise ValueError(
                f"spatial_dims: {cls.title or cls.__name__} expected {able}, received {settings.spatial_dims};"
                " translate slices, or use a method that `medtrace methods` lists for it"
            )
        if settings.neighbors and (cls.abilities.channels == "equal" or "translate" not in cls.abilities.tasks):
            raise ValueError(
                f"data.neighbors: {cls.title or cls.__name__} expected 0, as source and target share their channels,"
                f" received {settings.neighbors}; use a method that translates between different numbers of channels,"
                " such as unet, pix2pix or tracetrans"
            )
        method = cls.from_settings(cls.widened(settings))
        method.neighbors = settings.neighbors
        return method

    @classmethod
    def widened(cls, settings: Any) -> Any:
        """The settings with the channels that the networks read: the source's, then those of neighboring slices."""
        if not settings.neighbors:
            return settings
        return settings.model_copy(update={"in_channels": (1 + 2 * settings.neighbors) * settings.in_channels})

    @classmethod
    def case_transform(cls, _settings: Any) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """What a training case needs in addition to its images, made once and kept; None if nothing."""
        return None

    def io_network(self) -> nn.Module:
        """The network of one tensor in and one out that bundles describe; it shares the method's weights.

        It is `networks`, by the field `image` of its output, if the method has it, else what `predict` gives.
        """
        return OutputField(self.networks, "image") if hasattr(self, "networks") else _PredictedImage(self)

    def distributed_networks(self) -> Mapping[str, Mapping[str, Any]]:
        """Path of a network → arguments of `DistributedDataParallel`, one entry for each that phases step."""
        paths: list[str] = []
        for path in (path for phase in self.phases for path in phase.networks):
            module = self.get_submodule(path)
            # Networks in a mapping are called one by one.
            paths += [f"{path}.{name}" for name in module] if isinstance(module, nn.ModuleDict) else [path]
        return {path: {} for path in paths}

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Change how a trained method is used; only for methods that sample."""
        raise ValueError(f"sampling: expected none for {self.title}, received {dict(values)}; it samples nothing")

    def phase(self, name: str) -> Phase:
        """Return the phase called `name`."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise ValueError(f"phase: expected one of {[p.name for p in self.phases]}, received {name!r}")

    def parameters_of(self, name: str) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that the phase called `name` updates, each once."""
        seen: set[int] = set()
        for path in self.phase(name).networks:
            for parameter in self.get_submodule(path).parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def terms(self, name: str, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the active loss terms of a phase, unweighted."""
        phase = self.phase(name)
        if all(weight == 0 for weight in phase.weights.values()):
            return {}
        result: dict[str, Tensor] = getattr(self, f"{name}_terms")(phase, self._with_neighbors(batch), context)
        return result

    def _with_neighbors(self, batch: Batch) -> Batch:
        """The batch as the networks read it: neighboring slices as further channels of the source."""
        if not self.neighbors:
            return batch
        source, beside = batch["source"], batch.get(NEIGHBORS)
        wanted = 2 * self.neighbors * source.shape[1]
        if beside is None or beside.shape[1] < wanted:
            received = "none" if beside is None else f"{beside.shape[1]} channels"
            raise ValueError(
                f"{NEIGHBORS}: expected {wanted} channels, of {self.neighbors} slice(s) on either side, which the"
                f" networks were built for, received {received}; read slices by load_dataset(..., neighbors="
                f"{self.neighbors})"
            )
        return {**batch, "source": torch.cat([source, beside[:, :wanted]], dim=1)}

    def after_step(self) -> None:
        """Called after every phase of a training step, for example to update averaged weights."""

    @property
    def translates(self) -> bool:
        """Whether `predict` makes an image from the source alone."""
        return "translate" in self.abilities.tasks

    @property
    def registers(self) -> bool:
        """Whether `register` finds the correspondence of a pair."""
        return "register" in self.abilities.tasks

    @property
    def patchable(self) -> bool:
        """Whether `trace` can pass large images to the networks in patches."""
        return self.abilities.patches

    def predict(self, batch: Batch) -> Prediction:
        """Translate a batch, or register its pairs if the method only registers.

        Args:
            batch: "source" (B, C, *spatial) in [-1, 1]; methods that register also read "target", "mask",
                "source_mask".
        """
        raise NotImplementedError

    def register(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Prediction:
        """Find the correspondence of pairs; only methods that see two images can.

        Args:
            moving: (B, C, *spatial) in [-1, 1], the source.
            fixed: (B, C', *spatial), the target.
            mask: (B, 1, *spatial) on the grid of `fixed`, where intensity may change.
            source_mask: likewise on the grid of `moving`.

        Raises:
            TypeError: if the method registers no pairs.
        """
        raise TypeError(
            f"{type(self).__name__}: predicts from the source alone and registers no pair; call trace(batch), or"
            " use a method that registers"
        )

    @torch.no_grad()
    def trace(self, batch: Batch) -> list[Trace]:
        """`predict` without gradients and in evaluation mode, as one `Trace` per item."""
        with eval_mode(self):
            prediction = self.predict(self._with_neighbors(batch))
        target = None if self.translates else batch["target"]
        return traces_of(batch["source"], prediction, target)

    @torch.no_grad()
    def trace_pair(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> list[Trace]:
        """`register` without gradients and in evaluation mode, as one `Trace` per pair.

        Raises:
            ValueError: if the networks read neighboring slices, which a pair does not include.
        """
        if self.neighbors:
            raise ValueError(
                f"register: expected a run that reads slices alone, received one of data.neighbors={self.neighbors};"
                " translate, or train with data.neighbors=0"
            )
        with eval_mode(self):
            prediction = self.register(moving, fixed, mask, source_mask)
        return traces_of(moving, prediction, fixed)
