"""A segmentation network of the target domain: what traceability by segmentation measures with."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from medtrace.checks import check_positive
from medtrace.engines.runs import default_device
from medtrace.metrics import label_overlap
from medtrace.networks.blocks import pad_to_multiple
from medtrace.storage.encoders import write_states
from medtrace.storage.files import atomic_write, write_json
from medtrace.trace.validation import as_tensor

RECORD = "segmenter.json"
WEIGHTS = "weights.pt"
FEATURES = "features.ts"
BACKGROUND = 0
MULTIPLE = 16
SMALLEST = 32
"""The network halves its grid four times, and batch normalization wants more than a point there."""

Cases = Any  # anything with a length and items that are case mappings


@dataclass(frozen=True)
class SegmenterSettings:
    """Settings of a segmenter and its training.

    Attributes:
        classes: name → label in the label maps; every other label counts as background.
        image: the cases' entry that is segmented.
        labels: the cases' entry that holds its labels.
        channels: channels of MONAI's `BasicUNet`, six numbers.
        iterations: steps of Adam on Dice + cross-entropy.
        batch_size: images per step.
        learning_rate: at its peak; it warms up and falls again (one cycle).
        seed: seed of weights and order.
    """

    classes: Mapping[str, int]
    image: str = "target"
    labels: str = "target_labels"
    channels: tuple[int, ...] = (16, 16, 32, 64, 128, 16)
    iterations: int = 600
    batch_size: int = 16
    learning_rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", dict(self.classes))
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.classes or len(set(self.classes.values())) < len(self.classes):
            raise ValueError(f"classes: expected names of different labels, received {self.classes}")
        if BACKGROUND in self.classes.values():
            raise ValueError(f"classes: expected labels other than the background's {BACKGROUND}, received one")
        if len(self.channels) != 6:
            raise ValueError(f"channels: expected six numbers, received {self.channels}")
        for name in ("iterations", "batch_size", "learning_rate"):
            check_positive(name, getattr(self, name))


class Segmenter:
    """A trained segmentation network and the names of its classes.

    Classes are renumbered: 0 is the background and the settings' classes are 1, 2, ... in their order.

    Args:
        network: (B, C, H, W[, D]) to (B, number of classes, ...) logits.
        settings: what it segments.
        device: where it runs.
    """

    def __init__(self, network: BasicUNet, settings: SegmenterSettings, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.settings = settings
        self.device = device
        self.classes = {name: number for number, name in enumerate(settings.classes, start=1)}

    @torch.no_grad()
    def segment(self, image: Tensor) -> Tensor:
        """Labels (1, *spatial) int64 of one image (C, *spatial), in the segmenter's count; on the CPU."""
        padded, crop = pad_to_multiple(as_tensor(image)[None].float().to(self.device), MULTIPLE, SMALLEST)
        return crop(self.network(padded)).argmax(1).cpu()

    def truth(self, labels: Tensor) -> Tensor:
        """Label map (1, *spatial) of the data in the segmenter's count."""
        return recounted(labels, self.settings.classes)


def recounted(labels: Tensor, classes: Mapping[str, int]) -> Tensor:
    """Labels of the data as 1, 2, ... in the order of `classes`, every other label as background; int64."""
    values = as_tensor(labels)
    counted = torch.zeros(values.shape, dtype=torch.int64)
    for number, label in enumerate(classes.values(), start=1):
        counted[values == label] = number
    return counted


def classes_of(cases: Cases, labels: str = "target_labels") -> dict[str, int]:
    """Every label other than the background's that the cases show, called "label 1" and so on."""
    result = sorted({int(value) for index in range(len(cases)) for value in as_tensor(cases[index][labels]).unique()})
    return {f"label {value}": value for value in result if value != BACKGROUND}


class _Pairs(Dataset):
    """Images and their labels, in the segmenter's count."""

    def __init__(self, cases: Cases, settings: SegmenterSettings) -> None:
        self.cases, self.settings = cases, settings

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        case = self.cases[index]
        for name in (self.settings.image, self.settings.labels):
            if name not in case:
                raise ValueError(
                    f"cases: expected the entry {name!r} to train a segmenter on, received {', '.join(map(str, case))};"
                    " add the label columns to the pair list"
                )
        image = as_tensor(case[self.settings.image]).float()
        padded, _ = pad_to_multiple(image[None], MULTIPLE, SMALLEST)
        labels = recounted(case[self.settings.labels], self.settings.classes)
        # Padded like the image, by its border.
        truth, _ = pad_to_multiple(labels[None].float(), MULTIPLE, SMALLEST)
        return padded[0], truth[0]


