"""A training's history in a tracking tool beside the run folder: TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ignite.engine import Events

from medtrace.checks import check_choice
from medtrace.engines.trainer import Trainer
from medtrace.guard.notices import notify

PROJECT = "medtrace"
TOOLS = ("auto", "tensorboard", "mlflow", "wandb")
"""A tool is named as its module; "auto" is TensorBoard where it is installed."""
_LACKING = (
    "is not installed, so training writes no event files; history.csv, samples/ and run.html hold the same"
    " (pip install 'medtrace[tracking]')"
)


class Tracking:
    """Send every epoch's row of the history, and the settings once, to a tracking tool.

    MLflow writes to `mlflow.db` in the run folder, or to where the environment variable MLFLOW_TRACKING_URI points.
    W&B works offline, in `wandb/` in the run folder (`wandb sync` uploads it), unless WANDB_MODE says otherwise:
    nothing leaves the machine unasked. Attach it after `LossHistory`.

    Args:
        tool: "auto" and "tensorboard" add nothing, as `TensorBoardStatsHandler` writes TensorBoard's files wherever it
            is installed (`writes_tensorboard`); with "auto" a training runs without it otherwise.
        run: the run folder, whose name identifies the training in the tool.
        settings: settings of the training, for the tool's table of parameters.

    Raises:
        ValueError: if the tool is unknown, or is not installed.

    Warns:
        Notice: with "auto" if TensorBoard is not installed; it names the extra.
    """

    def __init__(
        self,
        tool: Literal["auto", "tensorboard", "mlflow", "wandb"],
        run: str | os.PathLike,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("tool", tool, TOOLS)
        self.tool = tool
        self.run = Path(run)
        self.settings = dict(settings or {})
        self._logged: Any = None
        if tool != "auto":
            _check_installed(tool)
        elif not writes_tensorboard():
            notify("tensorboard", _LACKING)

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        if self.tool == "mlflow":
            self._mlflow(engine)
        elif self.tool == "wandb":
            engine.when_ready.append(self._begin_wandb)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell_wandb)

    def _mlflow(self, engine: Trainer) -> None:
        from monai.handlers import MLFlowHandler
        from monai.utils import path_to_sqlite_uri

        uri = os.environ.get("MLFLOW_TRACKING_URI") or path_to_sqlite_uri(self.run.absolute() / "mlflow.db")
        MLFlowHandler(
            tracking_uri=uri,
            experiment_name=PROJECT,
            run_name=self.run.absolute().name,
            iteration_log=False,
            experiment_param=flat(self.settings),
            close_on_complete=True,
        ).attach(engine)

    def _begin_wandb(self, engine: Trainer) -> None:
        import wandb

        self._logged = wandb.init(
            project=PROJECT,
            name=self.run.absolute().name,
            dir=str(self.run),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=self.settings,
            resume="allow",
        )
        engine.while_running.push(self._end_wandb)

    def _end_wandb(self, kind: type[BaseException] | None, *_: object) -> None:
        self._logged.finish(exit_code=0 if kind is None else 1)

    def _tell_wandb(self, engine: Trainer) -> None:
        self._logged.log(dict(engine.state.metrics), step=engine.state.epoch)


def writes_tensorboard() -> bool:
    """Whether TensorBoard is installed, and its files are written beside every training's other records.

    Example:
        >>> import importlib.util
        >>> writes_tensorboard() == (importlib.util.find_spec("tensorboard") is not None)
        True
    """
    return importlib.util.find_spec("tensorboard") is not None


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted name of a setting → its value as text.

    Example:
        >>> flat({"alpha": 0.5, "training": {"seed": 0, "compile": False}})
        {'alpha': '0.5', 'training.seed': '0', 'training.compile': 'false'}
    """
    texts: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{name}.")
        else:
            texts[f"{prefix}{name}"] = json.dumps(value)
    return texts


def _check_installed(tool: str) -> None:
    try:
        importlib.import_module(tool)
    except ImportError as error:
        raise ValueError(
            f"training.tracking: expected an installed tool, received {tool} ({error}); install it with"
            " `pip install medtrace[tracking]`, or leave tracking at auto"
        ) from error
