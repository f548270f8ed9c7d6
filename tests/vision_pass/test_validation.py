"""What the stop rule looks at: held-out images and copies, the share of the way, and targets put farther."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import write_set
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import NO_SUBJECT, Sample, samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass import objective
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate
from vkdsurgeon.vision_pass.teach import teach
from vkdsurgeon.vision_pass.validation import Validation, stretched_at

CPU = torch.device("cpu")
RECIPE = Recipe(steps=10, forget_batch=8, retain_batch=8, copies=0, extensions=0, tamper_weight=0.0)


def samples(file: Path, role: str) -> list[Sample]:
    return samples_of(read_records(file, role=role), role=role)


def ready(model: Path, sets: dict[str, Path], recipe: Recipe = RECIPE) -> tuple[Prepared, Validation]:
    job = Job(model, samples(sets["forget"], "forget"), samples(sets["retain"], "retain"), [], recipe)
    prepared = teach(prepare(job))
    assert prepared.taught is not None
    return prepared, Validation(prepared.stack, prepared.taught.terms, prepared.job.recipe)


def test_an_untouched_student_reads_as_the_teacher_does(llava: Path, sets: dict[str, Path]):
    prepared, validation = ready(llava, sets)
    verdict = validation.judge()
    assert verdict.own == verdict.base_own
    assert (verdict.agree, verdict.retain_drift, verdict.reach) == (verdict.readable, 0.0, 0.0)
    assert verdict.forget_ratio == pytest.approx(1.0)
    assert verdict.held_out == (True, True)
    assert not verdict.met
    (reading,) = prepared.plan.targets.values()
    assert (reading.still, reading.subjects) == (0, 8)
    assert prepared.plan.as_dict()["targets"]["projector"]["own"] == reading.own


def test_what_is_looked_at_was_never_trained_on_in_any_form(llava: Path, sets: dict[str, Path]):
    _, validation = ready(llava, sets, RECIPE.model_copy(update={"copies": 2}))
    for term in validation.terms.both:
        trained, looked_at = (
            {term.samples.samples[index].digest for index in indices} for indices in (term.train, term.held_out)
        )
        assert not trained & looked_at
        assert len(term.held_out) == 5 * len(looked_at), "each image and four copies"


def test_subjects_with_one_image_are_judged_by_copies_and_the_verdict_says_so(llava: Path, tmp_path: Path):
    sets = {
        "forget": write_set(tmp_path, "forget", range(3), views=1),
        "retain": write_set(tmp_path, "retain", range(10, 16), views=8),
    }
    prepared, validation = ready(llava, sets)
    forget = validation.terms.forget
    assert not forget.apart
    assert sorted(forget.train) == [0, 1, 2]
    assert all(forget.samples.samples[index].variant for index in forget.held_out)
    outcome = operate(prepared, unheard)
    assert outcome.verdict.held_out == (False, True)
    assert outcome.readings["projector"].still == 0


def test_drift_is_measured_on_strangers_that_nothing_was_trained_on(llava: Path, tmp_path: Path):
    sets = {
        "forget": write_set(tmp_path, "forget", range(3), views=8),
        "retain": write_set(tmp_path, "retain", range(10, 26), views=2),
    }
    prepared, validation = ready(llava, sets)
    retain = validation.terms.retain
    files = [sample.digest for sample in retain.samples.samples]
    trained, unseen = ({files[index] for index in indices} for indices in (retain.train, retain.unseen))
    assert len(unseen) == 32 // 8
    assert not trained & unseen
    assert len(retain.unseen) == 5 * len(unseen), "each image and four copies"
    assert set(retain.unseen) < set(retain.held_out), "readings count copies of the others as well"
    verdict = operate(prepared, unheard).verdict
    assert verdict.held_out == (True, False)
    assert verdict.readable <= verdict.pictures[1] == len(retain.held_out)


def test_targets_are_put_as_far_as_images_lag_behind(llava: Path, sets: dict[str, Path]):
    _, validation = ready(llava, sets)
    stretched = validation.terms.stretched
    plain = stretched.get("projector", [0, 1], CPU)
    origin = stretched.teacher.get("projector", [0, 1], CPU)
    validation.stretch()
    # The student went no part of the way, and twice the way is the farthest.
    assert stretched.stretch == 2.0
    torch.testing.assert_close(stretched.get("projector", [0, 1], CPU), origin + 2 * (plain - origin))
    power = stretched.get("projector", [0, 1], CPU).square().mean(dim=(1, 2))
    torch.testing.assert_close(stretched.powers("projector", [0, 1], CPU), power)
    again = Validation(validation.stack, validation.terms, validation.recipe)
    stretched.stretch = 1.0
    again.load_state_dict({"stretch": 1.5})
    assert again.state_dict() == {"stretch": 1.5}
    assert validation.judge().stretch == 1.5


def test_the_way_is_measured_late_and_before_the_end():
    assert stretched_at(300) == (180, 240)
    assert all(step >= 1 for step in stretched_at(1))


def test_images_without_a_name_are_nobodys_crowd(llava: Path, tmp_path: Path):
    """Beside named images too, each stands for someone of its own; a lone name that is forgotten stays that name."""
    forget, named, flat = (
        samples(write_set(tmp_path, role, subjects, views=views), role)
        for role, subjects, views in (
            ("forget", range(3), 2),
            ("retain", range(10, 12), 2),
            ("generic", range(20, 23), 1),
        )
    )

    def known(generic: list[Sample], subject: str, retain: Sequence[Sample] = ()) -> set[str]:
        generic = [replace(each, subject=subject) for each in generic]
        return set(prepare(Job(llava, forget, list(retain), generic, RECIPE)).keep.subjects)

    assert len(known(flat, NO_SUBJECT, named)) == 2 + len(flat)
    assert len(known(flat, "strangers")) == len(flat)
    assert known(flat, forget[0].subject) == {forget[0].subject}


def test_features_that_are_not_finite_name_the_image(llava: Path, sets: dict[str, Path]):
    prepared, _ = ready(llava, sets)
    store = FeatureStore(1 << 20)
    for index in range(len(prepared.keep)):
        store.put("projector", index, torch.full((2, 2), float("nan") if index == 3 else 1.0))
    with pytest.raises(UserError, match="not finite") as caught:
        objective._refuse_not_finite(store, prepared.keep, ("projector",))
    assert prepared.keep.samples[3].source in str(caught.value)


def test_of_very_many_subjects_some_have_centroids(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(objective, "_CENTROIDS", 1000)
    subjects = [str(index // 2) for index in range(400)]
    assert len(objective._of_few_subjects(subjects, range(400), 1)) == 400
    few = objective._of_few_subjects(subjects, range(400), 10)
    assert len({subjects[index] for index in few}) == 100
    assert len(objective._of_few_subjects(subjects, range(400), 10**9)) >= 100, "64 subjects at least"
