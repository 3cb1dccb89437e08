"""The history of generated images: what it keeps, how often it swaps, and that a checkpoint holds it."""

import pytest
import torch

from medtrace.methods.common.image_pool import ImagePool


def numbered(*numbers, size=2):
    """A batch of images that are constant, each by its number."""
    return torch.stack([torch.full((1, size, size), float(number)) for number in numbers])


def kept(pool):
    return [int(image.flatten()[0]) for image in pool.images]


def test_until_it_is_full_it_keeps_and_returns_every_image():
    pool = ImagePool(3)
    assert torch.equal(pool(numbered(1, 2)), numbered(1, 2))
    assert kept(pool) == [1, 2]
    given = numbered(3)
    assert torch.equal(pool(given), given)
    given.fill_(9)  # what is kept is a copy
    assert kept(pool) == [1, 2, 3]


def test_a_full_pool_swaps_half_of_the_time_each_place_alike():
    pool, rounds = ImagePool(4), 2000
    pool(numbered(0, 1, 2, 3))
    swapped, places = 0, [0] * 4
    for number in range(4, 4 + rounds):
        before = kept(pool)
        answer = int(pool(numbered(number)).flatten()[0])
        after = kept(pool)
        if answer == number:
            assert after == before
        else:
            swapped += 1
            place = before.index(answer)
            assert after == [number if index == place else old for index, old in enumerate(before)]
            places[place] += 1
    assert swapped / rounds == pytest.approx(0.5, abs=0.05)
    assert all(count / swapped == pytest.approx(0.25, abs=0.05) for count in places)


def test_it_is_full_after_some_images_of_a_batch():
    pool = ImagePool(1)
    answers = {tuple(pool(numbered(1, 2)).flatten(1)[:, 0].tolist()) for pool in (ImagePool(1) for _ in range(40))}
    assert answers == {(1.0, 2.0), (1.0, 1.0)}
    assert pool(numbered(1, 2)).shape == (2, 1, 2, 2)


def test_size_0_passes_every_image_on():
    pool, state = ImagePool(0), torch.get_rng_state()
    assert torch.equal(pool(numbered(1, 2)), numbered(1, 2))
    assert pool.images == []
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_detached():
    given = numbered(1).requires_grad_()
    for size in (0, 1):
        assert not ImagePool(size)(given * 2).requires_grad


def test_another_grid_starts_a_new_pool():
    pool = ImagePool(2)
    pool(numbered(1, 2))
    larger = numbered(3, size=4)
    assert torch.equal(pool(larger), larger)
    assert kept(pool) == [3]


def test_a_checkpoint_holds_the_images(tmp_path):
    first, second = torch.nn.ModuleDict({"pool": ImagePool(3)}), torch.nn.ModuleDict({"pool": ImagePool(3)})
    first["pool"](numbered(1, 2, 3))
    torch.save(first.state_dict(), tmp_path / "pool.pt")
    second.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    assert kept(second["pool"]) == [1, 2, 3]
    for number in range(10):
        torch.manual_seed(number)
        one = first["pool"](numbered(4 + number))
        torch.manual_seed(number)
        assert torch.equal(second["pool"](numbered(4 + number)), one)
    assert kept(first["pool"]) == kept(second["pool"]) != [1, 2, 3]


def test_an_empty_pool_empties_another(tmp_path):
    torch.save(ImagePool(2).state_dict(), tmp_path / "pool.pt")
    pool = ImagePool(2)
    pool(numbered(1))
    pool.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    assert pool.images == []


def test_resuming_with_a_smaller_pool_keeps_its_size():
    larger, smaller = ImagePool(4), ImagePool(2)
    larger(numbered(1, 2, 3, 4))
    smaller.load_state_dict(larger.state_dict())
    assert kept(smaller) == [1, 2]
    for number in range(20):
        smaller(numbered(number))
        assert len(smaller.images) == 2


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="size: expected 0 or more images, received -1"):
        ImagePool(-1)
