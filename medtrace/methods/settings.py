"""Settings of a training: plain values, checked, with defaults and named presets.

Everything needed to rebuild a run is a value here: a run folder stores `Settings.model_dump(mode="json")`
and nothing that could be executed. A method adds its own fields by subclassing `MethodSettings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medtrace.guard.bounds import MAX_NUMBER
from medtrace.transforms.misalignment_draw import MISALIGNMENT_LEVELS


def _level(value: Any) -> Any:
    """A level of misalignment by its name, which may be a number."""
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(name, str) and name not in MISALIGNMENT_LEVELS:
        raise ValueError(f"expected one of {', '.join(MISALIGNMENT_LEVELS)}")
    return name


Count = Annotated[int, Field(ge=1, le=MAX_NUMBER)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Channels = Annotated[tuple[Count, ...], Field(min_length=1, max_length=32)]
Indices = tuple[Annotated[int, Field(ge=0)], ...]
Shape = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]
Level = Annotated[str, BeforeValidator(_level)]


class Settings(BaseModel):
    """A group of named values: an unknown name is refused, with the most similar known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class OptimizerSettings(Settings):
    """Adam over the networks of one phase."""

    learning_rate: Positive = 2e-4
    betas: tuple[Fraction, Fraction] = (0.5, 0.999)
    weight_decay: NonNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly; used if the schedule is constant."""
    fused: bool = True
    """One fused pass over the weights; the same steps up to rounding."""


class TrainingSettings(Settings):
    """How long, in which order and how fast a method is trained."""

    max_epochs: Annotated[int, Field(ge=0, le=10_000_000)] = 500
    batch_size: Count = 8
    accumulate: Count = 1
    """Parts that a batch is taken through the networks in, one after the other: less memory, the same gradient
    where losses are means over cases (not where a mean counts the voxels of masks, or noise is sampled)."""
    schedule: Literal["constant", "cosine", "linear", "polynomial"] = "constant"
    """`constant` keeps the rate (after `warmup_steps`); the others rise over `warmup` and fall until the end."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Fraction of the training over which the rate rises linearly; used if the schedule is not constant."""
    final_rate: Fraction = 0.0
    """Fraction of the rate that is left at the end; likewise."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the running average of the weights per step, such as 0.999; None does not average."""
    seed: Annotated[int, Field(ge=0)] = 0
    num_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    checkpoint_interval: Count = 10
    """Epochs between checkpoints."""
    checkpoint_minutes: NonNegative = 10.0
    """Minutes between checkpoints within an epoch, at the end of a step; 0 for never."""
    val_interval: Annotated[int, Field(ge=0)] = 10
    """Epochs between validations; 0 for never."""
    early_stopping: Count | None = None
    """Epochs without a better validation after which the training ends; None trains to the end."""
    max_gradient_norm: Positive | None = None
    amp: bool = False
    """Autocast on the device."""
    amp_dtype: Literal["float16", "bfloat16"] | None = None
    """None uses the device's default."""
    compile: bool | dict[str, Any] = False
    """Run networks through `torch.compile`; a mapping gives its arguments."""
    channels_last: bool = False
    tracking: Literal["auto", "tensorboard", "mlflow", "wandb"] = "auto"
    """Where the history is written in addition to the run folder. TensorBoard files are written if it is installed;
    `tensorboard` requires it. All three are in the extra `tracking`."""


class AugmentationSettings(Settings):
    """Random augmentation of the training cases of a prepared folder (`medtrace.data.augmentation`)."""

    on: bool = False
    """The papers have none; the presets `default` switch it on."""
    flip: Fraction = 0.5
    """Probability of a mirror image, left for right; never of sagittal slices. 0 where sides differ, as in abdomens."""
    motion: Fraction = 0.7
    """Probability of an affine and elastic transform."""
    degrees: NonNegative = 10.0
    scale: Fraction = 0.1
    shift_voxels: NonNegative = 4.0
    elastic_voxels: NonNegative = 1.0
    """Maximum standard deviation of the elastic displacement."""
    elastic_spacing: Positive = 16.0
    """Voxels between control points (2D); in 3D twice the width of the Gaussian that smooths the displacement."""
    intensity: Fraction = 0.5
    """Probability that the source's intensities are bent; only where they are in arbitrary units and the target has
    another contrast."""
    gamma: tuple[Positive, Positive] = (0.75, 1.35)
    """Range of the exponent."""


