"""What is drawn, against the shuffles of torch and of Python, and that a sampler goes on where another one stood."""

from __future__ import annotations

import json
import random

import torch

from vkdsurgeon.training.sampler import GroupedSampler, Sampler, random_shuffle, torch_shuffle


def test_everything_is_drawn_once_before_anything_is_drawn_again() -> None:
    items = list("abcdefg")
    generator = torch.Generator().manual_seed(1)
    orders = [[items[at] for at in torch.randperm(7, generator=generator).tolist()] for _ in range(3)]
    sampler = Sampler(items, torch_shuffle(torch.Generator().manual_seed(1)))
    drawn = [item for _ in range(7) for item in sampler.draw(3)]
    assert drawn == [item for order in orders for item in order]
    assert sampler.left == []
    assert len(sampler.draw(100)) == 7


def test_what_was_left_of_an_order_comes_first() -> None:
    one = Sampler(range(9), random_shuffle(random.Random(0)))
    one.draw(4)
    generator = random.Random(0)
    generator.sample(range(9), 9)
    other = Sampler(range(9), random_shuffle(generator), one.left)
    assert [one.draw(4) for _ in range(5)] == [other.draw(4) for _ in range(5)]


def test_a_grouped_sampler_shows_everything_once_with_neighbours_of_a_kind() -> None:
    items = [f"{kind} {number}" for kind in range(3) for number in range(16)]
    sampler = GroupedSampler(items, lambda item: item[0], random.Random(0))
    drawn = [sampler.draw(8) for _ in range(6)]
    assert sorted(item for group in drawn for item in group) == sorted(items)
    assert all(len({item[0] for item in group}) == 1 for group in drawn)
    assert len(sampler.draw(1000)) == len(items)


def test_a_grouped_sampler_goes_on_from_its_state() -> None:
    items = [f"{kind} {number}" for kind in range(3) for number in range(5)]
    one, other = (GroupedSampler(items, lambda item: item[0], random.Random(seed)) for seed in (0, 1))
    one.draw(4)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [one.draw(4) for _ in range(9)] == [other.draw(4) for _ in range(9)]
