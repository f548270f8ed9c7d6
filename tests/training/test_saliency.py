"""From gradients to the mask."""

import pytest
import torch
from torch import nn

from vkdsurgeon.errors import UserError
from vkdsurgeon.training.saliency import gradient_scores, random_scores, select


def _model() -> dict[str, nn.Parameter]:
    return {"w": nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0])), "unused": nn.Parameter(torch.ones(4))}


def test_scores_are_sums_of_absolute_gradients():
    parameters = _model()

    def backward(factor: float) -> None:
        (factor * parameters["w"].square().sum()).backward()

    scores = gradient_scores(parameters, [lambda: backward(1.0), lambda: backward(-0.5)])
    assert list(scores) == ["w"], "what gets no gradient gets no score"
    assert torch.equal(scores["w"], torch.tensor([3.0, 6.0, 9.0, 12.0]))
    assert parameters["w"].grad is None, "no gradient is left for the first step"


def test_fisher_scores_are_sums_of_squared_gradients():
    parameters = _model()
    scores = gradient_scores(parameters, [lambda: parameters["w"].square().sum().backward()] * 2, squared=True)
    assert torch.equal(scores["w"], 2 * (2 * torch.tensor([1.0, 2.0, 3.0, 4.0])) ** 2)


def test_density_is_a_share_of_all_visual_weights():
    parameters = _model()
    mask = select(parameters, {"w": torch.tensor([1.0, 0.0, 3.0, 2.0])}, 0.25)
    assert mask.total == 8
    assert mask.count == 2
    assert mask.selected["w"].to_bool().tolist() == [False, False, True, True]
    assert "unused" not in mask.selected


def test_a_weight_without_a_pull_is_never_selected():
    mask = select(_model(), {"w": torch.tensor([1.0, 0.0, 3.0, 0.0])}, 1.0)
    assert mask.selected["w"].to_bool().tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("granularity", "density", "expected"),
    [
        ("element", 0.2, {"a": [[0, 0], [1, 1]]}),
        ("row", 0.2, {"a": [[0, 0], [1, 1]]}),
        ("tensor", 0.2, {"a": [[1, 1], [1, 1]]}),
        ("tensor", 0.6, {"a": [[1, 1], [1, 1]], "b": [1, 1]}),
        ("layer", 0.2, {"a": [[1, 1], [1, 1]], "b": [1, 1]}),
        # What no gradient reaches never moves, whatever the density.
        ("row", 1.0, {"a": [[0, 0], [1, 1]], "b": [0, 1], "c": [1, 1]}),
        ("layer", 1.0, {"a": [[1, 1], [1, 1]], "b": [1, 1], "c": [1, 1]}),
    ],
)
def test_the_mask_selects_whole_units(granularity: str, density: float, expected: dict[str, list[object]]):
    parameters = {
        name: nn.Parameter(torch.ones(shape)) for name, shape in {"a": (2, 2), "b": 2, "c": 2, "d": 2}.items()
    }
    scores = {
        "a": torch.tensor([[0.0, 0.0], [9.0, 9.0]]),
        "b": torch.tensor([0.0, 3.0]),
        "c": torch.tensor([1.0, 1.0]),
        "d": torch.zeros(2),
    }
    layers = {"a": "first", "b": "first", "c": "second", "d": "second"}
    mask = select(parameters, scores, density, granularity, layers.__getitem__)
    assert {name: one.to_bool().int().tolist() for name, one in mask.selected.items()} == expected


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_nothing_selected_is_an_error(density: float):
    scores = {} if density > 0.1 else {"w": torch.ones(4)}
    with pytest.raises(UserError, match="selects nothing"):
        select(_model(), scores, density)


def test_the_random_control_is_seeded_and_differs_between_seeds():
    parameters = {"w": nn.Parameter(torch.zeros(1000))}
    first, again, other = (
        random_scores(parameters, ["w"], torch.Generator().manual_seed(seed))["w"] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
