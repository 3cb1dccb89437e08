"""Two neighbours of an image's line as one vector inside compiled loops: half as many reads and writes."""

# ruff: noqa: ARG001 - numba passes the types of all arguments, of which the signature needs some

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from medtrace.kernels.quads import Lanes


@intrinsic
def copy_pair(typing: Any, flat: Any, cell: Any, out: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    """Write flat[cell : cell + 2] to out[at : at + 2].

    Args:
        typing: numba's.
        flat: array of one axis.
        cell: index, uint64.
        out: array of one axis, of its type.
        at: index, uint64.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes = Lanes(context, builder, signature.args[0], 2)
        pair = lanes.load(lanes.place(signature.args[0], given[0], given[1]))
        lanes.store(pair, lanes.place(signature.args[2], given[2], given[3]))
        return context.get_dummy_value()

    return types.void(flat, types.uint64, out, types.uint64), generate


@intrinsic
def add_pair(typing: Any, flat: Any, cell: Any, given: Any, at: Any) -> tuple[Any, Callable[..., Any]]:
    """Add given[at : at + 2] to flat[cell : cell + 2]; the arguments are those of `copy_pair`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = Lanes(context, builder, signature.args[0], 2)
        place = lanes.place(signature.args[0], arguments[0], arguments[1])
        pair = lanes.load(lanes.place(signature.args[2], arguments[2], arguments[3]))
        lanes.store(builder.fadd(lanes.load(place), pair), place)
        return context.get_dummy_value()

    return types.void(flat, types.uint64, given, types.uint64), generate


@intrinsic
def prefetch(typing: Any, flat: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Ask the processor to have flat[index] at hand soon; an index outside of the array does no harm.

    Args:
        typing: numba's.
        flat: array of one axis.
        index: uint64.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lanes = Lanes(context, builder, signature.args[0], 1)
        place = builder.bitcast(lanes.place(signature.args[0], given[0], given[1]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
        builder.call(function, [place, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(flat, types.uint64), generate
