"""Teachers: what speaks against the given one, and others in its place."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import write_set
from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.features import SampleSet, teacher_features
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.objective import make_terms
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import Outcome, operate
from vkdsurgeon.vision_pass.teacher_quality import (
    TeacherQuality,
    choose_samples,
    earlier_operations,
    examine,
    kind_warnings,
    measure_features,
    quality_warnings,
)

QUICK = Recipe(
    steps=20, forget_batch=8, retain_batch=16, forget_reading=1.0, retain_reading=1.0, retain_drift=10.0, extensions=0,
    copies=1, tamper_weight=0.0,
)  # fmt: skip


def samples(sets: dict[str, Path], role: str) -> list[Sample]:
    return samples_of(read_records(sets[role], role=role), role=role)


def prepared(model: Path, sets: dict[str, Path], recipe: Recipe = QUICK, **others: Path) -> Prepared:
    return prepare(Job(model, samples(sets, "forget"), samples(sets, "retain"), [], recipe, **others))


def run(model: Path, sets: dict[str, Path], recipe: Recipe = QUICK, **others: Path) -> Outcome:
    return operate(prepared(model, sets, recipe, **others), unheard)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture as `llava` with other random weights."""
    return build_checkpoint("llava", tmp_path_factory.mktemp("models") / "other", dtype=torch.bfloat16, seed=7)


def rewritten(model: Path, out: Path, change: float) -> Path:
    """A copy whose patch embedding, all that an image enters through, is multiplied."""
    shutil.copytree(model, out)
    for file in out.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if "patch_embedding" in name:
                tensors[name] = tensors[name] * change
        save_file(tensors, file, metadata={"format": "pt"})
    return out


def test_the_statistics_are_ratios_of_variances():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, 1, 3, 16, generator=generator)
    values = centres + 0.5 * torch.randn(40, 3, 3, 16, generator=generator)
    subjects = [str(subject) for subject in range(40) for _ in range(3)]
    quality = measure_features(list(values.flatten(0, 1)), subjects)
    assert quality.separation == pytest.approx(1 / 0.25, rel=0.1)
    assert quality.variation == pytest.approx(1, rel=0.05), "zero mean: all power is variance"
    assert quality.token_variation == pytest.approx(2 / 3, rel=0.05), "a mean over three tokens is taken out"
    assert quality_warnings(quality, "the features") == []


