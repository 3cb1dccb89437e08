"""Tracers of an evaluation's batches: methods in evaluation mode, and their controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from medtrace.engines.evaluator import to_device
from medtrace.evaluation.scoring import Tracer, as_channels
from medtrace.fields import invert, warp
from medtrace.methods.base import Batch, Method
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of
from medtrace.trace.validation import as_tensor


def tracer_of(method: Method) -> Tracer:
    """Trace batches with a method in evaluation mode, results on the CPU."""
    return _on_cpu(method, lambda batch: method.trace(batch))


def registrar_of(method: Method) -> Tracer:
    """Register the pairs of batches, "source" to "target", in evaluation mode, results on the CPU."""
    return _on_cpu(method, lambda batch: method.trace_pair(batch["source"], batch["target"]))


def _on_cpu(method: Method, tracer: Tracer) -> Tracer:
    device = next(method.parameters()).device

    def trace(batch: Mapping[str, Any]) -> list[Trace]:
        method.eval()
        return [trace.to("cpu") for trace in tracer(to_device(batch, device))]

    return trace


def identity(batch: Mapping[str, Any]) -> list[Trace]:
    """The control that changes nothing: the image is the source and the field is zero."""
    return field_control(batch, torch.zeros_like)


def oracle(batch: Mapping[str, Any]) -> list[Trace]:
    """The source warped by the best field that a method could know (`oracle_ddf` of TraceBench)."""
    return field_control(batch, lambda _: batch["oracle_ddf"])


def field_control(batch: Mapping[str, Any], field: Any) -> list[Trace]:
    """A control whose image is the source warped by a field given for the whole batch.

    Where the target has other channels, the image is the first contrast that the case has.
    """
    source = as_tensor(batch["source"])
    wanted = batch["target"].shape[1] if "target" in batch else source.shape[1]
    ddf = as_tensor(field(source.new_zeros(len(source), source.ndim - 2, *source.shape[2:]))).to(source)
    return traces_of(batch["source"], Prediction(as_channels(warp(source, ddf), wanted), ddf, invert(ddf).ddf))


class TracerMethod(Method):
    """A tracer as a method without weights, so that a scan can be taken through it as through a network.

    Args:
        tracer: gives one trace per item of a batch.
        channels: channels of the images that it makes.
    """

    title = "Control"

    def __init__(self, tracer: Tracer, channels: int) -> None:
        super().__init__()
        self.phases = ()
        self.tracer, self.channels = tracer, channels

    def trace(self, batch: Batch) -> list[Trace]:
        """Trace a batch, which needs no target: where the tracer asks for its channels, they are `channels`."""
        source = as_tensor(batch["source"])
        return list(self.tracer({"target": source.new_empty(0, self.channels), **batch}))
