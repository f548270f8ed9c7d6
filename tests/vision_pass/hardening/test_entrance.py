"""Where frozen layers do not run, a simulated attacker moves a map on what they returned in their place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.vision_pass.test_run import QUICK, run, samples
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.vision_pass.hardening.temporary_weights import TemporaryWeights
from vkdsurgeon.vision_pass.hardening.terms import Hardener, prepare_hardening
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.objective import make_terms
from vkdsurgeon.vision_pass.prepare import prepare

HARDENED = QUICK.model_copy(update={"depth": 1, "tamper_weight": 0.5, "tamper_steps": 2, "tamper_horizon": None})


def hardener_of(llava: Path, sets: dict[str, Path], recipe: Recipe) -> Hardener:
    prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
    generator = torch.Generator().manual_seed(0)
    taught = make_terms(prepared.stack, prepared.forget, prepared.keep, prepared.job.recipe, generator)
    choose_mask(prepared.stack, taught.forget, prepared.job.recipe, generator)
    hardener = prepare_hardening(prepared.stack, taught, prepared.job.recipe, 0)
    assert hardener is not None
    # At the start the student is the teacher, so the attacker is given something to undo.
    weight = next(value for name, value in hardener.weights.items() if "projector" in name and value.dim() == 2)
    with torch.no_grad():
        weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=generator)
    return hardener


def test_the_attacker_moves_trained_layers_and_the_entrance_and_all_of_it_comes_back(
    llava: Path, sets: dict[str, Path]
):
    hardener = hardener_of(llava, sets, HARDENED)
    objective = hardener.objective
    assert objective.entrance is not None
    entrance = objective.entrance.matrix
    eye = torch.eye(len(entrance))
    assert torch.equal(entrance.detach(), eye)
    frozen = {name for name in objective.stack.visual_parameters() if name not in hardener.weights}
    assert any(".layers.0." in name for name in frozen)
    assert not any("projector" in name for name in frozen)
    indices = objective.term.train[:8]
    with TemporaryWeights(hardener.weights) as temporary:
        hardener.attacker.attack(temporary, indices, 2)
        away = (entrance.detach() - eye).abs()
        # Two sign steps, each tamper_size of the map's own unit: rms 1/sqrt(D) over sqrt(fan-in D).
        assert float(away.max()) == pytest.approx(2 * HARDENED.tamper_size / len(eye), rel=1e-3)
    hardener(indices)
    assert torch.equal(entrance.detach(), eye)
    assert entrance.grad is None


def test_unmoved_the_entrance_changes_no_bit(llava: Path, sets: dict[str, Path]):
    objective = hardener_of(llava, sets, HARDENED).objective
    assert objective.entrance is not None
    for _, batch in objective.term.samples.batches(range(6), 6):
        found = [objective.stack.features(batch)["projector"]]
        with objective.entrance.opened():
            found.append(objective.stack.features(batch)["projector"])
        assert torch.equal(*found)


def test_what_is_attacked_does_not_depend_on_room_in_memory(llava: Path, sets: dict[str, Path]):
    roomy, narrow = (
        hardener_of(llava, sets, HARDENED.model_copy(update={"cache_gib": room, "copies": 0})) for room in (8.0, 1e-5)
    )
    for hardener, passed_over in ((roomy, True), (narrow, False)):
        ((_, batch), *_) = hardener.objective.term.samples.batches([0], 1)
        assert (batch.entering is not None) == passed_over
    assert set(roomy.weights) == set(narrow.weights)
    moved = []
    for hardener in (roomy, narrow):
        with TemporaryWeights(hardener.weights) as temporary:
            hardener.attacker.attack(temporary, range(4), 1)
            moved.append(set(temporary.offsets))
    assert moved[0] == moved[1]


def test_the_entrance_makes_attacks_stronger(llava: Path, sets: dict[str, Path]):
    hardener = hardener_of(llava, sets, HARDENED)
    objective = hardener.objective
    indices = objective.term.train[:8]

    def way_back(*without: str) -> float:
        with torch.no_grad(), TemporaryWeights(hardener.weights) as temporary:
            with torch.enable_grad():
                hardener.attacker.attack(temporary, indices, 4)
            for name in without:
                temporary.move(name, -temporary.offsets[name])
            return sum(float(loss) for loss in objective.relearn(indices))

    assert objective.entrance is not None
    (entrance,) = (name for name, value in hardener.weights.items() if value is objective.entrance.matrix)
    assert way_back() < way_back(entrance)


def test_where_all_layers_run_there_is_no_entrance(llava: Path, sets: dict[str, Path]):
    hardener = hardener_of(llava, sets, HARDENED.model_copy(update={"depth": "all"}))
    assert hardener.objective.entrance is None
    assert set(hardener.weights) == set(hardener.objective.stack.visual_parameters())


def test_a_hardened_run_of_few_layers_repeats_and_leaves_frozen_layers_alone(llava: Path, sets: dict[str, Path]):
    recipe = HARDENED.model_copy(update={"steps": 6, "tamper_horizon": 4})
    first, again = (run(llava, sets, recipe, seed=3)[0] for _ in range(2))
    assert first.changes
    assert not any(".layers.0." in name for name in first.changes)
    assert all(torch.equal(first.changes[name], again.changes[name]) for name in first.changes)
