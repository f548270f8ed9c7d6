"""Exact global selection."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vkdsurgeon_kernels import accumulate_scores, select_top_fraction


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([0.0, -0.0, 1e-38, 0.25, 0.25, 1.0, 3.0, 3.0000002, 1e30]), min_size=1, max_size=40
    ),
    cut=st.floats(0, 1),
    fraction=st.floats(0, 1),
)
def test_histogram_equals_sorting(values, cut, fraction):
    flat = torch.tensor(values, dtype=torch.float32)
    split = int(cut * len(values))
    scores = [flat[:split], flat[split:]]
    fast = select_top_fraction(scores, fraction, implementation="histogram")
    truth = select_top_fraction(scores, fraction, implementation="reference")
    assert [mask.tolist() for mask in fast] == [mask.tolist() for mask in truth]
    assert sum(int(mask.sum()) for mask in fast) == round(fraction * len(values))


def test_density_is_exact_and_ranking_global_on_a_large_input():
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(1000, 700, generator=generator) ** 8, torch.rand(5_000_001, generator=generator) * 0.01]
    masks = select_top_fraction(scores, 0.1)
    total = sum(score.numel() for score in scores)
    assert sum(int(mask.sum()) for mask in masks) == round(0.1 * total)
    chosen = torch.cat([score[mask] for score, mask in zip(scores, masks, strict=True)])
    left = torch.cat([score[~mask] for score, mask in zip(scores, masks, strict=True)])
    assert chosen.min() >= left.max()
    # A per-tensor threshold would have taken the same share of both.
    assert masks[0].float().mean() > 3 * masks[1].float().mean()


def test_ties_go_to_the_earlier_element():
    first, second = select_top_fraction([torch.ones(4), torch.ones(2, 3)], 0.6)
    assert first.tolist() == [True] * 4
    assert second.tolist() == [[True, True, False], [False, False, False]]


def test_squares_do_not_underflow():
    score = torch.zeros(3)
    accumulate_scores(score, torch.full((3,), 1e-5, dtype=torch.float16), squared=True)
    assert (score > 0).all()
    with pytest.raises(ValueError, match="float32"):
        accumulate_scores(torch.zeros(3, dtype=torch.bfloat16), torch.ones(3))


@pytest.mark.parametrize(
    ("scores", "fraction", "message"),
    [
        ([], 0.5, "no scores"),
        ([torch.ones(3)], 1.5, "0..1"),
        ([torch.tensor([1.0, float("nan")])], 0.5, "non-finite"),
        ([torch.tensor([1.0, -1.0])], 0.5, "negative"),
        ([torch.ones(3, dtype=torch.float64)], 0.5, "float32"),
    ],
)
def test_wrong_arguments_say_what_is_right(scores, fraction, message):
    with pytest.raises(ValueError, match=message):
        select_top_fraction(scores, fraction)
