"""The masks of MMUnlearner and MANU against small examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from tests.baselines.conftest import Stage
from tests.families import FAMILIES, build_checkpoint
from vkdsurgeon.baselines.language_loss import cross_entropy
from vkdsurgeon.baselines.manu import Moments, counted, neuron_scores, top_neurons
from vkdsurgeon.baselines.mmunlearner import fisher, fisher_mask
from vkdsurgeon.baselines.registry import Scope
from vkdsurgeon.baselines.scope import find_weights, mlp_output
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.errors import UserError


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_that_reads_the_neurons_is_found_in_every_family(family: str, tmp_path: Path) -> None:
    split = split_checkpoint(take_inventory(build_checkpoint(family, tmp_path / "model")))
    weights = find_weights(take_inventory(tmp_path / "model"), split, Scope.all)
    assert weights.decoder is not None
    for layer in (*weights.tower_layers, *weights.decoder.layers):
        path = mlp_output(split.skeleton, layer)
        matrix = split.skeleton.get_submodule(path).weight
        assert matrix.shape[0] == 32, "it writes into the residual stream"
        assert path.rpartition(".")[2] in ("down_proj", "fc2", "linear_fc2")
        assert f"{path}.weight" in weights.on_disk


def test_the_fisher_mask_is_a_ratio_and_zero_over_zero_is_frozen() -> None:
    parameters = {"a": Parameter(torch.zeros(4)), "b": Parameter(torch.zeros(2)), "c": Parameter(torch.zeros(2))}
    forget = {"a": torch.tensor([2.0, 1.0, 1.0, 0.0]), "b": torch.tensor([1.0, 0.0])}
    preserve = {"a": torch.tensor([1.0, 1.0, 2.0, 0.0]), "c": torch.ones(2)}
    mask = fisher_mask(parameters, forget, preserve, 1.0)
    assert mask.selected["a"].to_bool().tolist() == [True, True, False, False]
    assert mask.selected["b"].to_bool().tolist() == [True, False], "nothing to preserve there"
    assert set(mask.selected) == {"a", "b"}, "a parameter without a score is frozen, not trained unmasked"
    assert mask.total == 8
    with pytest.raises(UserError, match="selects nothing"):
        fisher_mask(parameters, {"a": torch.zeros(4)}, {}, 1.0)


def test_fisher_information_squares_example_by_example(stage: Stage) -> None:
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    parameters, chosen = {name: stage.loaded.model.get_parameter(name)}, stage.training_sets.forget[:3]
    loss = cross_entropy(stage.language)
    squares = []
    for each in chosen:
        loss([each], 1.0)
        squares.append(parameters[name].grad.square())
        stage.loaded.model.zero_grad()
    found = fisher(parameters, loss, chosen)[name]
    torch.testing.assert_close(found, torch.stack(squares).mean(dim=0))
    assert found.dtype == torch.float32
    loss(chosen, 1.0)
    assert not torch.allclose(found, parameters[name].grad.square())


def test_importance_by_hand() -> None:
    moments = Moments.empty(2)
    moments.add(torch.tensor([[[1.0, 0.0], [-3.0, 2.0]]]))
    absolute, frequent, spread, rms = moments.importance()
    assert absolute.tolist() == [2.0, 1.0]
    assert frequent.tolist() == [1.0, 0.5]
    assert spread.tolist() == pytest.approx([2.0, 1.0])
    assert rms.tolist() == pytest.approx([5.0**0.5, 2.0**0.5])


def test_batches_of_tokens_add_up(stage: Stage) -> None:
    path = "model.language_model.layers.0.mlp.down_proj"
    found = []
    for size in (1, 4):
        stage.language.micro_batch = size
        with counted(stage.loaded.model, [path]) as moments:
            cross_entropy(stage.language)(stage.training_sets.forget[:4])
        found.append(moments[path])
    assert found[0].tokens == found[1].tokens > 4
    torch.testing.assert_close(found[0].second, found[1].second, rtol=1e-4, atol=1e-6)
    assert not stage.loaded.model.get_submodule(path)._forward_pre_hooks


def test_neurons_that_forget_alone_excites_come_first() -> None:
    forget, retain = Moments.empty(3), Moments.empty(3)
    forget.add(torch.tensor([[1.0, 5.0, 1.0], [1.0, -5.0, 1.0]]))
    retain.add(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0]]))
    scores = neuron_scores({"x": forget}, {"x": retain})
    assert scores["x"].argmax() == 1
    chosen = top_neurons({"x": scores["x"], "y": torch.zeros(1) - 9}, 0.25)
    assert list(chosen) == ["x"]
    assert chosen["x"].tolist() == [False, True, False]
