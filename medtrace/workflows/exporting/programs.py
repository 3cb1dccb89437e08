"""A method's translation as a program with one input and two output tensors, in three formats, and running these
programs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from medtrace.kernels.choice import use
from medtrace.methods.base import Method

FORMATS = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}
"""Name of a format → the ending of its files."""
INPUT, OUTPUTS = "source", ("image", "ddf")
FACTS = "medtrace.json"
"""Under this name a program carries its facts: an entry of ONNX's metadata, a file within the archives of torch."""
OPSET = 20
"""ONNX opset: the first that samples volumes at displaced points."""
_SMALLEST = 8

Program = Callable[[Tensor], tuple[Tensor, Tensor]]


class Translation(nn.Module):
    """A method's `predict` as a network: (B, C, *spatial) in, image and displacement out.

    Example:
        >>> from medtrace.methods import method_class, resolve
        >>> kind = method_class("unet")
        >>> method = kind.build(resolve(kind.settings_type, overrides={"channels": (4, 8)})).eval()
        >>> [tuple(value.shape) for value in Translation(method)(torch.zeros(1, 1, 16, 16))]
        [(1, 1, 16, 16), (1, 2, 16, 16)]
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Translate."""
        prediction = self.method.predict({INPUT: source})
        return prediction.image, prediction.ddf

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Its tensors: what else a method keeps for its training, such as pools of images, ONNX's exporter refuses."""
        states: dict[str, Any] = super().state_dict(*args, **kwargs)
        for name in [name for name, value in states.items() if not isinstance(value, Tensor)]:
            del states[name]  # in place, as this may be a part of another module's
        return states


def encode(method: Method, format: str, example: Tensor, fixed: bool, facts: str) -> bytes:
    """The program as the content of a file.

    Args:
        method: in evaluation mode, on the CPU; see `fix_weights`.
        format: a key of `FORMATS`.
        example: (1, C, *spatial) in [-1, 1], what it is traced with.
        fixed: whether it accepts only that size.
        facts: JSON that it carries under `FACTS`.

    Raises:
        ModuleNotFoundError: if the format is "onnx" and the package of that name is missing.
    """
    make = {"onnx": _onnx, "torchscript": _torchscript, "pt2": _pt2}[format]
    with use("torch"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the tracer, on branches by shape: see the check below
        return make(Translation(method).eval(), example, fixed, facts)


def decode(content: bytes, format: str) -> Program | None:
    """The program of a file, ready to run; None if the runtime of its format is not installed."""
    stream = io.BytesIO(content)
    if format == "torchscript":
        program: Program = torch.jit.load(stream, map_location="cpu")
        return program
    if format == "pt2":
        module: Program = torch.export.load(stream).module()
        return module
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(source: Tensor) -> tuple[Tensor, Tensor]:
        image, ddf = session.run(list(OUTPUTS), {INPUT: source.numpy()})
        return torch.from_numpy(image), torch.from_numpy(ddf)

    return run


def fix_weights(method: Method) -> None:
    """Fix weights that are recomputed at every pass, such as those of spectral normalization, which ONNX does not
    support.

    Args:
        method: changed in place; copies share its classes and lose their weights.
    """
    for module in list(method.modules()):
        if is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(module, name, leave_parametrized=True)


def _torchscript(network: nn.Module, example: Tensor, fixed: bool, facts: str) -> bytes:  # noqa: ARG001 - takes any size
    stream = io.BytesIO()
    # A traced program takes any size by itself, as no number in it is computed from a size.
    program = torch.jit.trace(network, example, check_trace=False)
    torch.jit.save(program, stream, _extra_files={FACTS: facts})
    return stream.getvalue()


def _pt2(network: nn.Module, example: Tensor, fixed: bool, facts: str) -> bytes:
    axes = {axis: torch.export.Dim(f"size_{axis}", min=_SMALLEST, max=1 << 15) for axis in range(2, example.ndim)}
    program = torch.export.export(
        network,
        (example,),
        dynamic_shapes=None if fixed else (axes,),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={FACTS: facts})
    return stream.getvalue()


def _onnx(network: nn.Module, example: Tensor, fixed: bool, facts: str) -> bytes:
    if find_spec("onnx") is None:
        raise ModuleNotFoundError("format: 'onnx' needs the package onnx, found none; pip install 'medtrace[onnx]'")
    import onnx

    axes: Mapping[int, str] = {0: "batch", **{axis: f"size_{axis}" for axis in range(2, example.ndim)}}
    stream = io.BytesIO()
    settings: dict[str, Any] = {} if fixed else {"dynamic_axes": dict.fromkeys((INPUT, *OUTPUTS), axes)}
    # The exporter based on tracing: the one based on torch.export fixes the batch and takes 30 times as long.
    export: Any = torch.onnx.export  # its types name no streams for this exporter
    export(
        network,
        (example,),
        stream,
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        **settings,
    )
    model = onnx.load_from_string(stream.getvalue())
    model.metadata_props.add(key=FACTS, value=facts)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def example_shapes(spatial_dims: int, size: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Sizes for tracing (the first) and for the check: the fixed one, or several that strides divide and do not.

    Example:
        >>> example_shapes(2, None), example_shapes(2, (96, 80))
        ([(75, 86), (64, 96), (33, 50)], [(96, 80)])
    """
    if size is not None:
        return [tuple(size)]
    if spatial_dims == 2:
        return [(75, 86), (64, 96), (33, 50)]
    return [(35, 41, 38), (32, 32, 48), (17, 34, 25)]
