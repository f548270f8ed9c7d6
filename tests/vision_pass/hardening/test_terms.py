"""What hardening adds to a step, by hand on a linear student and for bits on a real tiny one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.vision_pass.test_run import QUICK, moved, run, samples
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import teacher_features
from vkdsurgeon.model.processes import ALONE
from vkdsurgeon.training.events import unheard
from vkdsurgeon.training.losses import feature_loss
from vkdsurgeon.training.optimizer import build_optimizer
from vkdsurgeon.vision_pass.hardening.identity_heads import IdentityHeads
from vkdsurgeon.vision_pass.hardening.objective import ForgetObjective, gradients
from vkdsurgeon.vision_pass.hardening.simulated_attack import SimulatedAttacker
from vkdsurgeon.vision_pass.hardening.temporary_weights import TemporaryWeights
from vkdsurgeon.vision_pass.hardening.terms import Hardener, prepare_hardening
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.mask import choose_mask
from vkdsurgeon.vision_pass.objective import make_terms
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate
from vkdsurgeon.vision_pass.trainer import DistillationTerm

TOKENS, INPUTS, OUTPUTS, SAMPLES = 3, 4, 2, 6


def alone(**settings: Any) -> Recipe:
    """A recipe without any hardening but what is given, its attackers halving images and starting afresh."""
    return Recipe(**{"tamper_weight": 0.0, "tamper_split": "pictures", "tamper_horizon": None, **settings})


class LinearStudent(nn.Module):
    """h(x) = x W', on images that are their own tokens."""

    processes = ALONE

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(OUTPUTS, INPUTS, generator=generator))
        self.rows = torch.randn(SAMPLES, TOKENS, INPUTS, generator=generator)
        self.device = torch.device("cpu")

    def features(self, batch: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return dict.fromkeys(layers, batch @ self.weight.T)

    def batches(self, indices: Sequence[int], micro_batch: int) -> Iterator[tuple[list[int], Tensor]]:
        for start in range(0, len(indices), micro_batch):
            part = list(indices[start : start + micro_batch])
            yield part, self.rows[part]


def linear_case(recipe: Recipe, heads: IdentityHeads | None = None) -> tuple[Hardener, LinearStudent, Tensor, Tensor]:
    """A hardener around a linear student; teacher and target features beside it."""
    student = LinearStudent()
    generator = torch.Generator().manual_seed(1)
    teacher, target = (torch.randn(SAMPLES, TOKENS, OUTPUTS, generator=generator) for _ in range(2))
    stores = []
    for values in (teacher, target):
        store = FeatureStore(1 << 20)
        for index, value in enumerate(values):
            store.put("projector", index, value)
        stores.append(store)
    every = list(range(SAMPLES))
    view: Any = SimpleNamespace(batches=student.batches, subjects=tuple("abcabc"))
    loss = feature_loss()
    distillation_term = DistillationTerm(
        "forget", view, stores[1], {"projector": 1.0}, loss, every, every, 1.0, SAMPLES
    )
    stack: Any = student
    hardener = Hardener(
        ForgetObjective(stack, distillation_term, recipe, stores[0], heads), {"w": student.weight}, seed=0
    )
    return hardener, student, teacher, target


def nmse(student: LinearStudent, weight: Tensor, goal: Tensor, indices: Sequence[int]) -> Tensor:
    found, wanted = student.rows[list(indices)] @ weight.T, goal[list(indices)]
    return ((found - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2))).mean()


def slope(student: LinearStudent, weight: Tensor, goal: Tensor, indices: Sequence[int]) -> Tensor:
    """Gradient of `nmse` written out: 2 / B sum_b (x W' - y)' x / |y|^2."""
    total = torch.zeros_like(weight)
    for index in indices:
        row, wanted = student.rows[index], goal[index]
        total += 2 / len(indices) * (row @ weight.T - wanted).T @ row / wanted.square().sum()
    return total