class PreparedData(Settings):
    """A folder made by `medtrace prepare`."""

    kind: Literal["prepared"] = "prepared"
    partners: Literal["fixed", "resampled"] = "fixed"
    """`resampled` gives each source the target of another subject, a new one in every epoch, for unpaired domains."""
    misalignment: Level | None = None
    """Level of a random misalignment of the training pairs, one of `medtrace.transforms.MISALIGNMENT_LEVELS`."""
    moved: Literal["both", "source", "target"] = "both"
    """The images that the misalignment moves."""
    drop_sources: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a training case lacks a source contrast, if there are several; one is always kept. A run trained
    this way translates any subset of them."""
    patch: Shape | None = None
    """Voxels per axis of a random patch of each training case, padded with background if the case is smaller; None
    takes entire cases. With patches, cases of several sizes share batches, and large volumes fit into memory."""
    neighbors: Annotated[int, Field(ge=0, le=16)] = 0
    """Slices of the same scan on either side that a 2D network reads with its own (2.5D); image and trace are of the
    slice in the middle. At the ends of a scan the last slice is repeated."""


class TraceBenchData(Settings):
    """Cases of TraceBench, whose true correspondence is known."""

    kind: Literal["tracebench"] = "tracebench"
    task: Literal["postop", "metamorphic", "misaligned", "domain"] = "postop"
    spatial_shape: Shape = (96, 96)
    seed: Annotated[int, Field(ge=0)] = 0
    train_cases: Count = 1024
    validation_cases: Annotated[int, Field(ge=0, le=MAX_NUMBER)] = 32
    test_cases: Annotated[int, Field(ge=0, le=MAX_NUMBER)] = 64
    level: Level = "3"
    """Misalignment of the training pairs (task `misaligned`)."""
    moved: Literal["both", "source", "target"] = "both"
    """Which images are misaligned (task `misaligned`)."""
    pairing: Literal["subject", "random"] = "subject"
    """Whether a source's target is its own subject's; `random` samples another in every epoch (task `domain`) or takes
    another subject's (task `misaligned`)."""
    direction: Literal["healthy_to_pathological", "pathological_to_healthy", "pathological_to_pathological"] = (
        "healthy_to_pathological"
    )
    """Which of the two has a lesion (task `metamorphic`)."""
    flip: bool = False
    """Mirror training cases at random."""
    identical: Fraction = 0.0
    """Probability that a training pair has nothing to register (`medtrace.transforms.RandIdenticalPaird`)."""


Data = Annotated[PreparedData | TraceBenchData, Field(discriminator="kind")]
Preset = Mapping[str, Any]
"""Dotted name of a setting → its value."""


class MethodSettings(Settings):
    """Settings common to all methods; a method's own settings subclass this.

    Attributes:
        presets: name → dotted names and values that it sets, on top of the defaults.
        budgets: preset → steps of a training on a prepared folder, if no number of epochs is given.
    """

    presets: ClassVar[Mapping[str, Preset]] = {}
    budgets: ClassVar[Mapping[str, int]] = {}

    spatial_dims: Literal[2, 3] = 2
    in_channels: Count = 1
    out_channels: Count = 1
    training: TrainingSettings = TrainingSettings()
    data: Data = PreparedData()
    augmentation: AugmentationSettings = AugmentationSettings()
    """Augmentation of prepared data; the cases of TraceBench have their own."""

    @model_validator(mode="after")
    def _dimensions_of_the_data(self) -> MethodSettings:
        if isinstance(self.data, TraceBenchData) and len(self.data.spatial_shape) != self.spatial_dims:
            raise ValueError(
                f"data.spatial_shape: expected {self.spatial_dims} axes, as spatial_dims says, received"
                f" {len(self.data.spatial_shape)}; set both"
            )
        patch = self.data.patch if isinstance(self.data, PreparedData) else None
        if patch is not None and len(patch) != self.spatial_dims:
            raise ValueError(f"data.patch: expected {self.spatial_dims} axes, as the data set has, received {patch}")
        if self.neighbors and self.spatial_dims == 3:
            raise ValueError(
                f"data.neighbors: expected 0 for volumes, whose slices a 3D network reads anyway, received"
                f" {self.neighbors}; prepare with --dims 2"
            )
        return self

    @model_validator(mode="after")
    def _a_training_that_can_be(self) -> MethodSettings:
        training = self.training
        if training.accumulate > training.batch_size:
            raise ValueError(
                f"training.accumulate: expected at most training.batch_size, {training.batch_size}, as a part has at"
                f" least one case, received {training.accumulate}; raise training.batch_size"
            )
        if training.early_stopping is not None and not training.val_interval:
            raise ValueError(
                "training.early_stopping: expected a training that validates, received training.val_interval 0;"
                " prepare with validation subjects (--split 0.7 0.1 0.2), or leave early stopping out"
            )
        return self

    @property
    def neighbors(self) -> int:
        """Number of slices on either side that are read with a source, see `PreparedData.neighbors`."""
        return self.data.neighbors if isinstance(self.data, PreparedData) else 0

    def optimizers(self) -> Mapping[str, OptimizerSettings]:
        """Phase → settings of its optimizer."""
        raise NotImplementedError


AnySettings = TypeVar("AnySettings", bound=MethodSettings)


