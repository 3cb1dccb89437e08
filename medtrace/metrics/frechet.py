"""Distance between the features of two sets of images: FID and its simplification."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from medtrace.checks import check_batched, check_finite, check_floating
from medtrace.metrics.case_metric import ComparingMetric

FeatureNetwork = Callable[[Tensor], Tensor]
"""Images (B, C, H, W[, D]) to features (B, F) or (B, F, ...); maps are averaged over space."""


def load_feature_network(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> FeatureNetwork:
    """Load a feature network from a TorchScript file.

    Nothing is downloaded: FID depends on the network, so report yours with it. TorchScript is read without
    Python's pickle, but it is a program: load files only from sources whose programs you would run. A network that
    needs three channels, another size or other intensities must convert inside the file.

    Args:
        path: made by `torch.jit.save`; takes (B, C, H, W[, D]) in the images' own range and returns (B, F) or maps.
        device: where to put it.

    Returns:
        The network, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a TorchScript file, or damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "flatten.pt")
        ...     torch.jit.script(torch.nn.Flatten()).save(str(path))
        ...     load_feature_network(path)(torch.zeros(2, 1, 2, 2)).shape
        ...
        torch.Size([2, 4])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"feature network: {path} is not a file; name a TorchScript file (torch.jit.save), none is downloaded"
        )
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location=device)
    except Exception as error:  # torch may raise any error on a broken file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"feature network: {path} is not a TorchScript file ({reason}); save the network by"
            f" torch.jit.script(...).save"
        ) from error
    result: FeatureNetwork = network.eval()
    return result