@pytest.mark.parametrize("micro_batch", [64, 2])
def test_the_tamper_gradient_is_that_of_the_formula(micro_batch: int):
    recipe = alone(tamper_weight=0.5, tamper_steps=3, tamper_size=0.2, micro_batch=micro_batch)
    hardener, student, teacher, target = linear_case(recipe)
    before = student.weight.detach().clone()
    unit = float(before.square().mean().sqrt()) / INPUTS**0.5
    attacked = before.clone()
    for _ in range(3):
        attacked -= 0.2 * unit * slope(student, attacked, teacher, (0, 1, 2)).sign()
    hardener(list(range(SAMPLES)))
    assert torch.equal(student.weight.detach(), before), "the weights have their bits back"
    assert student.weight.grad is not None
    assert torch.allclose(student.weight.grad, 0.5 * slope(student, attacked, target, (3, 4, 5)), atol=1e-6)
    assert not torch.allclose(student.weight.grad, 0.5 * slope(student, before, target, (3, 4, 5)), atol=1e-3)


def test_an_attacker_of_subjects_is_judged_on_the_others_and_keeps_its_subjects_for_a_whole_attack():
    hardener, *_ = linear_case(
        alone(tamper_weight=1.0, tamper_steps=1, tamper_horizon=2, tamper_size=0.01, tamper_split="subjects")
    )
    subjects, every = "abcabc", list(range(SAMPLES))
    seen = []
    for _ in range(40):
        shown, judged = hardener.sides(every)
        assert sorted([*shown, *judged]) == every
        assert not {subjects[index] for index in shown} & {subjects[index] for index in judged}
        seen.append("".join(sorted({subjects[index] for index in judged})))
        hardener(every)
    assert seen[::2] == seen[1::2], "both calls of an attack have the same subjects"
    assert set(seen) == {"a", "b", "c"}, "attacks take turns at random"
    # Nobody to judge it on, in this step: images are halved.
    assert hardener.sides([0, 3]) == ([0], [3])


def test_the_tamper_gradient_of_a_split_by_subjects_is_that_of_the_formula():
    recipe = alone(tamper_weight=0.5, tamper_steps=1, tamper_size=0.2, tamper_split="subjects")
    hardener, student, teacher, target = linear_case(recipe)
    before = student.weight.detach().clone()
    shown, judged = hardener.sides(range(SAMPLES))
    unit = float(before.square().mean().sqrt()) / INPUTS**0.5
    attacked = before - 0.2 * unit * slope(student, before, teacher, shown).sign()
    hardener(range(SAMPLES))
    assert torch.allclose(student.weight.grad, 0.5 * slope(student, attacked, target, judged), atol=1e-6)


def test_a_lone_image_is_both_halves():
    hardener, student, *_ = linear_case(alone(tamper_weight=1.0, tamper_steps=1))
    hardener([0])
    assert student.weight.grad is not None


def test_an_attacker_with_a_horizon_goes_on_where_it_stood():
    once, again = (linear_case(alone(tamper_weight=1.0))[0] for _ in range(2))
    reached = []
    for hardener, horizon, calls, steps in ((once, None, 1, 6), (again, 6, 3, 2)):
        attacker = SimulatedAttacker(
            hardener.weights, hardener.units, [hardener.objective.relearn], size=0.1, horizon=horizon
        )
        for call in range(calls):
            with TemporaryWeights(hardener.weights) as temporary:
                attacker.attack(temporary, [0, 1], steps)
                if call == calls - 1:
                    reached.append(hardener.weights["w"].detach().clone())
    assert torch.allclose(*reached, atol=1e-6)
    with TemporaryWeights(again.weights) as temporary:
        attacker.attack(temporary, [0, 1], 2)
        assert not torch.allclose(again.weights["w"], reached[1], atol=1e-4), "beyond the horizon it starts afresh"


