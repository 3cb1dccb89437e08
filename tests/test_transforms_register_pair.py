"""`RegisterPaird`: one field for all keys, back again, verdicts, and what is refused."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medtrace.transforms import RegisterPaird, RegisterPairDict


def head(shape):
    """An ellipsoid with structures, and a label of one of them."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in shape), indexing="ij")
    inside = sum((axis / 0.75) ** 2 for axis in axes) < 1
    spot = sum((axis - 0.25) ** 2 for axis in axes) < 0.06
    other = sum((axis + place) ** 2 for axis, place in zip(axes, (0.3, -0.2, 0.1))) < 0.04
    image = (300 + 80 * torch.cos(5 * axes[0]) * torch.cos(4 * axes[1])) * inside + 300 * spot - 150 * other
    return image[None], spot[None].byte()


@pytest.mark.parametrize("shape", [(64, 60), pytest.param((40, 44, 36), marks=pytest.mark.slow)])
def test_keys_move_by_one_field_and_back(shape):
    fixed, fixed_label = head(shape)
    shift = (5, -4, 3)[: len(shape)]
    axes = tuple(range(1, len(shape) + 1))
    affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    moving, label = (
        MetaTensor(image.roll(shift, axes), affine=affine.clone()) for image in (1.5 * fixed + 10, fixed_label)
    )
    transform = RegisterPaird(
        ("moving", "label"), "fixed", mode=("bilinear", "nearest"), ddf_key="ddf", verdict_key="verdict",
        alignment="rigid",
    )  # fmt: skip
    item = transform({"moving": moving, "label": label, "fixed": MetaTensor(fixed, affine=affine), "name": "a"})
    assert item["verdict"].grade == "PASS", item["verdict"].text()
    inside = (fixed > 0)[0]
    error = item["ddf"][:, inside] - torch.tensor(shift, dtype=torch.float32)[:, None]
    assert float(error.norm(dim=0).mean()) < 0.3
    carried = item["label"]
    assert carried.dtype == torch.uint8
    overlap = 2 * float((carried * fixed_label).sum()) / float(carried.sum() + fixed_label.sum())
    assert overlap > 0.95
    assert item["name"] == "a"
    back = transform.inverse(item)
    assert back["moving"].shape == moving.shape
    assert torch.equal(back["moving"].affine, affine)
    assert "ddf" not in back
    touched = label.as_tensor() * back["label"].as_tensor()
    assert 2 * float(touched.sum()) / float(label.sum() + back["label"].sum()) > 0.95


def test_two_grids_and_a_compose():
    fixed, _ = head((64, 60))
    coarse = torch.nn.functional.avg_pool2d(fixed[None], 2)[0]
    to = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    to[:2, 3] = 0.5
    item = Compose([RegisterPairDict("moving", "fixed")])(
        {"moving": MetaTensor(coarse, affine=to), "fixed": MetaTensor(fixed, affine=torch.eye(4))}
    )
    assert item["moving"].shape == fixed.shape
    assert float((item["moving"] - fixed).abs()[fixed > 0].mean()) < 20


def test_a_failed_registration_raises_or_is_kept():
    fixed, _ = head((64, 60))
    noise = torch.rand(fixed.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match=r"moving: could not be registered: FAIL: .*; on_fail='keep' keeps it"):
        RegisterPaird("moving", "fixed", alignment="none")({"moving": noise, "fixed": fixed})
    keep = RegisterPaird("moving", "fixed", alignment="none", on_fail="keep", verdict_key="verdict")
    assert keep({"moving": noise, "fixed": fixed})["verdict"].grade == "FAIL"


def test_what_is_refused():
    fixed, label = head((64, 60))
    for settings, expected in (
        ({"keys": "a", "fixed_key": "a"}, "expected a key that does not move"),
        ({"keys": "a", "fixed_key": "b", "moving_key": "c"}, "expected one of the keys"),
        ({"keys": "a", "fixed_key": "b", "mode": "cubic"}, "mode"),
        ({"keys": "a", "fixed_key": "b", "color": 1}, "settings"),
        ({"keys": "a", "fixed_key": "b", "on_fail": "cry"}, "on_fail"),
    ):
        with pytest.raises(ValueError, match=expected):
            RegisterPaird(**settings)
    with pytest.raises(KeyError, match="expected it in the item to register"):
        RegisterPaird("moving", "fixed")({"moving": fixed})
    with pytest.raises(ValueError, match="expected the moving grid"):
        RegisterPaird(("moving", "label"), "fixed")({"moving": fixed, "fixed": fixed, "label": label[:, 1:]})
    assert RegisterPaird("moving", "fixed", allow_missing_keys=True)({"other": 1}) == {"other": 1}
