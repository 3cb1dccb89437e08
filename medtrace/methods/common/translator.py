"""A method whose one network makes an image of the source alone, on the source's grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medtrace.checks import check_range, check_same_grid
from medtrace.methods.base import Batch, Method
from medtrace.networks.backbone import Domain
from medtrace.trace.prediction import Prediction, zero_field
from medtrace.trace.validation import as_tensor


class ImageTranslator(Method):
    """Translate by `networks`, which take a source (B, C, *spatial) and give its translation, both in [-1, 1].

    Nothing moves: a translation is on its source's grid, and the field of its trace is zero. Patches start at multiples
    of `networks.stride`.
    """

    networks: Any

    def io_network(self) -> nn.Module:
        """The networks themselves: a source in, its translation out."""
        result: nn.Module = self.networks
        return result

    def predict(self, batch: Batch) -> Prediction:
        """Translate each source. The translation is on the source's grid, so the field is zero by design."""
        source = as_tensor(batch["source"])
        check_range("source", source, -1, 1)
        image = self._translated(source)
        return Prediction(image, zero_field(image), zero_field(image))

    def _translated(self, source: Tensor) -> Tensor:
        if self.inferer is None:
            image: Tensor = self.networks(source)
            return image
        return self.inferer(source, lambda patch: (self.networks(patch),), self.networks.stride)[0]

    @staticmethod
    def _images(batch: Batch) -> dict[Domain, Tensor]:
        """The images of a batch by domain, in [-1, 1] and on one grid."""
        images: dict[Domain, Tensor] = {"source": as_tensor(batch["source"]), "target": as_tensor(batch["target"])}
        for name, image in images.items():
            check_range(name, image, -1, 1)
        check_same_grid("source", images["source"], "target", images["target"])
        return images


def check_weights(weights: Mapping[str, float]) -> None:
    """Check that no weight of a term is below 0."""
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"{name}: expected a weight of at least 0, received {weight!r}")
