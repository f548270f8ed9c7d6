"""The operation on real (tiny) checkpoints: what moves, what stays, what it refuses."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from vkdsurgeon_kernels import target_power

from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.config.forgetting import Distance, ForgetTarget
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.model.features import teacher_features
from vkdsurgeon.model.precision import resolve_precision
from vkdsurgeon.training.events import Event, Step, unheard
from vkdsurgeon.training.losses import feature_loss
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.objective import make_terms
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import Outcome, operate
from vkdsurgeon.vision_pass.step_control import StepControl

QUICK = Recipe(
    steps=30,
    forget_batch=8,
    retain_batch=16,
    forget_reading=1.0,
    retain_reading=1.0,
    retain_drift=0.28,
    extensions=0,
    depth="all",
    tamper_weight=0.0,
    copies=1,
)


def samples(sets: dict[str, Path], role: str) -> list[Sample]:
    return samples_of(read_records(sets[role], role=role), role=role)


def run(llava: Path, sets: dict[str, Path], recipe: Recipe = QUICK, **changes: object) -> tuple[Outcome, list[Step]]:
    job = {"forget": samples(sets, "forget"), "retain": samples(sets, "retain"), "generic": [], **changes}
    steps: list[Step] = []
    outcome = operate(
        prepare(Job(model=llava, recipe=recipe, **job)),
        lambda event: steps.append(event.subject) if event.kind == "step" else None,
    )
    return outcome, steps


@pytest.fixture(scope="module")
def plain(llava: Path, sets: dict[str, Path]) -> tuple[Outcome, list[Step]]:
    """The quick recipe as it stands; read-only."""
    return run(llava, sets)


def originals(llava: Path, names: list[str]) -> dict[str, torch.Tensor]:
    inventory = take_inventory(llava)
    return {name: read_tensor(inventory, name) for name in names}


def moved(llava: Path, outcome: Outcome) -> dict[str, torch.Tensor]:
    before = originals(llava, list(outcome.changes))
    return {name: outcome.changes[name] != before[name] for name in before}


def test_the_student_moves_towards_its_targets_and_keeps_the_rest(plain: tuple[Outcome, list[Step]]):
    outcome, steps = plain
    assert [step.step for step in steps] == list(range(1, 31))
    assert outcome.verdicts[0].forget_ratio < 0.6
    assert outcome.verdicts[0].retain_drift < 0.3
    assert outcome.verdicts[0].held_out == (True, True)
    assert steps[-1].values["similarity"] > steps[0].values["similarity"]
    assert set(outcome.stand_ins) == {"person 0", "person 1"}
    assert all(name.startswith("person 1") for drawn in outcome.stand_ins.values() for name in drawn)


def test_copies_are_trained_on_and_never_held_out(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"copies": 2, "validation_share": 0.25})
    prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
    plain = prepared.job.recipe.model_copy(update={"copies": 0})
    made = [
        make_terms(prepared.stack, prepared.forget, prepared.keep, each, torch.Generator().manual_seed(0))
        for each in (plain, prepared.job.recipe)
    ]
    # Forget images have twice as many.
    for before, after, copies in zip(made[0].both, made[1].both, (4, 2), strict=True):
        assert after.apart
        assert before.apart
        assert len(after.train) == (1 + copies) * len(before.train)
        held_out = {after.samples.samples[index].digest for index in after.held_out}
        assert held_out == {before.samples.samples[index].digest for index in before.held_out}
        assert not held_out & {after.samples.samples[index].digest for index in after.train}
        # Who somebody is, and where nobody lies, is read from the images as they are.
        originals = list(range(before.originals))
        for layer in before.layers:
            left, right = (term.targets.get(layer, originals, torch.device("cpu")) for term in (before, after))
            torch.testing.assert_close(left, right)


def test_no_more_copies_are_made_than_the_steps_can_draw(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"copies": 50, "steps": 3})
    prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
    terms = make_terms(prepared.stack, prepared.forget, prepared.keep, prepared.job.recipe, torch.Generator())
    for term in terms.both:
        assert len(term.train) <= max(3 * term.batch, len({p.digest for p in term.samples.samples}))


def test_a_run_with_copies_repeats_itself(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"copies": 1, "steps": 4})
    first, second = (run(llava, sets, recipe)[0].changes for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_selected_elements_move(llava: Path, sets: dict[str, Path]):
    outcome, _ = run(llava, sets, QUICK.model_copy(update={"density": 0.1, "weight_decay": 0.5}))
    changed = moved(llava, outcome)
    assert sum(int(mask.sum()) for mask in changed.values()) > 0.5 * outcome.mask.count
    # Names of modules and of tensors on disk agree in this checkpoint up to a prefix.
    by_suffix = {name.removeprefix("model."): mask for name, mask in outcome.mask.selected.items()}
    for name, mask in changed.items():
        assert not (mask & ~by_suffix[name.removeprefix("model.")].to_bool().cpu()).any()
    assert outcome.mask.count == round(0.1 * outcome.mask.total)


@pytest.mark.parametrize("granularity", ["row", "tensor", "layer"])
def test_units_move_as_a_whole(llava: Path, sets: dict[str, Path], granularity: str):
    recipe = QUICK.model_copy(update={"steps": 3, "density": 0.5, "granularity": granularity})
    prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
    outcome = operate(prepared, unheard)
    selected = outcome.mask.selected
    assert 0 < outcome.mask.density < 1
    if granularity == "row":
        matrices = [mask for mask in selected.values() if len(mask.shape) > 1]
        assert matrices
        assert all(mask.rows() is not None for mask in matrices)
        assert abs(outcome.mask.density - 0.5) < 0.01
        return
    assert all(mask.count == mask.numel() for mask in selected.values())
    if granularity == "layer":
        every = run(llava, sets, recipe.model_copy(update={"density": 1.0}))[0].mask.selected
        reached = {prepared.stack.layer_of(name) for name in selected}
        assert set(selected) == {name for name in every if prepared.stack.layer_of(name) in reached}
        assert reached < {prepared.stack.layer_of(name) for name in every}, "some layers stay"


def test_weights_without_a_gradient_are_never_written(llava: Path, sets: dict[str, Path]):
    outcome, _ = run(llava, sets, QUICK.model_copy(update={"density": 1.0, "weight_decay": 0.5}))
    # The feature layer is the last but one, so the last layer has no say.
    assert not any("layers.2." in name for name in outcome.changes)
    assert any("layers.1." in name for name in outcome.changes)


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(
    llava: Path, sets: dict[str, Path], plain: tuple[Outcome, list[Step]]
):
    first, again, other = plain[0].changes, *(run(llava, sets, seed=seed)[0].changes for seed in (0, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first if name in other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("mixed", marks=pytest.mark.campaign)])
def test_changes_have_the_dtype_on_disk(llava: Path, sets: dict[str, Path], precision: str):
    outcome, _ = run(llava, sets, **resolve_precision(precision))
    before = originals(llava, list(outcome.changes))
    assert all(outcome.changes[name].dtype == before[name].dtype == torch.bfloat16 for name in before)
    assert outcome.verdicts[0].forget_ratio < 0.7


def test_several_layers_can_be_taught(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"layers": {"layer.0": 0.5, "projector": 1.0}})
    outcome, _ = run(llava, sets, recipe)
    assert outcome.verdicts[0].forget_ratio < 0.8


@pytest.mark.parametrize("target", [name for name in get_args(ForgetTarget) if name not in ("nobody", "reference")])
def test_every_forget_target_is_approached(
    llava: Path, sets: dict[str, Path], plain: tuple[Outcome, list[Step]], target: str
):
    outcome, steps = run(llava, sets, QUICK.model_copy(update={"forget_target": target}))
    assert outcome.verdicts[0].forget_ratio < 0.9
    assert steps[-1].values["forget_loss"] < steps[0].values["forget_loss"]
    nobody = plain[0].changes
    shared = nobody.keys() & outcome.changes.keys()
    assert any(not torch.equal(nobody[name], outcome.changes[name]) for name in shared)


def test_targets_reach_every_layer_that_is_taught(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"layers": {"layer.0": 0.5, "projector": 1.0}, "forget_target": "swap"})
    outcome, _ = run(llava, sets, recipe)
    assert outcome.verdicts[0].forget_ratio < 0.9


@pytest.mark.parametrize(
    "distance",
    [
        pytest.param(each, marks=() if each in ("nmse", "cosine") else pytest.mark.campaign)
        for each in get_args(Distance)
    ],
)
def test_every_distance_holds_what_it_measures(llava: Path, sets: dict[str, Path], distance: Distance):
    """A strong term of the distance itself keeps it smaller than a vanishing one does."""
    left = {}
    for weight in (1e-6, 50.0):
        changes = {"distance": distance, "retain_weight": weight, "steps": 15, "step_size": 1.5}
        recipe = QUICK.model_copy(update=changes)
        prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
        before = teacher_features(prepared.stack, prepared.keep, ("projector",), 64, 1 << 30).all("projector")
        operate(prepared, unheard)
        after = teacher_features(prepared.stack, prepared.keep, ("projector",), 64, 1 << 30).all("projector")
        student, target = torch.stack(after), torch.stack(before)
        settings = {"layer_weights": [1.0], "sample_weights": torch.ones(48), "target_power": [target_power(target)]}
        left[weight] = float(feature_loss(distance)([student], [target], **settings).mean())
    assert left[50.0] < 0.7 * left[1e-6]


def test_an_extension_mends_what_failed(llava: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Where forgetting is complete and retention is not, retention weighs more in what is added."""
    failed: list[int] = []
    favour = StepControl.favour_retention
    monkeypatch.setattr(
        StepControl, "favour_retention", lambda control, count: (failed.append(count), favour(control, count))
    )
    careless = {"copies": 4, "retain_weight": 0.1, "retain_drift": 0.1, "extensions": 1, "step_drift": 0.01}
    outcome, _ = run(llava, sets, QUICK.model_copy(update=careless))
    first, second = outcome.verdicts
    assert (first.forgotten, first.kept, failed) == (True, False, [0, 1])
    assert second.retain_drift < first.retain_drift


