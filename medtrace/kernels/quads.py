"""Vectors of four numbers inside compiled loops: a cell's corners, each a whole vector, are read and written at once.

A field as (voxels, 4), the three components and a zero beside each other, is read at a position by eight loads
instead of twenty-four. numba has no such loads of its own.
"""

# ruff: noqa: ARG001 - numba passes the types of all arguments, of which the signature needs some

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

FLAGS = ("contract",)


class Lanes:
    """Writes the instructions that read and write vectors of some numbers of one array's type."""

    def __init__(self, context: Any, builder: Any, kind: Any, count: int) -> None:
        self.context = context
        self.builder = builder
        self.vector = ir.VectorType(context.get_data_type(kind.dtype), count)

    def place(self, kind: Any, array: Any, index: Any) -> Any:
        """Pointer to the numbers of an array from `index`."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.bitcast(self.builder.gep(data, [index]), self.vector.as_pointer())

    def load(self, place: Any) -> Any:
        """The numbers at a place."""
        value = self.builder.load(place)
        value.align = 4  # numbers of either type are aligned to this at least
        return value

    def store(self, value: Any, place: Any) -> None:
        """Write the numbers to a place."""
        self.builder.store(value, place).align = 4


class Quads(Lanes):
    """Writes the instructions for vectors of four numbers of one array's type."""

    def __init__(self, context: Any, builder: Any, kind: Any) -> None:
        super().__init__(context, builder, kind, 4)

    def repeat(self, number: Any) -> Any:
        """A vector of four times one number."""
        nothing = ir.Constant(self.vector, ir.Undefined)
        index = ir.IntType(32)
        first = self.builder.insert_element(nothing, number, ir.Constant(index, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(index, 4), [0] * 4))

    def mix(self, pair: tuple[Any, Any], weights: tuple[Any, Any]) -> Any:
        """pair[0] · weights[0] + pair[1] · weights[1]."""
        parts = [self.builder.fmul(value, weight, flags=FLAGS) for value, weight in zip(pair, weights)]
        return self.builder.fadd(*parts, flags=FLAGS)

    def minus(self, value: Any, other: Any) -> Any:
        """value − other."""
        return self.builder.fsub(value, other, flags=FLAGS)

    def shares(self, weight: Any) -> tuple[Any, Any]:
        """(1 − weight, weight), each four times."""
        one = ir.Constant(weight.type, 1.0)
        return self.repeat(self.builder.fsub(one, weight, flags=FLAGS)), self.repeat(weight)

    def corners(self, kind: Any, array: Any, cell: Any, steps: Any) -> list[Any]:
        """The vectors at the eight corners of a cell, the last axis fastest."""
        values = []
        for corner in range(8):
            index = cell
            for axis in range(3):
                if corner >> (2 - axis) & 1:
                    index = self.builder.add(index, steps[axis])
            values.append(self.load(self.place(kind, array, index)))
        return values


def _halved(quads: Quads, values: list[Any], weights: tuple[Any, Any]) -> list[Any]:
    """Mix along the last axis: neighbours in the list become one."""
    return [quads.mix((a, b), weights) for a, b in zip(values[::2], values[1::2])]


def _signature(flat: Any, out: Any) -> Any:
    index, number = types.uint64, flat.dtype
    return types.void(flat, index, index, index, index, number, number, number, out, index)


@intrinsic
def read_cell(
    typing: Any,
    flat: Any,
    cell: Any,
    dx: Any,
    dy: Any,
    dz: Any,
    wx: Any,
    wy: Any,
    wz: Any,
    out: Any,
    at: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Write the four numbers interpolated in a cell to out[at : at + 4].

    Args:
        typing: numba's.
        flat: the field's numbers, (4 · voxels,).
        cell: index of the first number at the cell's lowest corner, uint64.
        dx, dy, dz: steps to the next corner along each axis, uint64.
        wx, wy, wz: weights of the upper corners, in the field's type.
        out: array of one axis.
        at: where to write, uint64.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        flat, cell, *steps_and_weights, out, at = given
        quads = Quads(context, builder, signature.args[0])
        values = quads.corners(signature.args[0], flat, cell, steps_and_weights[:3])
        for weight in reversed(steps_and_weights[3:]):
            values = _halved(quads, values, quads.shares(weight))
        quads.store(values[0], quads.place(signature.args[8], out, at))
        return context.get_dummy_value()

    return _signature(flat, out), generate


@intrinsic
def slopes_of_cell(
    typing: Any,
    flat: Any,
    cell: Any,
    dx: Any,
    dy: Any,
    dz: Any,
    wx: Any,
    wy: Any,
    wz: Any,
    out: Any,
    at: Any,
) -> tuple[Any, Callable[..., Any]]:
    """Write the derivatives by x, y and z of the four numbers interpolated in a cell to out[at : at + 12].

    The arguments are those of `read_cell`.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        flat, cell, *steps_and_weights, out, at = given
        quads = Quads(context, builder, signature.args[0])
        corners = quads.corners(signature.args[0], flat, cell, steps_and_weights[:3])
        x, y, z = (quads.shares(weight) for weight in steps_and_weights[3:])
        lines = _halved(quads, corners, z)
        near, far = _halved(quads, lines, y)
        along_y = quads.mix((quads.minus(lines[1], lines[0]), quads.minus(lines[3], lines[2])), x)
        rises = [quads.minus(b, a) for a, b in zip(corners[::2], corners[1::2])]
        along_z = quads.mix(tuple(_halved(quads, rises, y)), x)  # type: ignore[arg-type]
        for number, slope in enumerate((quads.minus(far, near), along_y, along_z)):
            index = builder.add(at, ir.Constant(at.type, 4 * number))
            quads.store(slope, quads.place(signature.args[8], out, index))
        return context.get_dummy_value()

    return _signature(flat, out), generate


@intrinsic
def add_to_face(
    typing: Any, flat: Any, face: Any, dy: Any, dz: Any, wx: Any, wy: Any, wz: Any, given: Any, at: Any
) -> tuple[Any, Callable[..., Any]]:
    """Add the numbers given[at : at + 4] times the weights to the four corners of a cell's face across x.

    Args:
        typing: numba's.
        flat: the numbers to add to, (4 · voxels,).
        face: index of the first number at the face's lowest corner, uint64.
        dy, dz: steps to the next corner along each axis, uint64.
        wx: weight of the face.
        wy, wz: weights of its upper corners.
        given: array of one axis.
        at: where to read, uint64.
    """
    index, number = types.uint64, flat.dtype
    signature = types.void(flat, index, index, index, number, number, number, given, index)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        flat, face, dy, dz, wx, wy, wz, given, at = arguments
        quads = Quads(context, builder, signature.args[0])
        value = quads.load(quads.place(signature.args[7], given, at))
        value = builder.fmul(value, quads.repeat(wx), flags=FLAGS)
        for y_corner, y_weight in enumerate(quads.shares(wy)):
            part = builder.fmul(value, y_weight, flags=FLAGS)
            start = builder.add(face, dy) if y_corner else face
            for z_corner, z_weight in enumerate(quads.shares(wz)):
                place = quads.place(signature.args[0], flat, builder.add(start, dz) if z_corner else start)
                share = builder.fmul(part, z_weight, flags=FLAGS)
                quads.store(builder.fadd(quads.load(place), share, flags=FLAGS), place)
        return context.get_dummy_value()

    return signature, generate
