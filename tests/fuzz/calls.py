"""Calls of public functions: right arguments, the same with one of them corrupted, and what has to come of each.

A call with right arguments is answered. One with a corrupted argument (another kind, type, shape or number) is answered
too, or refused with a TypeError or ValueError that names an argument. An answer has the shape, type and range that its
law says; it is finite where the arguments are finite numbers of common size; and no call changes its arguments.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor

Draw = Callable[[st.SearchStrategy[Any]], Any]
Given = dict[str, Any]
FLOATS = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS[1:], torch.int64, torch.uint8, torch.bool, torch.complex64)
FILLS = ("normal", "unit", "constant", "zero", "tiny")
ODD = (None, 3, 1.5, -1, 0, "image", [[0.0]], [], (), {}, True, math.nan, math.inf, -math.inf, object(), 1 + 1j)


class Case(NamedTuple):
    """A public function and what it takes and gives.

    Attributes:
        call: the function, with keyword arguments.
        arguments: draws right arguments.
        law: asserts what holds of an answer, given the arguments.
        also: names beside the arguments' own that a message may begin with.
        undefined: whether NaN or infinity is a right answer to finite arguments.
        errors: documented errors beside TypeError and ValueError.
    """

    call: Callable[..., Any]
    arguments: Callable[[Draw], Given]
    law: Callable[[Any, Given], None]
    also: tuple[str, ...] = ()
    undefined: bool = False
    errors: tuple[type[Exception], ...] = ()


@st.composite
def calls(draw: Draw, case: Case) -> tuple[Given, bool]:
    """Arguments of a call, and whether one of them was corrupted."""
    given = case.arguments(draw)
    names = sorted(name for name in given if name != "seed")
    if not names or draw(st.integers(0, 2)) == 0:
        return given, False
    name = draw(st.sampled_from(names))
    return {**given, name: corrupted(draw, given[name])}, True


def corrupted(draw: Draw, value: Any) -> Any:
    """Something else in the place of an argument."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(value, key=str)))
        return {**value, name: corrupted(draw, value[name])}
    if isinstance(value, (list, tuple)) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        other = [*value]
        other[place : place + 1] = draw(st.sampled_from([[], [value[place]] * 2, [corrupted(draw, value[place])]]))
        return type(value)(other) if type(value) in (list, tuple) else other
    if not isinstance(value, torch.Tensor) or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(ODD))
    if isinstance(value, MetaTensor) and draw(st.integers(0, 2)) == 0:
        return _another_affine(draw, value)
    return draw(st.sampled_from([_another_type, _another_shape, _other_numbers]))(draw, value)


def _another_affine(draw: Draw, value: MetaTensor) -> MetaTensor:
    flat, lost = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0])), torch.full((4, 4), math.nan)
    wrong = [flat, lost, torch.zeros(4, 4), torch.full((4, 4), 1e300, dtype=torch.float64), torch.eye(3), torch.eye(2)]
    return MetaTensor(value.as_tensor().clone(), affine=draw(st.sampled_from(wrong)))


def _another_type(draw: Draw, value: torch.Tensor) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    return value.real.to(dtype) if value.is_complex() else value.nan_to_num(0, 1, -1).to(dtype)


def _another_shape(draw: Draw, value: torch.Tensor) -> torch.Tensor:
    if value.ndim == 0 or draw(st.integers(0, 3)) == 0:
        return value.unsqueeze(draw(st.integers(0, value.ndim)))
    axis = draw(st.integers(0, value.ndim - 1))
    how = draw(st.sampled_from(["drop", "empty", "double", "one more", "one less"]))
    if how == "drop" and value.shape[axis] > 0:
        return value.select(axis, 0)
    count = {"double": 2 * value.shape[axis], "one more": value.shape[axis] + 1, "one less": value.shape[axis] - 1}
    wanted = max(0, count.get(how, 0))
    return torch.cat([value, value], axis).narrow(axis, 0, min(wanted, 2 * value.shape[axis])).clone()


def _other_numbers(draw: Draw, value: torch.Tensor) -> torch.Tensor:
    number = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-40, -1.0, 7.0, 0.0]))
    where = torch.rand(tuple(value.shape), generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) < 0.3
    if draw(st.booleans()):
        where = torch.ones_like(where)
    if value.is_complex():
        return value.masked_fill(where, number)
    if not value.is_floating_point():
        number = float(np.clip(0 if math.isnan(number) else number, -100, 100))
    return value.detach().double().masked_fill(where, number).to(value.dtype)


def assess(case: Case, given: Given, is_corrupted: bool) -> bool:
    """Make a call and check what came of it; whether it was answered."""
    before = {name: _copied(value) for name, value in given.items()}
    try:
        answer = case.call(**given)
    except case.errors:
        assert is_corrupted
        return False
    except (TypeError, ValueError) as error:
        if not is_corrupted:
            raise
        _check_names(str(error), {*given, *case.also})
        return False
    finally:
        for name, value in given.items():
            assert same(before[name], value), f"{name} was changed"
    case.law(answer, given)
    if not case.undefined and all(tame(value) for value in given.values()):
        assert all(bool(torch.isfinite(torch.as_tensor(part)).all()) for part in numbers(answer)), "not finite"
    return True


def _check_names(message: str, names: set[str]) -> None:
    """Before its colon a message has the name of an argument."""
    head, colon, _ = message.partition(": ")
    named = set(re.findall(r"\w+", head)) & names
    assert colon, f"has no name before a colon: {message}"
    assert named, f"does not name any of {sorted(names)}: {message}"


