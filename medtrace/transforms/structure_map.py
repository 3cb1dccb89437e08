"""The structure map of an image: its classes from dark to bright, as a condition for translation."""

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

from ..checks import check_choice, check_positive, check_whole
from .geometry import Array
from .naming import as_image, as_item, detached, named
from .potts import DIRECTIONS, Directions, minimize_potts
from .two_means import several_means, two_means, unit_range

StructureMethod = Literal["potts", "otsu", "kmeans"]
METHODS = ("potts", "otsu", "kmeans")
MOST_CLASSES = 5
"""Multi-Otsu tries all thresholds of 256 bins: milliseconds for four classes, most of a second for five."""


class StructureMap(Transform):
    """Divide an image into its brighter class (1) and its darker class (0), or into several classes.

    Plasticine (Section III) conditions its diffusion on such a map, "an unsupervised pixel clustering" for which it
    cites the Potts model of Storath, Weinmann, Frikel & Unser 2015; its appendix shows two classes.

    - "potts": the image's piecewise-constant approximation (`minimize_potts`), whose regions then fall into two
      classes by exact 2-means, each region weighted by its number of voxels. Edges are penalized, so specks, ragged
      borders and (with a larger `gamma`) noise disappear.
    - "otsu": voxels above Otsu's threshold (scikit-image's `threshold_otsu`, 256 bins).
    - "kmeans": exact 2-means of the voxels' intensities. Otsu's criterion is the same with bins, so both maps differ
      only in a few voxels; scikit-image has no k-means of intensities, and in one dimension trying all thresholds is
      exact, whereas Lloyd's iteration may stop early.

    With `classes` K above 2, the classes are those of K-means, whichever the method, of the voxels or the pieces
    (`several_means`), and class k of 0 to K - 1, from dark to bright, has the value k / (K - 1): one channel, whatever
    K is. Four tell air, fluid, gray and white matter of a skull-stripped T1 apart, where two leave the brain's two
    tissues in one. An image with fewer different values has fewer classes, the darkest.

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
        classes: number of classes, 2 to 5.

    Raises:
        TypeError: if `classes` is not a whole number.
        ValueError: if a setting is unknown, not positive or out of its range.

    Example:
        >>> image = torch.zeros(1, 8, 8)
        >>> image[:, 2:6, 2:6] = 0.9
        >>> float(StructureMap()(image).sum())
        16.0
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self,
        method: StructureMethod = "potts",
        gamma: float = 5e-4,
        directions: Directions | None = None,
        classes: int = 2,
    ) -> None:
        check_choice("method", method, METHODS)
        check_choice("directions", directions, (*DIRECTIONS, None))
        check_positive("gamma", gamma)
        check_whole("classes", classes, minimum=2)
        if classes > MOST_CLASSES:
            raise ValueError(f"classes: expected 2 to {MOST_CLASSES}, received {classes}")
        self.method, self.gamma, self.directions, self.classes = method, float(gamma), directions, classes

    def __call__(self, img: Any, name: str = "img") -> Tensor:
        """The map of one image.

        Args:
            img: (1, H, W) or (1, H, W, D), finite, any range.
            name: the image's name in messages.

        Returns:
            (1, *spatial) float32, exactly 0 or 1 (with K classes k / (K - 1)), on the image's device; a MetaTensor
            with the metadata of `img` while MONAI tracks metadata.

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
        levels = torch.from_numpy(self._classes(values)[None]) / (self.classes - 1)
        out: Tensor = convert_to_dst_type(levels, image, dtype=torch.float32)[0]
        return out

    def _classes(self, values: Array) -> Any:
        """Integers: the class of every voxel of an image in [0, 1], from dark to bright."""
        if values.max() == 0:
            return np.zeros(values.shape, dtype=np.int64)
        if self.method == "potts":
            edge_cost = self.gamma * _width(values.shape) * two_means(values).contrast ** 2
            values = minimize_potts(values, edge_cost, self.directions).values
        return np.digitize(values, self._thresholds(values), right=True)

    def _thresholds(self, values: Array) -> Any:
        """The largest value of each class but the brightest."""
        if values.min() == values.max():
            return []
        if self.classes > 2:
            return several_means(values, self.classes)
        return [threshold_otsu(values) if self.method == "otsu" else two_means(values).threshold]


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
        classes: likewise.
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
        classes: int = 2,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        wanted: Any = [f"{key}{suffix}" for key in self.keys] if out_keys is None else out_keys
        self.out_keys = ensure_tuple(wanted)
        if len(self.out_keys) != len(self.keys):
            raise ValueError(f"out_keys: expected {len(self.keys)}, one for each of {self.keys}, received {out_keys!r}")
        self.transform = StructureMap(method, gamma, directions, classes)

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
    classes: int = 2,
) -> Tensor:
    """`StructureMap` as a function: (1, *spatial) to (1, *spatial) float32 of exactly 0 and 1, or of several classes.

    Example:
        >>> structure_map(torch.tensor([[[0.1, 0.2, 0.8, 0.9]]]), method="kmeans")
        tensor([[[0., 0., 1., 1.]]])
    """
    out = StructureMap(method, gamma, directions, classes)(image, name="image")
    return out if isinstance(image, MetaTensor) else detached(out)


StructureMapD = StructureMapDict = StructureMapd
