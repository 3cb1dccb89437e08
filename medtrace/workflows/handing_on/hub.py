"""Models of the Hugging Face Hub, fetched as model folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

from medtrace.data.preparation.rules import FILE as PREPARATION
from medtrace.engines.model_folder import CARD, CONFIG, MODEL
from medtrace.evaluation.intensity.interval import FILE as INTERVAL

FETCHED = (CONFIG, MODEL, CARD, PREPARATION, INTERVAL)
"""Nothing else is fetched: tensors, JSON and text, and no pickle."""
_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def local_run(run: str | os.PathLike) -> Path:
    """The folder of a run on this machine; a model of the Hub is fetched first, or taken from its cache.

    Args:
        run: a folder, or `hf://owner/name`, followed by `@revision` for a revision other than the newest.

    Raises:
        ModuleNotFoundError: if the Hub is needed and `huggingface_hub` is not installed.
        OSError: if it cannot be fetched.
        ValueError: if the address is malformed, or does not lead to a medtrace model.

    Example:
        >>> local_run("runs/tracetrans").name
        'tracetrans'
        >>> local_run("hf://tracetrans")
        Traceback (most recent call last):
        ...
        ValueError: run: expected hf://owner/name or hf://owner/name@revision, received 'hf://tracetrans'
    """
    text = os.fspath(run)
    if not text.startswith("hf:/"):
        return Path(run)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(f"run: expected hf://owner/name or hf://owner/name@revision, received {text!r}")
    return _fetched(match[1], match[2])


def _fetched(name: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise ModuleNotFoundError(
            f"run: hf://{name} expected huggingface_hub, received none; pip install 'medtrace[hub]', or fetch the model"
            " yourself and name its folder"
        ) from error
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FETCHED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"run: hf://{name} could not be fetched ({reason}); check name and network, log in with `hf auth login`"
            " if it is private, or name a folder"
        ) from error
    missing = [file for file in (CONFIG, MODEL) if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"run: hf://{name} has no {' and no '.join(missing)}, so it is not a medtrace model; name one"
            " that `medtrace card` made"
        )
    return folder