def resolve(
    kind: type[AnySettings],
    presets: tuple[str, ...] | list[str] = (),
    overrides: Mapping[str, Any] | None = None,
    start: Mapping[str, Any] | None = None,
) -> AnySettings:
    """Settings from defaults, presets in their order, and then single values.

    Args:
        kind: the method's settings.
        presets: names of its presets.
        overrides: dotted name → value, such as {"alpha": 0.75, "training.max_epochs": 3}.
        start: every value of an earlier run, in place of the defaults.

    Returns:
        The settings, every value resolved.

    Raises:
        ValueError: if a preset or a name is unknown (the message has the most similar one), or a value is refused.

    Example:
        >>> from medtrace.methods import method_class
        >>> kind = method_class("tracetrans").settings_type
        >>> resolve(kind, ["tracebench", "smoke"], {"alpha": 0.25}).alpha
        0.25
    """
    # A group that is changed in one value keeps this method's other values.
    values: dict[str, Any] = kind().model_dump()
    for name, value in (start or {}).items():
        _set(kind, values, name, value)
    for preset in presets:
        if preset not in kind.presets:
            raise ValueError(f"preset: expected {_choices(preset, kind.presets)}, received {preset!r}")
        for name, value in kind.presets[preset].items():
            _set(kind, values, name, value)
    for name, value in (overrides or {}).items():
        _set(kind, values, name, value)
    data = values.get("data")
    if isinstance(data, dict) and data.get("kind") == "tracebench" and "spatial_shape" in data:
        given = overrides or {}
        if "spatial_dims" not in given and isinstance(data["spatial_shape"], (list, tuple)):
            values["spatial_dims"] = len(data["spatial_shape"])
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_told(kind, error)) from None


def names_of(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
    result = []
    for name, field in kind.model_fields.items():
        groups = _groups(field.annotation)
        if not groups:
            result.append(prefix + name)
        for group in groups:
            result += [inner for inner in names_of(group, f"{prefix}{name}.") if inner not in result]
    return result


def _set(kind: type[BaseModel], values: dict[str, Any], name: str, value: Any) -> None:
    """Put a value at a dotted name, each level of which has to exist, in values that are complete."""
    *path, last = name.split(".")
    owner, place = kind, values
    for depth, part in enumerate([*path, last]):
        if part not in owner.model_fields:
            raise ValueError(_unknown(kind, name, ".".join(path[:depth]), place))
        annotation = owner.model_fields[part].annotation
        groups = _groups(annotation)
        if depth == len(path):
            break
        if not groups and "dict" in str(annotation):
            inner = place[part] if isinstance(place[part], dict) else {}
            place[part] = _with(inner, [*path, last][depth + 1 :], value)
            return
        if not groups:
            raise ValueError(f"{name}: {'.'.join(path[: depth + 1])} is a single value and has no parts; set all of it")
        place = place[part]
        owner = next((group for group in groups if _is_kind(group, place)), groups[0])
    if groups and isinstance(value, Mapping) and "kind" not in value:
        for key, inner in value.items():
            _set(kind, values, f"{name}.{key}", inner)
        return
    if last == "kind" and place["kind"] != value:
        place.clear()  # the values of another type of data are meaningless here
    place[last] = _deep(value)


def _with(values: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Free-form values with one at a path changed."""
    name, *deeper = path
    if not deeper:
        return {**values, name: _deep(value)}
    inner = values.get(name)
    return {**values, name: _with(inner if isinstance(inner, Mapping) else {}, deeper, value)}


def _is_kind(group: type[BaseModel], values: Mapping[str, Any]) -> bool:
    return "kind" not in group.model_fields or group.model_fields["kind"].default == values.get("kind")


def _unknown(kind: type[BaseModel], name: str, group: str, place: Mapping[str, Any]) -> str:
    known = names_of(kind)
    if name in known:
        return (
            f"{name}: is not a setting where {group}.kind is {place.get('kind')!r}; set {group}.kind first, or a preset"
            " that does (tracebench)"
        )
    return f"{name}: is not a setting; expected {_choices(name, known, name.rsplit('.', 1)[-1])}"


def _groups(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    result: list[type[BaseModel]] = []
    for part in getattr(annotation, "__args__", ()):
        result += _groups(part)
    return result


def _choices(name: str, known: Any, last: str | None = None) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if not close and last is not None:
        tails = {full.rsplit(".", 1)[-1]: full for full in names}
        close = [tails[tail] for tail in difflib.get_close_matches(last, tails, 1, 0.6)]
    if close:
        return f"a known name (did you mean {close[0]}?)"
    return f"one of {', '.join(names)}" if names else "none, as there is none"


def _deep(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {key: _deep(inner) for key, inner in value.items()}
    return value


def _told(kind: type[BaseModel], error: ValidationError) -> str:
    """The first error, in one line."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("prepared", "tracebench"))
    reason = first["msg"].removeprefix("Value error, ")
    if not place:
        return reason
    if first["type"] == "extra_forbidden":
        return f"{place}: is not a setting; expected {_choices(place, names_of(kind), place.rsplit('.', 1)[-1])}"
    return f"{place}: {reason[0].lower()}{reason[1:]}, received {first['input']!r}"