def test_retention_can_look_elsewhere_and_the_stop_rule_looks_where_it_did(llava: Path, sets: dict[str, Path]):
    free = QUICK.model_copy(update={"retain_drift": 10.0, "step_size": 1.5})
    here, _ = run(llava, sets, free)
    elsewhere, _ = run(llava, sets, free.model_copy(update={"retain_layers": {"layer.0": 1.0}}))
    assert elsewhere.verdicts[0].retain_drift > 2 * here.verdicts[0].retain_drift, "the projector is not held"
    with pytest.raises(UserError, match="recipe key 'retain_layers'"):
        run(llava, sets, QUICK.model_copy(update={"retain_layers": {"layer.9": 1.0}}))


def test_retention_covers_every_output_too(tmp_path: Path, sets: dict[str, Path]):
    model = build_checkpoint("qwen3_vl", tmp_path / "model")
    recipe = QUICK.model_copy(update={"retain_layers": {"layer.0": 1.0, "projector": 3.0}})
    prepared = prepare(Job(model, samples(sets, "forget"), samples(sets, "retain"), [], recipe))
    kept = prepared.job.recipe.retain_layers
    assert kept == {"layer.0": 1.0, "deepstack.0": 3.0, "deepstack.1": 3.0, "projector": 3.0}


@pytest.fixture(scope="module")
def default_mask(llava: Path, sets: dict[str, Path]) -> SaliencyMask:
    """A tenth by the default rule; read-only."""
    return run(llava, sets, QUICK.model_copy(update={"steps": 1, "density": 0.1}))[0].mask