def test_separation_is_not_fooled_by_few_images_of_a_subject():
    values = torch.randn(200, 2, 8, generator=torch.Generator().manual_seed(1))
    quality = measure_features(list(values), [str(index // 2) for index in range(200)])
    assert quality.separation is not None
    assert quality.separation < 0.05


@pytest.mark.parametrize(("subjects", "width", "told"), [(8, 16, False), (100, 64, True)])
def test_no_separation_in_a_few_images_is_no_verdict(subjects: int, width: int, told: bool):
    """Two images each, whose subjects make no difference: eight pairs may just happen to look like that."""
    values = torch.randn(2 * subjects, 1, width, generator=torch.Generator().manual_seed(0))
    quality = measure_features(list(values), [str(index // 2) for index in range(2 * subjects)])
    assert (quality.separation is not None) == told
    assert [warning for warning in quality_warnings(quality, "x") if "tell subjects apart" in warning] == [] or told


def test_what_cannot_be_told_is_not_told():
    values = [torch.randn(1, 8) for _ in range(4)]
    quality = measure_features(values, ["a", "b", "c", "d"])
    assert (quality.separation, quality.token_variation) == (None, None)
    varied = measure_features([torch.randn(tokens, 8) for tokens in (2, 5, 3, 2)], ["a", "a", "b", "b"])
    assert varied.separation is not None


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        (TeacherQuality(8, 1e-6, 0.5, 1.0), "between images"),
        (TeacherQuality(8, 0.5, 1e-6, 1.0), "between the tokens"),
        (TeacherQuality(8, 0.5, 0.5, 0.0), "tell subjects apart"),
    ],
)
def test_each_statistic_can_raise_doubts(quality: TeacherQuality, said: str):
    (warning,) = quality_warnings(quality, "its features")
    assert said in warning


def test_a_sample_prefers_subjects_with_several_images():
    crowd = [Sample(Path(f"{n}.png"), str(n), str(n), "x") for n in range(20)]
    known = [Sample(Path(f"k{n}.png"), "known", f"k{n}", "x") for n in range(9)]
    sample = choose_samples([*crowd, *known])
    assert [each.subject for each in sample[:4]] == ["known"] * 4
    assert len(sample) == 4 + 7


def test_a_sound_teacher_is_not_doubted_and_its_figures_are_in_the_plan(llava: Path, sets: dict[str, Path]):
    plan = prepared(llava, sets).plan
    assert plan.teacher.pictures == 2 * 4 + 6 * 4
    assert plan.as_dict()["teacher"]["separation"] > 1
    assert not any("teacher" in warning for warning in plan.warnings)


def test_a_collapsed_teacher_is_told(llava: Path, sets: dict[str, Path], tmp_path: Path):
    plan = prepared(rewritten(llava, tmp_path / "blind", 1e-3), sets).plan
    assert any("hardly differ between images" in warning for warning in plan.warnings)


def test_features_that_are_not_finite_are_refused_before_training(llava: Path, sets: dict[str, Path], tmp_path: Path):
    with pytest.raises(UserError, match=r"NaN or infinite on \d+ of \d+ images"):
        prepared(rewritten(llava, tmp_path / "loud", 1e38), sets)


def test_a_checkpoint_that_was_unlearned_before_says_so(llava: Path, sets: dict[str, Path], tmp_path: Path):
    patched = tmp_path / "patched"
    shutil.copytree(llava, patched)
    (patched / "vkdsurgeon.json").write_text(json.dumps({"schema": "vkdsurgeon/provenance/1"}))
    (patched / "vkdsurgeon.notes.json").write_text("[not json")
    (patched / "vkdsurgeon.other.json").write_text(json.dumps({"schema": "somebody/else/1"}))
    assert earlier_operations(take_inventory(patched), "image") == ["vkdsurgeon.json"]
    assert earlier_operations(take_inventory(patched), "audio") == []
    assert any("unlearned before (vkdsurgeon.json)" in warning for warning in prepared(patched, sets).plan.warnings)
    as_teacher = prepared(llava, sets, retain_teacher=patched).plan
    assert any("checkpoint of `retain_teacher` was unlearned" in warning for warning in as_teacher.warnings)


def test_a_reference_model_is_imitated_on_forget_images(llava: Path, sets: dict[str, Path], other: Path):
    recipe = QUICK.model_copy(update={"forget_target": "reference", "copies": 0, "tamper_weight": 0.0})
    ready = prepared(llava, sets, recipe, forget_teacher=other)
    terms = make_terms(
        ready.stack,
        ready.forget,
        ready.keep,
        ready.job.recipe,
        torch.Generator(),
        forget_teacher=ready.job.teacher("forget"),
    )
    stack = load_visual_stack(other, device="cpu")
    expected = teacher_features(stack, SampleSet(stack, ready.forget.samples, 0), ("projector",), 64, 1 << 30)
    theirs = expected.all("projector")
    for index, mine in enumerate(terms.targets.features.all("projector")[: len(theirs)]):
        torch.testing.assert_close(mine, theirs[index])
    assert terms.targets.stand_ins == {}
    assert operate(ready, unheard).verdicts[0].forget_ratio < 0.9
    assert len(ready.plan.other_teachers["forget"]) == 64


def test_another_retain_teacher_is_what_is_kept(llava: Path, sets: dict[str, Path], other: Path):
    """Its features differ from the student's at first, and retention pulls the student over."""
    drift = [
        run(llava, sets, QUICK.model_copy(update={"steps": steps}), retain_teacher=other).verdicts[0].retain_drift
        for steps in (1, 40)
    ]
    assert drift[0] > 0.3
    assert drift[1] < 0.7 * drift[0]
    itself = run(llava, sets, retain_teacher=llava)
    plain = run(llava, sets)
    assert all(torch.equal(plain.changes[name], itself.changes[name]) for name in plain.changes)


def test_coming_nearer_to_another_retain_teacher_is_no_drift(llava: Path, sets: dict[str, Path], other: Path):
    """Steps towards the teacher of the retain images are kept, however far the student was from it at first."""
    bounded = QUICK.model_copy(update={"steps": 30, "retain_drift": 0.12})
    outcome = run(llava, sets, bounded, retain_teacher=other)
    assert outcome.step_size is not None
    assert outcome.step_size.undone < 10
    assert outcome.step_size.last > 0.1 * outcome.step_size.found


@pytest.mark.parametrize("role", ["forget", "retain"])
def test_a_teacher_of_another_shape_is_refused_by_its_option(
    llava: Path, sets: dict[str, Path], tmp_path: Path, role: str
):
    wrong = build_checkpoint("qwen3_vl", tmp_path / "qwen")
    recipe = QUICK.model_copy(update={"forget_target": "reference"}) if role == "forget" else QUICK
    with pytest.raises(UserError, match=rf"`{role}_teacher` .*qwen: .*another shape"):
        prepared(llava, sets, recipe, **{f"{role}_teacher": wrong})
    with pytest.raises(UserError, match=rf"`{role}_teacher` .*llava: .*no layer 'deepstack.0'"):
        prepared(wrong, sets, recipe, **{f"{role}_teacher": llava})


def test_a_teacher_of_another_lineage_is_told(llava: Path, sets: dict[str, Path], other: Path):
    assert any("own lineage" in warning for warning in prepared(llava, sets, retain_teacher=other).plan.warnings)
    assert not any("own lineage" in warning for warning in prepared(llava, sets, retain_teacher=llava).plan.warnings)


@pytest.mark.parametrize(("target", "given"), [("reference", False), ("nobody", True)])
def test_a_reference_target_and_a_reference_model_go_together(
    llava: Path, sets: dict[str, Path], other: Path, target: str, given: bool
):
    recipe = QUICK.model_copy(update={"forget_target": target})
    with pytest.raises(UserError, match="go together"):
        prepared(llava, sets, recipe, **({"forget_teacher": other} if given else {}))


def test_quality_is_measured_where_images_differ_in_shape(tmp_path: Path):
    stack = load_visual_stack(build_checkpoint("qwen2_vl", tmp_path / "model"), device="cpu")
    file = write_set(tmp_path, "some", range(3), views=2)
    chosen = samples_of(read_records(file, role="retain"), role="retain")
    quality = examine(stack, chosen, 4, 1 << 30)
    assert quality.pictures == 6
    assert quality.separation is not None


@pytest.mark.parametrize(("forgotten", "views"), [(1, 3), (4, 4), (8, 1), (20, 2)])
def test_sets_of_one_kind_are_not_apart_however_few(forgotten: int, views: int):
    """A set of few subjects has a mean of its own by chance; the statistic leaves that out."""
    found = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        values, subjects = [], []
        for subject in range(forgotten + 8):
            centre = torch.randn(1, 1, 64, generator=generator)
            count = views if subject < forgotten else 4
            values += list(centre + torch.randn(count, 3, 64, generator=generator))
            subjects += [str(subject)] * count
        quality = measure_features(values, subjects, forgotten * views)
        assert quality.apart is not None
        found.append(quality.apart)
        assert kind_warnings(quality) == []
        moved = [value + 2.0 * (index < forgotten * views) for index, value in enumerate(values)]
        assert kind_warnings(measure_features(moved, subjects, forgotten * views))
    assert sum(found) / len(found) == pytest.approx(1, abs=0.15)


def test_kept_images_of_another_kind_are_told(llava: Path, sets: dict[str, Path], tmp_path: Path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(8):
        page = generator.integers(220, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(page).save(folder / f"{number}.png")
    job = Job(
        llava,
        samples_of(read_records(sets["forget"], role="forget"), role="forget"),
        [],
        samples_of(read_records(folder, role="generic"), role="generic"),
        QUICK,
    )
    assert any("look unlike those to forget" in warning for warning in prepare(job).plan.warnings)
    assert not any("look unlike" in warning for warning in prepared(llava, sets).plan.warnings)
