"""Methods whose training pairs are registered first: what a training case is made into."""

import torch
from monai.data import MetaTensor

from medtrace.data import TraceBench
from medtrace.methods import method_class, resolve

KIND = method_class("registered_pix2pix")


def test_a_target_is_brought_onto_its_source():
    source = torch.full((1, 48, 48), -1.0)
    source[:, 12:30, 14:36], source[:, 16:24, 18:24] = 0.2, 0.9
    affine = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0])).double()
    shifted = MetaTensor(source.roll(4, 1), affine=affine)
    item = {"source": MetaTensor(source, affine=affine), "target": shifted, "case": "one"}
    transform = KIND.case_transform(resolve(KIND.settings_type, ("tracebench", "smoke")))
    result = transform(item)
    left = (result["target"] - source).abs().mean()
    assert left < 0.1 * (shifted - source).abs().mean()
    torch.testing.assert_close(result["target"].affine, affine)
    assert torch.equal(item["target"].as_tensor(), source.roll(4, 1)), "what was given stays"
    assert set(result) == set(item)
    several = transform({"source": source.repeat(2, 1, 1), "target": source.roll(4, 1)})["target"]
    assert (several - source).abs().mean() < 0.1 * (shifted - source).abs().mean()


def test_reggan_aligns_pairs_where_it_is_asked_to():
    """A turn and a shift are taken out, what is deformed stays, and the paper's settings have no such step."""
    kind = method_class("reggan")
    assert kind.case_transform(resolve(kind.settings_type, ("paper",))) is None
    transform = kind.case_transform(resolve(kind.settings_type, ("paper",), {"alignment": "affine"}))
    case = TraceBench("misaligned", (64, 64), cases=1, split="training", settings={"level": "5", "moved": "target"})[0]
    head, clean = case["head"].as_tensor() > 0, case["clean_target"].as_tensor()
    before = (case["target"].as_tensor() - clean)[head].abs().mean()
    result = transform({"source": case["source"], "target": case["target"]})
    assert (result["target"].as_tensor() - clean)[head].abs().mean() < 0.4 * before
    assert torch.equal(result["source"], case["source"])