def test_the_random_mask_has_the_size_of_the_default(llava: Path, sets: dict[str, Path], default_mask: SaliencyMask):
    recipe = QUICK.model_copy(update={"steps": 1, "density": 0.1, "saliency": "random"})
    chosen, again = (run(llava, sets, recipe)[0].mask for _ in range(2))
    plain = default_mask
    assert plain.count == chosen.count == again.count

    def shared(left: SaliencyMask, right: SaliencyMask) -> int:
        both = left.selected.keys() & right.selected.keys()
        return sum(int((left.selected[name].to_bool() & right.selected[name].to_bool()).sum()) for name in both)

    assert shared(chosen, again) == plain.count, "one seed, one mask"
    assert shared(plain, chosen) < 0.95 * plain.count


@pytest.mark.parametrize(
    ("depth", "moving"),
    [(1, ("layers.1.", "multi_modal_projector", "post_layernorm")), ("projector", ("multi_modal_projector",))],
)
def test_depth_counts_from_the_feature_layer(
    llava: Path, sets: dict[str, Path], depth: int | str, moving: tuple[str, ...]
):
    recipe = QUICK.model_copy(update={"depth": depth, "density": 0.5})
    outcome, _ = run(llava, sets, recipe)
    assert all(any(part in name for part in moving) for name in outcome.changes)
    assert any(moving[0] in name for name in outcome.changes)
    assert outcome.mask.density == pytest.approx(0.5, abs=0.01), "a share of what depth leaves"
    assert outcome.verdicts[0].forget_ratio < 0.9