def train_segmenter(
    cases: Cases, settings: SegmenterSettings, *, device: str | torch.device | None = None, progress: bool = True
) -> Segmenter:
    """Train a U-Net on the target domain's images and labels.

    MONAI's `BasicUNet` with batch normalization (normalizing every image by itself would remove the contrast in
    which domains differ), Dice + cross-entropy, Adam. The same seed gives the same network on one machine.

    Args:
        cases: items with the settings' `image`, (C, *spatial) in [-1, 1], and `labels`, (1, *spatial).
        settings: what to segment.
        device: by default CUDA if available.
        progress: show a bar.

    Returns:
        The segmenter.

    Raises:
        ValueError: if there are no cases or one lacks an entry.
    """
    pairs = _Pairs(cases, settings)
    if len(pairs) == 0:
        raise ValueError("cases: expected at least one to train a segmenter on, received none")
    device = default_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _network(pairs[0][0], settings).to(device).train()
    order = torch.Generator().manual_seed(settings.seed)
    loader = DataLoader(pairs, batch_size=min(settings.batch_size, len(pairs)), shuffle=True, generator=order)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=max(settings.iterations, 2)
    )
    bar = tqdm(
        total=settings.iterations, desc="segmenter", disable=None if progress else True, unit="step", leave=False
    )
    with bar:
        for _, (images, truth) in zip(range(settings.iterations), _forever(loader)):
            optimizer.zero_grad(set_to_none=True)
            value = loss(network(images.to(device)), truth.to(device))
            value.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
    return Segmenter(network, settings, device)


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _network(image: Tensor, settings: SegmenterSettings) -> BasicUNet:
    return BasicUNet(
        spatial_dims=image.ndim - 1,
        in_channels=image.shape[0],
        out_channels=1 + len(settings.classes),
        features=settings.channels,
        norm="batch",
    )


def mean_dice(segmenter: Segmenter, cases: Cases) -> dict[str, float]:
    """Accuracy on images of its own domain: Dice of every class, mean over the cases that show it.

    Args:
        segmenter: segmenter to test.
        cases: unseen ones with the entries that it was trained on.
    """
    names = segmenter.settings
    count = 1 + len(segmenter.classes)
    dice = [
        label_overlap(
            segmenter.segment(case[names.image])[None], segmenter.truth(case[names.labels])[None], count
        ).dice[0, 1:]
        for case in (cases[index] for index in range(len(cases)))
    ]
    means = torch.stack(dice).nanmean(0)
    return {**dict(zip(segmenter.classes, means.tolist())), "mean": float(means.nanmean())}


def segmenter_in(
    folder: str | os.PathLike,
    cases: Cases,
    settings: SegmenterSettings,
    *,
    origin: Mapping[str, Any],
    unseen: Cases | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Segmenter:
    """The segmenter that lies in a folder; where there is none, it is trained and saved there.

    Args:
        folder: holds `segmenter.json` (settings, origin, Dice on unseen images), `weights.pt` and `features.ts` (see
            `export_features`).
        cases: cases to train on; a callable that makes them is called only if a training is needed.
        settings: as for `train_segmenter`.
        origin: what the cases are, in words and numbers; a folder of another origin is rejected.
        unseen: cases of the same domain to measure it on, once.
        device: by default CUDA if available.
        progress: show a bar.

    Raises:
        ValueError: if the folder holds a segmenter of other settings or another origin.
    """
    folder = Path(folder)
    wanted = json.loads(json.dumps({"settings": asdict(settings), "origin": dict(origin)}))
    if (folder / RECORD).is_file():
        record = _read_record(folder)
        different = [part for part in wanted if record.get(part) != wanted[part]]
        if different:
            raise ValueError(
                f"segmenter: {folder} holds one of other {' and '.join(different)}; name another folder, or remove it"
            )
        return load_segmenter(folder, device)
    segmenter = train_segmenter(cases() if callable(cases) else cases, settings, device=device, progress=progress)
    write_states(folder / WEIGHTS, segmenter.network.state_dict())
    export_features(segmenter, folder / FEATURES)
    first = segmenter.network.conv_0.conv_0.conv
    shape = {"spatial_dims": first.weight.ndim - 2, "in_channels": first.in_channels}
    measured = {} if unseen is None else {"dice_on_unseen_images": mean_dice(segmenter, unseen)}
    write_json(folder / RECORD, {**wanted, **shape, **measured})  # last: a folder with it is complete
    return segmenter


def load_segmenter(folder: str | os.PathLike, device: str | torch.device | None = None) -> Segmenter:
    """Load what `segmenter_in` saved.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the weights do not fit the record.
    """
    folder = Path(folder)
    record = _read_record(folder)
    settings = SegmenterSettings(**record["settings"])
    network = _network(torch.zeros(record["in_channels"], *[1] * record["spatial_dims"]), settings)
    try:
        network.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    except (RuntimeError, EOFError, torch.serialization.pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"segmenter: {folder / WEIGHTS} does not fit {RECORD} ({reason}); train it again") from error
    return Segmenter(network, settings, default_device(device))


def _read_record(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"segmenter: {folder / RECORD} is missing; name the folder of a trained segmenter")
    record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record


def export_features(segmenter: Segmenter, path: str | os.PathLike) -> Path:
    """Write the segmenter's encoder as a feature network for FID and SFD: a TorchScript file.

    The file takes (B, C, H, W[, D]) and returns (B, F): the deepest features, averaged over space. Distances in these
    features are "of the target-domain segmenter's features"; they are not those of Inception, and not comparable with
    numbers of any other network.

    Args:
        segmenter: a trained segmenter.
        path: the file.

    Returns:
        The path.
    """
    network = segmenter.network
    encoder = nn.Sequential(
        network.conv_0, network.down_1, network.down_2, network.down_3, network.down_4, _MeanOverSpace()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(encoder.eval())
    atomic_write(path, scripted.save_to_buffer())  # when torch writes the file, a full disk ends the program
    return Path(path)


class _MeanOverSpace(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(2)
