# ruff: noqa: RUF009 - a Limit cannot be changed, so that sharing one default is safe
"""Limits of a certificate: two for each figure, changeable by a YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Limit(NamedTuple):
    """The most that a figure may be."""

    warn: float
    """Above this the check warns."""
    fail: float
    """Above this it fails."""


@dataclass(frozen=True)
class Thresholds:
    """Limits of a certificate's figures. Defaults: see the table of `medtrace calibrate certificate`.

    Attributes:
        folded_volume_voxels: folded volume of `ddf` or `inverse_ddf`.
        largest_jump_voxels: largest distance of one voxel's displacement from its neighbors' median.
        interior_p95_voxels, interior_max_voxels: round trip through the field and its inverse, away from borders.
        border_p95_voxels: the same at the border.
        account_share: `warped` against the source resampled by `ddf`, as a fraction of the source's range.
        similarity_shortfall: similarity (NMI) of the image to the independently warped source, less that to the
            claimed one: what the claimed field leaves unregistered.
        similarity_shortfall_across: the same between contrasts that differ, where a field explains less: chosen on the
            validation split of `postop` (T1 to T2, T1 to CT) so that no field passes where tissue moved.
        zero_field_advantage: similarity of the image to the source as it is, less that to the claimed one.
        disagreement_voxels: mean distance of the claimed from the independent displacement, in voxels of the
            reference registration's grid.
        disagreement_voxels_across: the same between contrasts that differ, where the independent registration itself
            is blunter; chosen on the same cases so that the true field passes.
        residual_share: energy that neither deformation nor permitted appearance explains, as a fraction of variance.
        outside_range_share: voxels beyond the source's range by more than 5 %.
        contrast_loss: 1 less the ratio of standard deviations of image and source.
        identical_pair_voxels: maximum displacement of a pair of two equal images (registration runs).
        reproduction_share: mean difference of the image from the run's output for the source, as a fraction of the
            range.
        equivariance_ratio: how far the run is from applying a small deformation of its input to its output; 1 is as
            far as a method that ignores it.
        border_voxels: width of the border for the round trip.
        probe_voxels: maximum displacement of the small deformations.
        probes: number of them.
        reference_size_2d, reference_size_3d: voxels of the longest axis at which the independent registration works.
        reference_spacing: voxels between its control points.
        reference_mm: minimum edge of its voxels in mm.
        reference_samples_3d: maximum number of a volume's voxels on which it evaluates the similarity, all of them in
            or beside what either image shows.
        reference_evaluations_3d: maximum number of evaluations at each of its two resolutions.
    """

    folded_volume_voxels: Limit = Limit(0.0, 0.05)
    largest_jump_voxels: Limit = Limit(0.5, 1.0)
    interior_p95_voxels: Limit = Limit(0.1, 0.5)
    interior_max_voxels: Limit = Limit(0.5, 1.0)
    border_p95_voxels: Limit = Limit(0.5, float("inf"))
    account_share: Limit = Limit(0.001, 0.01)
    similarity_shortfall: Limit = Limit(0.035, 0.06)
    similarity_shortfall_across: Limit = Limit(0.025, 0.06)
    zero_field_advantage: Limit = Limit(0.0, 0.02)
    disagreement_voxels: Limit = Limit(1.0, 2.0)
    disagreement_voxels_across: Limit = Limit(1.2, 2.0)
    residual_share: Limit = Limit(0.5, 0.8)
    outside_range_share: Limit = Limit(0.002, 0.05)
    contrast_loss: Limit = Limit(0.7, 0.95)
    identical_pair_voxels: Limit = Limit(0.5, 1.0)
    reproduction_share: Limit = Limit(0.001, 0.01)
    equivariance_ratio: Limit = Limit(0.55, 0.85)
    border_voxels: float = 2.0
    probe_voxels: float = 2.0
    probes: int = 2
    reference_size_2d: int = 128
    reference_size_3d: int = 64
    reference_spacing: float = 10.0
    reference_mm: float = 0.0
    reference_samples_3d: int = 10000
    reference_evaluations_3d: int = 60

    def limit(self, figure: str) -> Limit | None:
        """The limit of a figure, None if there is none."""
        value = getattr(self, figure, None)
        return value if isinstance(value, Limit) else None

    @classmethod
    def load(cls, path: str | os.PathLike) -> Thresholds:
        """Read a YAML file that names some of the attributes: `figure: {warn: 0.1, fail: 0.2}`, settings as numbers.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a YAML mapping, a name is unknown or a limit is not one; the message names it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected YAML with limits")
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from error
        return cls().changed({} if given is None else given, str(path))

    def changed(self, given: Mapping[str, Any], where: str = "thresholds") -> Thresholds:
        """A copy with some attributes changed; `where` names their origin in messages."""
        if not isinstance(given, Mapping):
            raise ValueError(f"{where}: expected names and limits, received {type(given).__name__}")
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        new: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"{where}: {name!r} is not a limit; expected some of {', '.join(known)}")
            if isinstance(known[name], Limit):
                new[name] = _limit(where, name, value)
            elif isinstance(known[name], int):
                new[name] = _whole(where, name, value)
            else:
                new[name] = _number(where, name, value)
        return replace(self, **new)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON; an infinite limit is None."""
        values = asdict(self)
        for name, value in values.items():
            if isinstance(value, Limit):
                values[name] = {key: _plain(number) for key, number in value._asdict().items()}
        return values


def _limit(where: str, name: str, value: Any) -> Limit:
    if not isinstance(value, Mapping) or set(value) != {"warn", "fail"}:
        raise ValueError(f"{where}: {name}: expected {{warn: number, fail: number}}, received {value!r}")
    warn, fail = (float("inf") if value[key] is None else _number(where, name, value[key]) for key in ("warn", "fail"))
    if not warn <= fail:
        raise ValueError(f"{where}: {name}: expected warn at most fail, received {warn:g} and {fail:g}")
    return Limit(warn, fail)


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value < 0:
        raise ValueError(f"{where}: {name}: expected a number of at least 0, received {value!r}")
    return value


def _whole(where: str, name: str, value: Any) -> int:
    number = _number(where, name, value)
    if number != int(number) or number < 1:
        raise ValueError(f"{where}: {name}: expected a whole number of at least 1, received {value!r}")
    return int(number)


def _plain(number: float) -> float | None:
    return None if number == float("inf") else number