def test_all_layers_are_as_deep_as_depth_goes(llava: Path, sets: dict[str, Path]):
    """The tower has three layers, of which two reach the projector."""
    for depth in (2, 3):
        outcome, _ = run(llava, sets, QUICK.model_copy(update={"depth": depth, "steps": 2}))
        assert any("layers.0." in name for name in outcome.changes)
        assert not any("embed" in name or "layers.2." in name for name in outcome.changes)


def test_depth_counts_from_every_output_of_the_tower(tmp_path: Path, sets: dict[str, Path]):
    """Of Qwen3-VL's three layers, the first two feed the language model at once, through mergers of their own."""
    model = build_checkpoint("qwen3_vl", tmp_path / "model")
    outcome, _ = run(model, sets, QUICK.model_copy(update={"depth": 1, "steps": 2, "density": 1.0}))
    for number in range(3):
        assert any(f"blocks.{number}." in name for name in outcome.changes)
    assert not any("embed" in name for name in outcome.changes)


def test_a_projector_inside_the_tower_counts_as_one(tmp_path: Path, sets: dict[str, Path]):
    model = build_checkpoint("qwen2_vl", tmp_path / "model")
    outcome, _ = run(model, sets, QUICK.model_copy(update={"depth": "projector"}))
    assert outcome.changes
    assert all("merger" in name for name in outcome.changes)


def test_a_micro_batch_changes_memory_not_the_result(llava: Path, sets: dict[str, Path]):
    whole, _ = run(llava, sets, QUICK.model_copy(update={"steps": 5}))
    parts, _ = run(llava, sets, QUICK.model_copy(update={"steps": 5, "micro_batch": 3}))
    assert abs(whole.verdicts[0].forget_ratio - parts.verdicts[0].forget_ratio) < 0.02


def test_generic_images_alone_are_enough(llava: Path, sets: dict[str, Path]):
    outcome, _ = run(llava, sets, retain=[], generic=samples(sets, "generic"))
    assert outcome.verdicts[0].forget_ratio < 0.7


