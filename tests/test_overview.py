"""The page that lists many cases."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from medtrace.report.overview import OverviewCase, overview, worst_first
from medtrace.report.thumbnail import HEIGHT, thumbnail
from medtrace.trace import Trace
from tests.passport_cases import make_trace


def test_the_worst_comes_first_and_leads_to_its_page():
    cases = [
        OverviewCase(
            "good", "PASS", "nothing speaks against it", {"moved, mm": 1.234}, "good/trace.html", "good/t.png"
        ),
        OverviewCase("b & <c>", "error", "no such file"),
        OverviewCase("bad", "FAIL", "folds", {"seconds": None}, None, "bad/t.png"),
        OverviewCase("open", "not certified", "medtrace certify assesses it"),
        OverviewCase("doubtful", "WARN", "little is alike"),
    ]
    assert [case.name for case in worst_first(cases)] == ["b & <c>", "bad", "doubtful", "open", "good"]
    page = overview(cases, "Pairs")
    names = re.findall(r'class="name">(?:<a[^>]*>)?([^<]+)', page)
    assert names == ["b &amp; &lt;c&gt;", "bad", "doubtful", "open", "good"]
    assert 'href="good/trace.html"' in page
    assert page.count("<img ") == 2
    assert "1.23" in page
    assert page.count("–</td>") == 9  # of ten numbers one is known
    with pytest.raises(ValueError, match="received 'fine'"):
        overview([OverviewCase("x", "fine", "")], "Pairs")


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_thumbnails_show_three_images(kind, tmp_path):
    trace = make_trace(kind, "flipped", elsewhere=True)
    (tmp_path / "t.png").write_bytes(thumbnail(trace))
    pixels = np.asarray(Image.open(tmp_path / "t.png"))
    assert pixels.shape[0] == HEIGHT
    gaps = (pixels.max(axis=(0, 2)) == 0).nonzero()[0]
    assert len(gaps) >= 8
    assert pixels.std() > 10


def test_thumbnails_are_upright_and_in_color():
    affine = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])).double()  # of a photograph
    image = torch.zeros(3, 40, 20)
    image[0, :, :10] = 1.0  # red above
    image[2, :, 10:] = 1.0  # blue below
    trace = Trace.build(image, image, torch.zeros(2, 40, 20), affine=affine)
    pixels = np.asarray(Image.open(io.BytesIO(thumbnail(trace))))
    assert pixels[20, 30].tolist() == [255, 0, 0]
    assert pixels[120, 30].tolist() == [0, 0, 255]