def _check_archive(path: Path) -> None:
    """Check the checksums of a TorchScript file, which torch does not: in a damaged one it trusts any length."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # Python may raise any error on a broken archive
        raise ValueError(
            f"feature network: {path} is not a TorchScript file ({error}); save the network by"
            f" torch.jit.script(...).save"
        ) from error
    if damaged is not None:
        raise ValueError(
            f"feature network: {path} is damaged ({damaged!r} does not have its checksum); take an intact copy"
        )


@torch.no_grad()
def image_features(network: FeatureNetwork, images: Tensor) -> Tensor:
    """Features of images, averaged over space where the network gives maps.

    Args:
        network: see `FeatureNetwork`.
        images: (B, C, H, W[, D]).

    Returns:
        (B, F) float64.

    Raises:
        ValueError: if the network does not return a vector or maps per image, or returns numbers that are not finite.

    Example:
        >>> image_features(lambda images: images.expand(-1, 5, -1, -1), torch.ones(2, 1, 4, 4)).shape  # maps, averaged
        torch.Size([2, 5])
    """
    check_batched("images", images)
    if not callable(network):
        raise TypeError(f"network: expected a function of images, received {network!r}; see load_feature_network")
    features = network(images.detach().as_subclass(Tensor).float())
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(images):
        received = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"feature network: expected ({len(images)}, features, ...) in return, received {received}")
    check_finite("features", features, "check which intensities the network expects")
    return features.double().flatten(2).mean(2) if features.ndim > 2 else features.double()


def frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """Fréchet distance of two Gaussians fitted to features: FID (Heusel et al. 2017).

    |m₁ − m₂|² + Tr(C₁ + C₂ − 2·(C₁C₂)^½), covariances with n − 1. No matrix root is taken: with centered features
    A and B, scaled so that C₁ = AᵀA and C₂ = BᵀB, Tr (C₁C₂)^½ is the sum of the singular values of A·Bᵀ. It is as
    exact for fewer images than features, where the root of the singular product is not. The distance of few images is
    biased upwards: compare rows of one table only, with the same number of images.

    Args:
        first: (N, F) features, at least 2 images.
        second: (M, F).

    Returns:
        () float64 >= 0.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than 2 images or numbers are not finite.

    Example:
        >>> features = torch.rand(16, 3, generator=torch.Generator().manual_seed(0))
        >>> round(float(frechet_distance(features + 1, features)), 4)  # three means, 1 apart each
        3.0
    """
    first, second = _checked(first, second)
    roots = [_covariance_root(features) for features in (first, second)]
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots) - 2 * cross
    result: Tensor = ((first.mean(0) - second.mean(0)).square().sum() + spread).clamp_min(0)
    return result


def simplified_frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """Fréchet distance of two Gaussians whose features are taken as uncorrelated.

    |m₁ − m₂|² + Σ (σ₁ − σ₂)², the Fréchet distance with the covariances' diagonals in place of the covariances.

    Named after the SFD of Kim et al. (Sensors 2020, 20(6):1548), which Plasticine's Table III cites. That article
    drops the Fréchet distance's covariance term as too complex to compute inside a network; its formula has not been
    compared with this one, and Plasticine does not repeat it. What is computed here never exceeds
    `frechet_distance` of the same features, while the SFD printed there does in 3 of 27 cells: those use other
    features, or another formula. Compare these numbers with each other, not with that table.

    Args:
        first: (N, F) features, at least 2 images.
        second: (M, F).

    Returns:
        () float64 >= 0.

    Raises:
        ValueError: as `frechet_distance`.

    Example:
        >>> features = torch.rand(16, 3, generator=torch.Generator().manual_seed(0))
        >>> round(float(simplified_frechet_distance(features, features)), 6)
        0.0
    """
    first, second = _checked(first, second)
    means = (first.mean(0) - second.mean(0)).square().sum()
    return means + (first.std(0) - second.std(0)).square().sum()


def _checked(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    for name, features in (("first", first), ("second", second)):
        check_floating(name, features)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"{name}: expected (at least 2 images, features), received shape {tuple(features.shape)}")
        check_finite(name, features)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"second: expected {first.shape[1]} features as first has, received {second.shape[1]}")
    return first.double(), second.double()


def _covariance_root(features: Tensor) -> Tensor:
    """A matrix R with RᵀR the covariance, of no more rows than features."""
    centered = (features - features.mean(0)) / math.sqrt(len(features) - 1)
    return centered if len(centered) <= centered.shape[1] else torch.linalg.qr(centered, mode="r").R


class FIDMetric(ComparingMetric):
    """`frechet_distance` between the features of all images that were shown.

    `metric(y_pred, y)` takes batches of equal length and keeps their features; `aggregate()` gives one number ().

    Args:
        network: the feature network, such as `load_feature_network` gives.

    Example:
        >>> metric = FIDMetric(lambda images: images.flatten(1))
        >>> images = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> _ = metric(images, images)
        >>> round(float(metric.aggregate()), 6)
        0.0
    """

    distance = staticmethod(frechet_distance)

    def __init__(self, network: FeatureNetwork) -> None:
        super().__init__()
        self.network = network

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None or len(y) != len(y_pred):
            raise ValueError(
                f"y: expected as many images as y_pred has, {len(y_pred)}, received {0 if y is None else len(y)}"
            )
        features = [image_features(self.network, images) for images in (y_pred, y)]
        if features[0].shape != features[1].shape:
            raise ValueError(
                f"y: expected images that give {features[0].shape[1]} features as those of y_pred do, received"
                f" {features[1].shape[1]}; check their channels"
            )
        return torch.stack(features, dim=1)

    def aggregate(self) -> Tensor:
        """The distance (), NaN before the second image."""
        buffer = self.get_buffer()
        if buffer is None or len(buffer) < 2:
            return torch.tensor(math.nan, dtype=torch.float64)
        return type(self).distance(buffer[:, 0], buffer[:, 1])


class SFDMetric(FIDMetric):
    """`simplified_frechet_distance` between the features of all images that were shown; as `FIDMetric`.

    Example:
        >>> metric = SFDMetric(lambda images: images.flatten(1))
        >>> images = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> _ = metric(images + 1, images)
        >>> round(float(metric.aggregate()), 4)
        4.0
    """

    distance = staticmethod(simplified_frechet_distance)
