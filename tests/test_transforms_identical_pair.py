"""Identical pairs as an augmentation of registration."""

import pytest
import torch

from medtrace.transforms import RandIdenticalPaird


def item():
    return {
        "source": torch.arange(4.0).reshape(1, 2, 2),
        "target": torch.ones(1, 2, 2),
        "mask": torch.ones(1, 2, 2, dtype=torch.bool),
        "case": "a",
    }


def test_target_becomes_a_copy_of_the_source_and_masks_are_emptied():
    given = item()
    made = RandIdenticalPaird(prob=1.0)(given)
    assert torch.equal(made["target"], given["source"])
    assert made["target"] is not given["source"]
    assert made["mask"].dtype == torch.bool
    assert not made["mask"].any()
    assert made["case"] == "a"
    assert torch.equal(given["target"], torch.ones(1, 2, 2))


def test_as_often_as_asked_and_replayable():
    transform = RandIdenticalPaird(prob=0.3).set_random_state(seed=4)
    hits = [torch.equal(transform(item())["target"], item()["source"]) for _ in range(500)]
    assert 0.22 < sum(hits) / 500 < 0.38
    transform.set_random_state(seed=4)
    assert hits == [torch.equal(transform(item())["target"], item()["source"]) for _ in range(500)]


def test_never_at_probability_zero():
    made = RandIdenticalPaird(prob=0.0)(item())
    assert torch.equal(made["target"], item()["target"])


def test_two_keys_are_needed():
    with pytest.raises(ValueError, match="keys: expected"):
        RandIdenticalPaird(keys=("source",))
