"""The evaluator: traces every batch and hands the parts to metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator as MonaiEvaluator
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from medtrace.methods.base import Method


class Evaluator(MonaiEvaluator):
    """Trace each batch of a loader with any `Method`.

    `engine.state.output` holds "image" (the source), "label" (the target, where the batch has one), "pred" (the
    translated image), "warped", "ddf" and "inverse_ddf", batched, and "traces"; MONAI's metric handlers read them
    through `from_engine(["pred", "label"])`.

    Args:
        device: device of the method, to which batches are moved.
        val_data_loader: loader of dict batches.
        method: the method.
        val_handlers: MONAI or ignite handlers.
        key_val_metric, additional_metrics, postprocessing, epoch_length: as in MONAI's `Evaluator`.
        amp: run forward passes under autocast on the device.
        amp_kwargs: arguments of `torch.autocast`.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Iterable,
        method: Method,
        val_handlers: Sequence | None = None,
        key_val_metric: dict | None = None,
        amp: bool = False,
        amp_kwargs: dict | None = None,
        **workflow: Any,
    ) -> None:
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            val_handlers=[_OnlyRaise(), *(val_handlers or ())],
            key_val_metric=key_val_metric,
            amp=amp,
            amp_kwargs=amp_kwargs,
            decollate=False,
            **workflow,
        )
        self.method = method

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        batch = to_device(batchdata, self.state.device, self.non_blocking)
        with self.mode(self.method), torch.autocast(self.state.device.type, enabled=self.amp, **self.amp_kwargs):
            traces = self.method.trace(batch)
        engine.state.output = {
            Keys.IMAGE: batch["source"],
            Keys.PRED: torch.stack([trace.image for trace in traces]),
            "warped": torch.stack([trace.warped for trace in traces]),
            "ddf": torch.stack([trace.ddf for trace in traces]),
            "inverse_ddf": torch.stack([trace.inverse_ddf for trace in traces]),
            "traces": traces,
        }
        if "target" in batch:
            engine.state.output[Keys.LABEL] = batch["target"]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


class _OnlyRaise:
    """Hands errors and interruptions on before MONAI's `StatsHandler` prints a traceback: the caller reports them."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raise)

    def _raise(self, engine: Engine, error: BaseException) -> None:
        raise error


def to_device(batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False) -> dict[str, Any]:
    """Move the tensors of a batch; leave the rest."""
    return {
        key: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