def test_unlabelled_retain_images_count_as_one_identity_each(llava: Path, sets: dict[str, Path]):
    nameless = [Sample(p.path, "subject", p.digest, p.source) for p in samples(sets, "retain")]
    outcome, _ = run(llava, sets, QUICK.model_copy(update={"steps": 2}), retain=nameless)
    assert all(len(set(drawn)) == 2 for drawn in outcome.stand_ins.values())


def test_the_stop_rule_extends_the_run_and_then_says_so(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"steps": 2, "forget_reading": 0.0, "extensions": 2})
    outcome, steps = run(llava, sets, recipe)
    assert [step.steps for step in steps] == [2, 2, 1, 1]
    assert len(outcome.verdicts) == 3
    assert not outcome.verdicts[-1].met


def test_a_loss_that_is_not_finite_stops_everything(llava: Path, sets: dict[str, Path]):
    with pytest.raises(SurgeryError, match="lower step_size"):
        run(llava, sets, QUICK.model_copy(update={"step_size": 1e30}))


def test_sets_that_overlap_are_refused(llava: Path, sets: dict[str, Path]):
    with pytest.raises(UserError, match="share 1 image"):
        run(llava, sets, retain=[*samples(sets, "retain"), samples(sets, "forget")[0]])


def test_a_layer_that_does_not_exist_is_refused_with_the_known_names(llava: Path, sets: dict[str, Path]):
    with pytest.raises(UserError, match=r"layer.0.*projector"):
        run(llava, sets, QUICK.model_copy(update={"layers": {"layer.9": 1.0}}))


def test_the_plan_counts_what_there_is(llava: Path, sets: dict[str, Path]):
    job = Job(llava, samples(sets, "forget"), samples(sets, "retain"), samples(sets, "generic"), QUICK)
    plan = prepare(job).plan
    assert (plan.forget_pictures, plan.forget_subjects) == (16, 2)
    assert (plan.retain_pictures, plan.retain_subjects, plan.generic_pictures) == (48, 6, 12)
    assert plan.memory.activations > 0
    assert plan.memory.total >= plan.memory.weights + plan.memory.gradients + plan.memory.optimizer
    assert plan.as_dict()["memory_mib"]["total"] > 0


def test_every_depth_that_the_language_model_reads_is_taught(tmp_path: Path, sets: dict[str, Path]):
    model = build_checkpoint("qwen3_vl", tmp_path / "model")
    prepared = prepare(Job(model, samples(sets, "forget"), samples(sets, "retain"), [], QUICK))
    assert prepared.plan.layers == ("deepstack.0", "deepstack.1", "projector")
    outcome = operate(prepared, unheard)
    assert outcome.verdicts[0].forget_ratio < 0.9
    assert any("deepstack_merger_list" in name for name in outcome.changes)


def test_a_vast_retain_set_is_sampled_to_what_the_steps_can_draw(llava: Path, sets: dict[str, Path]):
    recipe = QUICK.model_copy(update={"steps": 2})
    prepared = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe, seed=1))
    assert len(prepared.keep) == 32
    assert any("32 of 48" in warning for warning in prepared.plan.warnings)
    again = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], recipe, seed=1))
    assert again.keep.samples == prepared.keep.samples


def test_no_gradient_hooks_stay_after_an_error(llava: Path, sets: dict[str, Path]):
    """Whoever trains the same weights next would lose its gradients to them."""
    ready = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], QUICK))

    def interrupt(event: Event) -> None:
        if event.kind == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        operate(ready, interrupt)
    for parameter in ready.stack.visual_parameters().values():
        assert not parameter._post_accumulate_grad_hooks


def test_no_gradient_hooks_stay_where_training_cannot_begin(
    llava: Path, sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    ready = prepare(Job(llava, samples(sets, "forget"), samples(sets, "retain"), [], QUICK))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vkdsurgeon.vision_pass.course.prepare_hardening", full)
    with pytest.raises(MemoryError):
        operate(ready, unheard)
    for parameter in ready.stack.visual_parameters().values():
        assert not parameter._post_accumulate_grad_hooks
