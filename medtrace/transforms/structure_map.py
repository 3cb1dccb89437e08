"""The structure map of an image: its two classes, bright and dark, as a condition for translation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils.enums import TransformBackends
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_to_dst_type
from skimage.filters import threshold_otsu
from torch import Tensor

from ..checks import check_choice, check_positive
from .geometry import Array
from .naming import as_image, as_item, detached, named
from .potts import DIRECTIONS, Directions, minimize_potts
from .two_means import two_means, unit_range

StructureMethod = Literal["potts", "otsu", "kmeans"]
METHODS = ("potts", "otsu", "kmeans")


class StructureMap(Transform):
    """Divide an image into its brighter class (1) and its darker class (0).

    Plasticine (Section III) conditions its diffusion on such a map, "an unsupervised pixel clustering" for which it
    cites the Potts model of Storath, Weinmann, Frikel & Unser 2015; its appendix shows two classes.

    - "potts": the image's piecewise-constant approximation (`minimize_potts`), whose regions then fall into two
      classes by exact 2-means, each region weighted by its number of voxels. Edges are penalized, so specks, ragged
      borders and (with a larger `gamma`) noise disappear.
    - "otsu": voxels above Otsu's threshold (scikit-image's `threshold_otsu`, 256 bins).
    - "kmeans": exact 2-means of the voxels' intensities. Otsu's criterion is the same with bins, so both maps differ
      only in a few voxels; scikit-image has no k-means of intensities, and in one dimension trying all thresholds is
      exact, whereas Lloyd's iteration may stop early.

    The map does not depend on the image's scale and shift, except for rounding. Values on a threshold belong to the
    darker class.
    A constant image has no brighter class: its map is 0 everywhere, as is the Potts map of an image that one region
    approximates best (nothing but noise).

    Args:
        method: "potts", "otsu" or "kmeans".
        gamma: of "potts", the cost of edges: γ of `minimize_potts` in units of the squared difference of the image's
            two class means, and of the image's width in voxels (geometric mean over axes), so that the same
            anatomy has about the same map at any resolution. An isolated detail that differs as much as the
            classes do vanishes below a diameter of 4·gamma widths (3D: 6·gamma), one of half that contrast
            below four times that. The default, 0.03 voxels at 64 × 64 and 0.13 at 256 × 256, keeps the ventricles
            of TraceBench at 64 × 64; under noise of a quarter of the contrast, take three times as much.
        directions: of "potts", "axes" or "diagonals", see `minimize_potts`; None: diagonals in 2D, axes in 3D.

    Raises:
        ValueError: if a setting is unknown or not positive.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> image[:, 2:6, 2:6] = 0.9
        >>> float(StructureMap()(image).sum())
        16.0
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self, method: StructureMethod = "potts", gamma: float = 5e-4, directions: Directions | None = None
    ) -> None:
        check_choice("method", method, METHODS)
        check_choice("directions", directions, (*DIRECTIONS, None))
        check_positive("gamma", gamma)
        self.method, self.gamma, self.directions = method, float(gamma), directions

    def __call__(self, img: Any, name: str = "img") -> Tensor:
        """The map of one image.

        Args:
            img: (1, H, W) or (1, H, W, D), finite, any range.
            name: the image's name in messages.

        Returns:
            (1, *spatial) float32, exactly 0 or 1, on the image's device; a MetaTensor with the metadata of `img`
            while MONAI tracks metadata.

        Raises:
            TypeError: if it is not an array of real numbers.
            ValueError: if it has several channels, is empty or holds NaN or infinity.
        """
        image = as_image(name, img)
        if image.shape[0] != 1:
            raise ValueError(
                f"{named(name, img)}: expected 1 channel, received {image.shape[0]} in shape {tuple(image.shape)};"
                " make a map of each channel"
            )
        values = unit_range(detached(image)[0].cpu().numpy().astype(np.float64))
        bright = torch.from_numpy(self._bright(values)[None])
        out: Tensor = convert_to_dst_type(bright, image, dtype=torch.float32)[0]
        return out

    def _bright(self, values: Array) -> Any:
        """Boolean array: the brighter class of an image in [0, 1]."""
        if values.max() == 0:
            return np.zeros(values.shape, dtype=bool)
        if self.method == "otsu":
            return values > threshold_otsu(values)
        split = two_means(values)
        if self.method == "kmeans":
            return values > split.threshold
        edge_cost = self.gamma * _width(values.shape) * split.contrast**2
        pieces = minimize_potts(values, edge_cost, self.directions).values
        if pieces.min() == pieces.max():
            return np.zeros(values.shape, dtype=bool)
        return pieces > two_means(pieces).threshold


def _width(shape: tuple[int, ...]) -> float:
    """Geometric mean of an image's extents in voxels; axes of a single voxel do not count."""
    extents = [size for size in shape if size > 1]
    return float(np.prod(extents) ** (1 / len(extents)))


class StructureMapd(MapTransform):
    """Dictionary form of `StructureMap`.

    Args:
        keys: the images.
        suffix: suffix of a key for the key of its map.
        out_keys: keys of the maps, one per image, in place of `suffix`; the images' own keys put maps in their place.
        method: as in `StructureMap`.
        gamma: likewise.
        directions: likewise.
        allow_missing_keys: skip keys that are absent.

    Raises:
        ValueError: if `out_keys` are not as many as `keys`, or a setting is wrong.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> image[:, 2:6, 2:6] = 0.9
        >>> float(StructureMapd(["source"], method="otsu")({"source": image})["source_structure"].sum())
        16.0
    """

    backend = StructureMap.backend

    def __init__(
        self,
        keys: KeysCollection,
        suffix: str = "_structure",
        out_keys: Sequence[str] | str | None = None,
        method: StructureMethod = "potts",
        gamma: float = 5e-4,
        directions: Directions | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        wanted: Any = [f"{key}{suffix}" for key in self.keys] if out_keys is None else out_keys
        self.out_keys = ensure_tuple(wanted)
        if len(self.out_keys) != len(self.keys):
            raise ValueError(f"out_keys: expected {len(self.keys)}, one for each of {self.keys}, received {out_keys!r}")
        self.transform = StructureMap(method, gamma, directions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with the maps."""
        item = as_item(data)
        for key, out_key in self.key_iterator(item, self.out_keys):
            item[out_key] = self.transform(item[key], name=str(key))
        return item


def structure_map(
    image: Tensor,
    method: StructureMethod = "potts",
    gamma: float = 5e-4,
    directions: Directions | None = None,
) -> Tensor:
    """`StructureMap` as a function: (1, *spatial) to (1, *spatial) float32 of exactly 0 and 1.

    Example:
        >>> structure_map(torch.tensor([[[0.1, 0.2, 0.8, 0.9]]]), method="kmeans")
        tensor([[[0., 0., 1., 1.]]])
    """
    out = StructureMap(method, gamma, directions)(image, name="image")
    return out if isinstance(image, MetaTensor) else detached(out)


StructureMapD = StructureMapDict = StructureMapd