def test_an_attacker_that_was_saved_goes_on_alike():
    reached = []
    for interrupted in (False, True):
        hardener, *_ = linear_case(alone(tamper_weight=1.0, tamper_steps=2, tamper_horizon=6))
        hardener([0, 1])
        if interrupted:
            saved = hardener.state_dict()
            hardener, *_ = linear_case(hardener.recipe)
            hardener.load_state_dict(saved)
        hardener.weights["w"].grad = None
        hardener([0, 1])
        reached.append(hardener.weights["w"].grad)
    assert torch.equal(*reached)
    afresh, *_ = linear_case(alone(tamper_weight=1.0, tamper_steps=2, tamper_horizon=6))
    afresh([0, 1])
    assert not torch.equal(afresh.weights["w"].grad, reached[0])
    assert linear_case(alone(tamper_weight=1.0))[0].state_dict() == {"begun": 0}


def test_goals_take_turns_and_an_attack_keeps_its_own():
    hardener, *_ = linear_case(alone(tamper_weight=1.0))
    asked = []

    def goal(name: str) -> Any:
        def losses(indices: Sequence[int]) -> Iterator[Tensor]:
            asked.append(name)
            return hardener.objective.relearn(indices)

        return losses

    attacker = SimulatedAttacker(hardener.weights, hardener.units, [goal("a"), goal("b")], size=0.1, horizon=4)
    for _ in range(6):
        with TemporaryWeights(hardener.weights) as temporary:
            attacker.attack(temporary, [0, 1], 2)
    assert "".join(asked) == "aaaabbbbaaaa"


def test_the_attacker_comes_closer_to_the_teacher():
    hardener, student, teacher, _ = linear_case(alone(tamper_weight=1.0))
    before = nmse(student, student.weight, teacher, range(SAMPLES))
    attacker = SimulatedAttacker(hardener.weights, hardener.units, [hardener.objective.relearn], size=0.1)
    with TemporaryWeights(hardener.weights) as temporary:
        attacker.attack(temporary, range(SAMPLES), 10)
        assert nmse(student, student.weight, teacher, range(SAMPLES)) < 0.8 * before


def test_a_loss_that_is_not_finite_ends_it():
    hardener, student, *_ = linear_case(alone(tamper_weight=1.0))
    with torch.no_grad():
        student.weight.fill_(float("nan"))
    with pytest.raises(SurgeryError, match="simulated attack became nan"):
        hardener([0])


def test_bfloat16_adds_steps_up_that_it_could_not_hold():
    weight = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    with TemporaryWeights({"w": weight}) as temporary:
        for _ in range(100):
            temporary.move("w", torch.full((8,), 1e-3))
        assert torch.allclose(weight.detach().float(), torch.full((8,), 1.1), atol=1e-2)
    assert torch.equal(weight.detach(), torch.ones(8, dtype=torch.bfloat16))


def test_an_error_on_the_way_gives_the_bits_back():
    weight = nn.Parameter(torch.tensor([1.0, float("nan"), -0.0]))
    before = weight.detach().view(torch.int32).clone()

    def stumble() -> None:
        with TemporaryWeights({"w": weight}) as temporary:
            temporary.move("w", torch.ones(3))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert torch.equal(weight.detach().view(torch.int32), before)


@pytest.mark.parametrize("term", ["identity_weight", "tamper_weight"])
@pytest.mark.parametrize("granularity", ["element", "row"])
def test_terms_leave_every_bit_and_teach_selected_weights_only(
    llava: Path, sets: dict[str, Path], term: str, granularity: str
):
    recipe = QUICK.model_copy(
        update={"tamper_weight": 0.0, term: 0.5, "density": 0.2, "granularity": granularity, "tamper_steps": 2}
    )
    prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
    stack, recipe = prepared.stack, prepared.job.recipe
    generator = torch.Generator().manual_seed(0)
    taught = make_terms(stack, prepared.forget, prepared.keep, recipe, generator)
    distillation_terms = taught.both
    mask = choose_mask(stack, distillation_terms[0], recipe, generator)
    weights = stack.visual_parameters()
    optimizer = build_optimizer(weights, mask, max_norm=recipe.clip)
    before = {name: value.detach().clone() for name, value in weights.items()}
    asking = {name: value.requires_grad for name, value in weights.items()}
    hardener = prepare_hardening(stack, taught, recipe, 0)
    assert hardener is not None
    hardener(distillation_terms[0].train[:8])
    assert all(torch.equal(weights[name].detach(), before[name]) for name in weights)
    assert {name: value.requires_grad for name, value in weights.items()} == asking
    assert all(value.grad is None for value in weights.values()), "what is not selected keeps no gradient"
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    optimizer.step()
    changed = {name: weights[name].detach() != before[name] for name in weights}
    assert any(bool(value.any()) for value in changed.values())
    for name, value in changed.items():
        chosen = mask.selected[name].to_bool() if name in mask.selected else torch.zeros_like(value)
        assert not (value & ~chosen).any()


