"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images: $MEDTRACE_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("MEDTRACE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set MEDTRACE_DATA to their folder")
    return folder
