"""Random partners across domains."""

import pytest
import torch
from monai.utils import set_determinism

from medtrace.data import RandomPartner


def items(subjects):
    return [
        {
            "source": torch.full((1, 2, 2), float(number)),
            "target": torch.full((1, 2, 2), 10.0 + number),
            "target_structure": torch.full((1, 2, 2), 20.0 + number),
            "source_labels": number,
            "ddf": torch.zeros(2, 2, 2),
            "head": True,
            "subject": subject,
            "case": f"case-{number}",
        }
        for number, subject in enumerate(subjects)
    ]


def drawn(dataset):
    return [int(dataset[index]["target"][0, 0, 0]) - 10 for index in range(len(dataset))]


def test_target_and_what_belongs_to_it_come_from_another_subject():
    data = items("abcd")
    dataset = RandomPartner(data)
    met = set()
    for _ in range(60):
        for index, item in enumerate(dataset):
            number = int(item["target"][0, 0, 0]) - 10
            assert number != index
            assert item["target_structure"][0, 0, 0] == 20 + number
            assert item["partner"] == "abcd"[number]
            assert torch.equal(item["source"], data[index]["source"])
            assert (item["subject"], item["case"], item["source_labels"]) == ("abcd"[index], f"case-{index}", index)
            assert set(item) == {*data[0], "partner"} - {"ddf", "head"}
            met.add((index, number))
    assert len(met) == 12


def test_a_subject_is_no_partner_of_its_own():
    dataset = RandomPartner(items("aaab"))
    assert all(drawn(dataset)[:3] == [3, 3, 3] for _ in range(20))
    assert {drawn(dataset)[3] for _ in range(60)} == {0, 1, 2}
    with pytest.raises(ValueError, match="found no target of a subject other than 'a'"):
        RandomPartner(items("aa"))[0]


def test_items_without_subjects_are_never_their_own_partner():
    data = [{key: item[key] for key in ("source", "target")} for item in items("ab")]
    assert all(drawn(RandomPartner(data)) == [1, 0] for _ in range(10))


def test_every_epoch_has_other_pairs_and_a_seed_the_same_ones():
    dataset = RandomPartner(items("abcdefgh"))
    set_determinism(seed=3)
    epochs = [drawn(dataset) for _ in range(3)]
    state = torch.get_rng_state()
    after = drawn(dataset)
    set_determinism(seed=3)
    assert [drawn(dataset) for _ in range(3)] == epochs
    torch.set_rng_state(state)
    assert drawn(dataset) == after
    set_determinism(seed=None)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_transform_and_end_of_the_data():
    dataset = RandomPartner(items("abc"), transform=lambda item: item["case"])
    assert list(dataset) == ["case-0", "case-1", "case-2"]
    assert dataset[-1] == "case-2"
    assert len(dataset) == 3


def test_one_item_has_no_partner():
    with pytest.raises(ValueError, match="expected two items or more, received 1"):
        RandomPartner(items("a"))