HARD = QUICK.model_copy(
    update={
        "steps": 6,
        "tamper_weight": 1.0,
        "tamper_steps": 2,
        "tamper_horizon": 4,
        "tamper_goal": "both",
        "identity_weight": 0.1,
    }
)


def test_a_hardened_run_repeats_and_keeps_to_its_mask(llava: Path, sets: dict[str, Path]):
    first, again = (run(llava, sets, HARD, seed=3)[0] for _ in range(2))
    assert all(torch.equal(first.changes[name], again.changes[name]) for name in first.changes)
    plain, _ = run(llava, sets, QUICK.model_copy(update={"steps": 6}), seed=3)
    assert any(not torch.equal(first.changes[name], plain.changes[name]) for name in first.changes)
    by_suffix = {name.removeprefix("model."): mask for name, mask in first.mask.selected.items()}
    for name, mask in moved(llava, first).items():
        assert not (mask & ~by_suffix[name.removeprefix("model.")].to_bool()).any()


def judge_of(prepared: Prepared) -> Hardener:
    """Holds the teacher's features, so it is to be made while the student still is the teacher."""
    store = teacher_features(prepared.stack, prepared.forget, ("projector",), 64, 1 << 30)
    loss = feature_loss()
    distillation_term = DistillationTerm("forget", prepared.forget, store, {"projector": 1.0}, loss, [], [], 1.0, 8)
    objective = ForgetObjective(prepared.stack, distillation_term, prepared.job.recipe, store, None)
    return Hardener(objective, prepared.stack.visual_parameters(), 0)


def test_after_tampering_less_comes_back(llava: Path, sets: dict[str, Path]):
    """A fresh attacker in feature space gets less far where training has met one."""
    left = {}
    for weight in (0.0, 1.0):
        recipe = QUICK.model_copy(
            update={
                "tamper_weight": weight,
                "tamper_steps": 4,
                "tamper_horizon": None,
                "tamper_split": "pictures",
                "density": 1.0,
                "steps": 40,
                "step_size": 1.5,
                "copies": 0,
            }
        )
        prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
        hardener = judge_of(prepared)
        operate(prepared, unheard)
        attacker = SimulatedAttacker(hardener.weights, hardener.units, [hardener.objective.relearn], size=0.1)
        with TemporaryWeights(hardener.weights) as temporary:
            attacker.attack(temporary, range(0, 16, 2), 4)
            with torch.no_grad():
                left[weight] = sum(float(loss) for loss in hardener.objective.relearn(range(1, 16, 2)))
    assert left[1.0] > 1.1 * left[0.0]


def test_the_plan_counts_what_hardening_holds(llava: Path, sets: dict[str, Path]):
    plain, hard = (
        prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe)).plan.memory
        for recipe in (QUICK.model_copy(update={"tamper_weight": 0.0}), HARD)
    )
    assert plain.hardening == 0
    # Two copies of the weights, offsets twice.
    assert hard.hardening == pytest.approx(2 * plain.weights + 8 * plain.weights / 4)
    assert hard.total == pytest.approx(plain.total + hard.hardening)


def test_gradients_leave_grad_alone():
    layer = nn.Linear(3, 2)
    found = gradients(iter([layer(torch.ones(1, 3)).sum(), layer.bias.sum()]), dict(layer.named_parameters()))
    assert torch.equal(found["weight"], torch.ones(2, 3))
    assert torch.equal(found["bias"], 2 * torch.ones(2))
    assert layer.weight.grad is None