def numbers(value: Any) -> list[Any]:
    """The floating tensors and numbers of an answer or argument."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() or value.is_complex() else []
    if isinstance(value, np.ndarray):
        return [value] if value.dtype.kind in "fc" else []
    if isinstance(value, float):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [part for one in value for part in numbers(one)] if isinstance(value, (list, tuple)) else []


def tame(value: Any) -> bool:
    """Whether numbers are finite and of common size."""
    return all(bool((torch.as_tensor(part).abs() < 1e3).all()) for part in numbers(value))


def same(first: Any, second: Any) -> bool:
    """Whether two values are the same, bit for bit, NaN being itself."""
    if isinstance(first, torch.Tensor):
        kept = type(first) is type(second) and (first.shape, first.dtype) == (second.shape, second.dtype)
        if isinstance(first, MetaTensor):
            kept = kept and same(first.affine, second.affine) and first.applied_operations == second.applied_operations
            return kept and same(first.as_tensor(), second.as_tensor())
        return kept and bool(torch.isclose(first, second, rtol=0, atol=0, equal_nan=True).all())
    if isinstance(first, np.ndarray):
        return isinstance(second, np.ndarray) and np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
    if isinstance(first, Mapping):
        return list(first) == list(second) and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first is second or first == second or first != first


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def filled(shape: tuple[int, ...], dtype: torch.dtype, fill: str, seed: int) -> torch.Tensor:
    """A tensor of numbers of one sort."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = {
        "normal": values,
        "unit": values.sigmoid(),
        "constant": torch.full_like(values, 0.5),
        "zero": torch.zeros_like(values),
        "tiny": values * 1e-30,
    }[fill]
    return values.to(dtype)


def tensor(draw: Draw, shape: tuple[int, ...], fills: tuple[str, ...] = FILLS, dtypes: Any = FLOATS) -> torch.Tensor:
    """A floating tensor of a shape, laid out in one way or another."""
    values = filled(shape, draw(st.sampled_from(dtypes)), draw(st.sampled_from(fills)), draw(st.integers(0, 999)))
    how = draw(st.sampled_from(["plain", "plain", "reversed memory", "gradient", "read with a stride"]))
    if how == "reversed memory" and values.ndim > 1:
        return values.permute(*reversed(range(values.ndim))).contiguous().permute(*reversed(range(values.ndim)))
    if how == "read with a stride":
        return torch.stack([values, values], -1)[..., 0]
    return values.requires_grad_() if how == "gradient" else values


def sizes(draw: Draw, dims: int | None = None, minimum: int = 1, most: int = 9) -> tuple[int, ...]:
    """A spatial shape, 2D or 3D; axes may be of length 1."""
    axes = dims or draw(st.sampled_from([2, 3]))
    return tuple(draw(st.integers(minimum, most if axes == 2 else max(minimum, most - 2))) for _ in range(axes))


def batch(draw: Draw, channels: int | None = None, **limits: Any) -> tuple[int, ...]:
    """The shape (B, C, *spatial) of a batch of images."""
    count = channels or draw(st.integers(1, 3))
    return (draw(st.integers(1, 2)), count, *sizes(draw, **limits))


def field_shape(draw: Draw, **limits: Any) -> tuple[int, ...]:
    """The shape (B, spatial_dims, *spatial) of a batch of fields."""
    space = sizes(draw, **limits)
    return (draw(st.integers(1, 2)), len(space), *space)


def affine(draw: Draw, count: int | None = None) -> torch.Tensor:
    """(4, 4), or with a count also (count, 4, 4), voxel to mm: turned, stretched, flipped and shifted."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.from_numpy(turn * random.uniform(0.3, 4, 3) * random.choice([-1, 1], 3))
    matrix[:3, 3] = torch.from_numpy(random.uniform(-200, 200, 3))
    matrix = matrix.to(draw(st.sampled_from([torch.float64, torch.float64, torch.float32])))
    return matrix if count is None or draw(st.booleans()) else matrix.expand(count, 4, 4)


def mask(draw: Draw, shape: tuple[int, ...]) -> torch.Tensor | None:
    """No mask, or one (B, 1, *spatial) with a voxel in every item: boolean or of weights."""
    kind = draw(st.sampled_from(["none", "none", "bool", "weights"]))
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    values = torch.rand((shape[0], 1, *shape[2:]), generator=generator)
    values[values < 0.4] = 0
    values[(slice(None), 0, *(size // 2 for size in shape[2:]))] = 0.7
    return values > 0 if kind == "bool" else values


def computed_type(*tensors: Any) -> torch.dtype:
    """float64 where one of the tensors is, else float32."""
    return torch.float64 if any(getattr(one, "dtype", None) == torch.float64 for one in tensors) else torch.float32


def check(
    value: Any, shape: tuple[int, ...], dtype: torch.dtype, low: float = -math.inf, high: float = math.inf
) -> None:
    """Assert a tensor's shape and type, and that no number of it is out of range."""
    assert isinstance(value, torch.Tensor), type(value)
    assert tuple(value.shape) == tuple(shape), f"{tuple(value.shape)} instead of {tuple(shape)}"
    assert value.dtype == dtype, value.dtype
    if dtype != torch.bool:
        assert not bool(((value < low) | (value > high)).any()), f"{value} outside of [{low}, {high}]"
