"""Fixtures shared by the tests."""

import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

import ignite.distributed
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session", autouse=True)
def _templates_are_blurred_once():
    """TraceBench keeps its template for two voxel sizes, which for every further one takes a second; here for six."""
    anatomy = sys.modules.get("medtrace.data.tracebench.anatomy")
    if anatomy is None:  # no test that was collected has imported it
        yield
        return
    made = anatomy.load_template
    kept = lru_cache(maxsize=6)(made.__wrapped__)
    with pytest.MonkeyPatch.context() as patch:
        for module in list(sys.modules.values()):  # who imported it by its name
            if getattr(module, "__dict__", {}).get("load_template") is made:
                patch.setattr(module, "load_template", kept)
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads_end_with_their_test():
    before = torch.get_num_threads()  # sums over more threads round otherwise
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _options_of_the_command_end_with_their_test():
    names = ("MEDTRACE_DEBUG", "MEDTRACE_ALLOW_FOREIGN_CODE")  # what `medtrace --debug` leaves in this process
    before = {name: os.environ.get(name) for name in names}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def standin_methods(tmp_path_factory):
    """The methods of `tests.standins`, as of a package that is installed, here and in new processes."""
    from tests.standins import register

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(register(tmp_path_factory.mktemp("standins"))))
        yield


@pytest.fixture
def process_group(tmp_path):
    """A process group of this process alone; ignite forgets it afterwards."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    ignite.distributed.sync()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images: $MEDTRACE_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("MEDTRACE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set MEDTRACE_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """The run folder of a training of seconds; who changes it changes a copy."""
    from medtrace.workflows.train import train

    return train(
        "tracetrans", out=tmp_path_factory.mktemp("smoke") / "run", presets=["tracebench", "smoke"], device="cpu"
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The ending of a training that nothing interrupts, by method."""
    from tests.interrupted_training import ending, finish

    endings = {}

    def of(method, **settings):
        key = (method, *settings.items())
        if key not in endings:
            folder = tmp_path_factory.mktemp(method)
            assert finish(method, folder, **settings) == 0
            endings[key] = ending(folder)
        return endings[key]

    return of


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that playwright drives."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser on the path, one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()
