"""The record of the training in a model folder: everything in the run's record except who the subjects are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtrace.data.population import SCANS
from medtrace.engines.runs import RunRecord


def handed_on(record: RunRecord, weights_sha256: str) -> dict[str, Any]:
    """The content of `config.json`: the run's record, under Hugging Face's name of the library.

    Names of subjects, cases and volumes become numbers and paths lose their folders, as they may identify patients and
    places; fingerprints of images stay, so that a training image is still refused.

    Args:
        record: record of the run.
        weights_sha256: SHA-256 of the file of weights.
    """
    content = record.as_dict()
    content["training_data"] = without_names(record.training_data)
    if start := content.get("started_from"):
        content["started_from"] = {**start, "run": Path(str(start.get("run", ""))).name}
    return {"library_name": "medtrace", **content, "weights_sha256": weights_sha256}


def without_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record of its training cases, with numbers for names.

    Args:
        data: `training_data` of its record.

    Example:
        >>> case = {"case": "smith-1", "subject": "smith", "source": "5f"}
        >>> without_names({"dataset": "folder/surgery", "training": [case]})["training"]
        [{'case': 'case 1', 'subject': 'subject 1', 'source': '5f'}]
    """
    subjects: dict[str, str] = {}

    def renamed(entry: Mapping[str, Any], kind: str, number: int) -> dict[str, Any]:
        subject = subjects.setdefault(str(entry["subject"]), f"subject {len(subjects) + 1}")
        return {**entry, kind: f"{kind} {number}", "subject": subject}

    result = dict(data)
    if "dataset" in result:
        result["dataset"] = Path(str(result["dataset"])).name
    if isinstance(result.get(SCANS), list):
        result[SCANS] = [renamed(scan, "volume", number + 1) for number, scan in enumerate(result[SCANS])]
    before = 0
    for split in ("training", "validation"):
        if split in result:
            result[split] = [renamed(entry, "case", before + k + 1) for k, entry in enumerate(result[split])]
            before += len(result[split])
    return result
