"""The run folder that a training leaves: data only, written and read back.

`run.json` names the method, the version and every resolved setting; `checkpoints/weights.safetensors` holds the
weights. Nothing in a run folder is executed: the method is rebuilt from the library.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from medtrace import __version__
from medtrace.engines.averaging import usable_states
from medtrace.engines.checkpoint_choice import run_states
from medtrace.engines.model_folder import CONFIG, RECORD, record_file
from medtrace.guard.method_size import EXTRA, check_shapes, check_size
from medtrace.methods import Method, MethodSettings, method_class, resolve
from medtrace.storage.files import atomic_write

FORMAT, VERSION = "medtrace run", 1
WEIGHTS = Path("checkpoints") / "weights.safetensors"
BEST = Path("checkpoints") / "best.safetensors"
"""The weights of the best validation, in the same format as `WEIGHTS`."""
PREPARATION = "preparation.json"
OLD_CONFIG = "config.yaml"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`.

    Attributes:
        method: the method's name.
        settings: every value, resolved, so that a later default does not change an old run.
        medtrace: the version that trained it.
        training_data: what it was trained on: the data set's name and, per case, subject and digests; for TraceBench
            nothing beyond the settings.
        started_from: the run whose weights it started from: folder, file, digest, version; empty if none.
    """

    method: str
    settings: MethodSettings
    medtrace: str = __version__
    training_data: Mapping[str, Any] = field(default_factory=dict)
    started_from: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "medtrace": self.medtrace,
            "method": self.method,
            "settings": self.settings.model_dump(mode="json"),
            "training_data": dict(self.training_data),
        }
        if self.started_from:
            content["started_from"] = dict(self.started_from)
        return content

    def write(self, run: Path) -> None:
        """Write `run.json` into a run folder."""
        atomic_write(run / RECORD, json.dumps(self.as_dict(), indent=1) + "\n")


def read_run(run: str | os.PathLike) -> RunRecord:
    """Read and check `run.json`, or the `config.json` of a folder made by `medtrace card`.

    Raises:
        FileNotFoundError: if the folder or the file is missing.
        ValueError: if it is not a record of this version, or its settings are invalid.
    """
    run = Path(run)
    path = record_file(run)
    if not path.is_file():
        if (run / OLD_CONFIG).is_file():
            raise ValueError(
                f"run: {run} was left by an early version, whose configuration could run code; train again"
            )
        missing = path if run.is_dir() else run
        raise FileNotFoundError(f"run: {missing} is missing; give the folder that `medtrace train --out` wrote")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected at most {_MAX_BYTES >> 20} MiB, received more; take an intact copy")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); take an intact copy") from error
    result = (content.get("format"), content.get("version")) if isinstance(content, dict) else None
    if result != (FORMAT, VERSION):
        if path.name == CONFIG and result == (None, None):
            raise ValueError(
                f"{path}: is not from a medtrace model; name a folder that `medtrace card` wrote, or a run"
            )
        raise ValueError(f"{path}: expected a run of version {VERSION}, received {result}; train again")
    name, settings = content.get("method"), content.get("settings")
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise ValueError(f"{path}: expected the entries method and settings; take an intact copy")
    try:
        checked = resolve(method_class(name).settings_type, start=settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    data, start = (
        value if isinstance(value := content.get(key), dict) else {} for key in ("training_data", "started_from")
    )
    return RunRecord(name, checked, str(content.get("medtrace")), data, start)


def load_method(
    run: str | os.PathLike,
    device: str | torch.device | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Method:
    """Build the method of a run and load its trained weights, or those that `using_checkpoint` chooses.

    Args:
        run: a folder written by `medtrace train`, or one that `medtrace card` made from it.
        device: where to put it; by default CUDA if available.
        sampling: sampling settings for this time, for a method that samples, such as {"steps": 10}.

    Returns:
        The method in evaluation mode.

    Raises:
        FileNotFoundError: if the folder, its record or its weights are missing.
        ValueError: if the weights do not fit the settings or are damaged, or the networks are too large.
    """
    run = Path(run)
    record = read_run(run)
    kind = method_class(record.method)
    weights, content = run_states(run, record.method, record.settings.training.max_epochs)
    states = usable_states(content)
    check_shapes(check_size(lambda: kind.build(record.settings), run / RECORD), states, weights)
    method = kind.build(record.settings)
    missing, unexpected = method.load_state_dict(states, strict=False)
    left_out = [name for name in missing if not name.endswith(EXTRA)]
    if left_out or unexpected:
        raise ValueError(
            f"run: {weights} holds no weights of these settings ({[*left_out, *unexpected][0]}); train again"
        )
    if sampling:
        method.set_sampling(sampling)
    return method.to(default_device(device)).eval()


def save_weights(method: Method, run: Path, name: Path = WEIGHTS, facts: Mapping[str, str] | None = None) -> None:
    """Write the tensors of a method's state dict as safetensors.

    Args:
        method: the method.
        run: the run folder.
        name: name of the file in it.
        facts: one metadata entry of the file, instead of what made the weights.
    """
    tensors = {
        f"method.{name}": value.detach().cpu().contiguous().clone()
        for name, value in method.state_dict().items()
        if isinstance(value, Tensor)
    }
    # One entry: safetensors writes several in random order.
    content = save(tensors, dict(facts or {"made_by": f"medtrace {__version__}, method {method.name}"}))
    atomic_write(run / name, content, make_parents=True)


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, or CUDA if there is one, or the CPU.

    Raises:
        ValueError: if there is no such device on this machine; the message lists those that exist.

    Example:
        >>> default_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    try:
        asked = torch.device(device)
    except RuntimeError:
        close = difflib.get_close_matches(str(device), [*there, "cuda"], 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"device: expected one of {', '.join(there)}, received {device!r}; {hint}Leave it out for the best one"
        ) from None
    absent = asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count()
    if absent or (asked.type == "mps" and "mps" not in there):
        raise ValueError(
            f"device: expected one of {', '.join(there)}, received {str(asked)!r}, which torch does not see; leave it"
            " out, or see `medtrace doctor`"
        )
    return asked
