"""Cases of `medtrace.fields`."""

from typing import Any

import torch
from hypothesis import strategies as st

from medtrace import fields
from tests.fuzz.calls import FLOATS, Case, Draw, Given, affine, batch, check, computed_type, field_shape, sizes, tensor

EXEMPT = {"InversionResult": "a NamedTuple that `invert` fills"}


def one_field(name: str) -> Any:
    return lambda draw: {name: tensor(draw, field_shape(draw))}


def two_fields(first: str, second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = field_shape(draw)
        return {first: tensor(draw, shape), second: tensor(draw, shape)}

    return arguments


def _grid(draw: Draw) -> Given:
    return {"shape": sizes(draw), "dtype": draw(st.sampled_from(FLOATS))}


def _matrix(draw: Draw) -> Given:
    shape = sizes(draw)
    matrix = torch.eye(len(shape) + 1, dtype=draw(st.sampled_from([torch.float64, torch.float32])))
    matrix[:-1] += tensor(draw, (len(shape), len(shape) + 1), ("normal", "zero"), [matrix.dtype]).detach()
    return {"matrix": matrix, "shape": shape, "dtype": draw(st.sampled_from(FLOATS))}


def _rigid(draw: Draw) -> Given:
    shape = sizes(draw)
    number = st.floats(-90, 90)
    angles = draw(number) if len(shape) == 2 else [draw(number) for _ in range(3)]
    spacing = draw(st.sampled_from([None, [0.5, 2.0, 1.0][: len(shape)]]))
    translation = [draw(number) for _ in shape]
    return {
        "angles_degrees": angles,
        "translation_voxels": draw(st.sampled_from([translation, tuple(translation), torch.tensor(translation)])),
        "scale": draw(st.floats(0.1, 10)),
        "shape": shape,
        "spacing": spacing,
    }


def _rigid_law(answer: Any, given: Given) -> None:
    size = len(given["shape"]) + 1
    check(answer, (size, size), torch.float64)
    assert answer[-1].tolist() == [0.0] * (size - 1) + [1.0]


def _inverted(draw: Draw) -> Given:
    shape = field_shape(draw)
    count = draw(st.integers(1, 5))
    points = draw(st.sampled_from([None, torch.rand(*shape[:2], count) * 8, torch.rand(*shape[:2], count, 2) * 8]))
    settings = {"iterations": draw(st.integers(1, 60)), "tolerance": draw(st.sampled_from([1e-6, 1e-3, 0.5]))}
    return {"ddf": tensor(draw, shape), "points": points, **settings}


def _inverted_law(answer: Any, given: Given) -> None:
    at = given["ddf"] if given["points"] is None else given["points"]
    check(answer.ddf, at.shape, computed_type(given["ddf"]))
    check(answer.residual, (len(given["ddf"]),), computed_type(given["ddf"]), 0)


def _points(draw: Draw) -> Given:
    space = sizes(draw)
    out = draw(st.sampled_from([(4,), (2, 3), (2, 2, 2), (1,)]))
    return {"coordinates": tensor(draw, (draw(st.integers(1, 2)), len(space), *out)), "shape": space}


def _read(second: str) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = batch(draw)
        mode = draw(st.sampled_from(["bilinear", "nearest"]))
        image = tensor(draw, shape)
        if mode == "nearest" and draw(st.booleans()):
            image = (image.detach() > 0).to(draw(st.sampled_from([torch.bool, torch.uint8, torch.int64])))
        out = shape[2:] if second == "ddf" else draw(st.sampled_from([(4,), (2, 3), (2, 2, 2)]))
        where = tensor(draw, (shape[0], len(shape) - 2, *out))
        padding = draw(st.sampled_from(["border", "zeros", "reflection"]))
        return {"image": image, second: where, "mode": mode, "padding_mode": padding}

    return arguments


def _read_law(second: str) -> Any:
    def law(answer: Any, given: Given) -> None:
        image, where = given["image"], given[second]
        dtype = computed_type(image, where) if image.is_floating_point() else image.dtype
        check(answer, (*image.shape[:2], *where.shape[2:]), dtype)

    return law


def _to_unit(name: str, channels: int | None) -> Any:
    def arguments(draw: Draw) -> Given:
        shape = field_shape(draw) if channels is None else batch(draw, channels)
        return {name: tensor(draw, shape), "affine": affine(draw, shape[0])}

    return arguments


def like(name: str, channels: int | None = None, low: float = -torch.inf, dtype: torch.dtype | None = None) -> Any:
    """The law of a map on an argument's grid."""

    def law(answer: Any, given: Given) -> None:
        tensors = [value for key, value in given.items() if key != "affine"]
        own = given[name].shape
        check(answer, (own[0], channels or own[1], *own[2:]), dtype or computed_type(*tensors), low)

    return law


def per_item(name: str, high: float = torch.inf) -> Any:
    """The law of a number of at least 0 for each batch item."""
    return lambda answer, given: check(answer, (len(given[name]),), computed_type(given[name]), 0, high)


CASES = {
    "affine_displacement": Case(
        fields.affine_displacement,
        _matrix,
        lambda answer, given: check(answer, (len(given["shape"]), *given["shape"]), given["dtype"]),
    ),
    "compose": Case(fields.compose, two_fields("outer", "inner"), like("inner")),
    "exponentiate": Case(
        fields.exponentiate,
        lambda draw: {**one_field("velocity")(draw), "steps": draw(st.integers(0, 8))},
        like("velocity"),
    ),
    "folded_voxels": Case(fields.folded_voxels, one_field("ddf"), like("ddf", 1, dtype=torch.bool)),
    "identity_grid": Case(
        fields.identity_grid,
        _grid,
        lambda answer, given: check(answer, (len(given["shape"]), *given["shape"]), given["dtype"], 0),
    ),
    "inside_grid": Case(
        fields.inside_grid,
        _points,
        lambda answer, given: check(
            answer, (len(given["coordinates"]), 1, *given["coordinates"].shape[2:]), torch.bool
        ),
    ),
    "inverse_consistency": Case(fields.inverse_consistency, two_fields("ddf", "inverse_ddf"), like("ddf", 1, 0)),
    "invert": Case(fields.invert, _inverted, _inverted_law),
    "jacobian_determinant": Case(fields.jacobian_determinant, one_field("ddf"), like("ddf", 1)),
    "mm_to_voxel": Case(
        fields.mm_to_voxel,
        _to_unit("ddf_mm", 3),
        lambda answer, given: like("ddf_mm", given["ddf_mm"].ndim - 2)(answer, given),
    ),
    "non_diffeomorphic_fraction": Case(fields.non_diffeomorphic_fraction, one_field("ddf"), per_item("ddf", 1)),
    "non_diffeomorphic_volume": Case(fields.non_diffeomorphic_volume, one_field("ddf"), per_item("ddf")),
    "rigid_scale_matrix": Case(fields.rigid_scale_matrix, _rigid, _rigid_law),
    "sample": Case(fields.sample, _read("coordinates"), _read_law("coordinates")),
    "voxel_to_mm": Case(fields.voxel_to_mm, _to_unit("ddf", None), like("ddf", 3)),
    "warp": Case(fields.warp, _read("ddf"), _read_law("ddf")),
}
