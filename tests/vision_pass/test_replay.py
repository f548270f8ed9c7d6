"""What earlier requests forgot stays forgotten without their images."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load
from safetensors.torch import save as save_tensors

from tests.conftest import write_set
from tests.families import FAMILIES, build_checkpoint
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass.job import Job, Prepared
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.replay_format import read_replays, replay_digest, write_replay
from vkdsurgeon.vision_pass.run import operate
from vkdsurgeon.vision_pass.targets.stretched import StretchedTargets
from vkdsurgeon.vision_pass.teach import teach
from vkdsurgeon.vision_pass.teacher import visual_digest
from vkdsurgeon.vision_pass.trainer import DistillationTerm

QUICK = Recipe(
    steps=20, forget_batch=4, retain_batch=8, copies=1, depth=1, extensions=0, tamper_weight=0.0,
    forget_reading=1.0, retain_reading=1.0, retain_drift=0.9,
)  # fmt: skip


def samples(sets: dict[str, Path], role: str, subjects: slice = slice(None)) -> list[Sample]:
    found = samples_of(read_records(sets[role], role=role), role=role)
    wanted = sorted({each.subject for each in found})[subjects]
    return [each for each in found if each.subject in wanted]


def prepared(model: Path, sets: dict[str, Path], who: slice, **changes: object) -> Prepared:
    job = {"recipe": QUICK, "generic": [], "forget": samples(sets, "forget", who), **changes}
    return teach(prepare(Job(model=model, **{"retain": samples(sets, "retain"), **job})))  # type: ignore[arg-type]


def save(made: Prepared, path: Path, key: Path | None = None) -> Path:
    assert made.taught is not None
    terms = made.taught.terms
    assert terms.activations is not None
    write_replay(path, visual_digest(made.stack), terms.forget, terms.activations, key)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("llava", tmp_path_factory.mktemp("models") / "llava")


# One batch of equal images, one of native resolution, one of tiles; the others come with the campaigns.
_EVERY_DAY = ("llava", "qwen2_vl", "idefics3")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in _EVERY_DAY else pytest.mark.campaign)
        for family in FAMILIES
        if family != "qwen3_vl"
    ],
)
def test_replayed_activations_give_the_features_of_the_images(
    family: str, sets: dict[str, Path], tmp_path: Path
) -> None:
    model = build_checkpoint(family, tmp_path / "model")
    made = prepared(model, sets, slice(0, 1))
    file = save(made, tmp_path / "first.safetensors")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    replay = read_replays([file], None)
    assert replay.subjects == 1
    again = prepared(model, sets, slice(1, 2), replay=replay)
    assert (again.plan.replayed_pictures, again.plan.replayed_subjects) == (len(replay.images), 1)
    assert made.taught is not None
    assert again.taught is not None
    term, whole = again.taught.terms.forget, made.taught.terms.forget
    first = len(again.job.forget)
    assert term.originals == first + whole.originals
    assert len(set(term.samples.subjects)) == 2
    for index in range(whole.originals):
        inputs = term.samples.prepared(first + index).inputs
        assert all((value == 1).all() for value in inputs.values() if value.is_floating_point()), "no pixel is kept"
        kept, expected = (teacher_of(each).one("projector", at) for each, at in ((term, first + index), (whole, index)))
        # Rounded to bfloat16 on their way.
        assert float((kept - expected).norm() / expected.norm()) < 0.03


def test_altered_copies_are_replayed_too(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    made = prepared(deep, sets, slice(0, 1))
    replay = read_replays([save(made, tmp_path / "first.safetensors")], None)
    again = prepared(deep, sets, slice(1, 2), replay=replay)
    assert made.taught is not None
    assert again.taught is not None
    whole, term = made.taught.terms.forget, again.taught.terms.forget
    # Images are held out, and copied, as they were when they were there.
    first = len(again.job.forget)
    images = {
        (index if index < whole.originals else _original(whole, index), sample.variant): index
        for index, sample in enumerate(whole.samples.samples)
    }
    found = {
        (index if index < term.originals else _original(term, index), sample.variant): index
        for index, sample in enumerate(term.samples.samples)
        if sample.subject.startswith("replayed")
    }
    assert {(original + first, variant) for original, variant in images} == set(found)
    assert any(variant for _, variant in images)
    for (original, variant), index in images.items():
        at = found[original + first, variant]
        assert (at in term.train, at in term.held_out) == (index in whole.train, index in whole.held_out)
        kept, expected = teacher_of(term).one("projector", at), teacher_of(whole).one("projector", index)
        assert float((kept - expected).norm() / expected.norm()) < 0.03


def _original(term: DistillationTerm, index: int) -> int:
    samples = term.samples.samples
    return next(at for at in range(term.originals) if samples[at].digest == samples[index].digest)


def teacher_of(term: DistillationTerm) -> FeatureStore:
    assert isinstance(term.targets, StretchedTargets)
    return term.targets.teacher


def test_those_of_earlier_requests_are_forgotten_again(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    file = save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")
    left = {}
    for replay in (None, read_replays([file], None)):
        made = prepared(deep, sets, slice(1, 2), replay=replay)
        first = prepared(deep, sets, slice(0, 1))
        assert first.taught is not None
        term = first.taught.terms.forget
        batch = first.stack.collate([term.samples.prepared(index) for index in range(term.originals)])
        operate(made, unheard)
        with torch.no_grad():
            found = made.stack.features(batch)["projector"]
        wanted = term.targets.get("projector", range(term.originals), torch.device("cpu"))
        before = torch.stack([teacher_of(term).one("projector", index) for index in range(term.originals)])
        left[replay is not None] = float((found - wanted).square().sum() / (before - wanted).square().sum())
    assert left[True] < 0.7 * left[False]


def test_another_base_or_other_layers_are_refused(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    file = save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")
    replay = read_replays([file], None)
    with pytest.raises(UserError, match="does not train the layers"):
        prepared(deep, sets, slice(1, 2), replay=replay, recipe=QUICK.model_copy(update={"depth": "all"}))
    as_another = QUICK.model_copy(update={"forget_target": "reference"})
    with pytest.raises(UserError, match="needs the images"):
        prepared(deep, sets, slice(1, 2), replay=replay, recipe=as_another, forget_teacher=deep)
    other = build_checkpoint("llava", tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="not the checkpoint that the earlier requests started from"):
        prepared(other, sets, slice(1, 2), replay=replay)
    second = save(prepared(other, sets, slice(0, 1)), tmp_path / "second.safetensors")
    with pytest.raises(UserError, match="different bases"):
        read_replays([tmp_path], None)
    second.unlink()
    assert read_replays([tmp_path], None).subjects == 1
    with pytest.raises(UserError, match="no replay file"):
        read_replays([sets["forget"].parent], None)


def test_images_that_a_file_stands_for_are_in_no_set(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    replay = read_replays([save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")], None)
    with pytest.raises(UserError, match=r"the forget set and the replay files share \d+ image"):
        prepared(deep, sets, slice(0, 2), replay=replay)
    retain = [*samples(sets, "retain"), *samples(sets, "forget", slice(0, 1))[:2]]
    with pytest.raises(UserError, match=r"the retain set and the replay files share 2 image"):
        prepared(deep, sets, slice(1, 2), replay=replay, retain=retain)


def test_an_encrypted_file_tells_whose_name_is_in_a_set(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    made = prepared(deep, sets, slice(0, 1))
    subject = made.job.forget[0].subject
    retain, other = samples(sets, "retain"), samples(sets, "forget", slice(1, 2))
    called = {role: [replace(each, subject=subject) for each in images] for role, images in (
        ("retain", retain[:1]), ("forget", other)
    )}  # fmt: skip
    replay = read_replays([save(made, tmp_path / "first.safetensors", key)], key)
    for role, changes in (("retain", {"retain": [*called["retain"], *retain[1:]]}), ("forget", called)):
        again = prepared(deep, sets, slice(1, 2), replay=replay, **{role: changes[role]})
        told = [each for each in again.plan.warnings if "replay files" in each]
        assert [f"1 subject(s) of the replay files have images in the {role} set" in each for each in told] == [True]
    plain = save(made, tmp_path / "plain.safetensors")
    assert facts_of(plain)["names"] == []


def sized(folder: Path, name: str, subjects: range, side: int) -> Path:
    file = write_set(folder, name, subjects, views=3)
    for path in (folder / name).glob("*.png"):
        Image.open(path).resize((side, side)).save(path)
    return file


def test_requests_may_have_images_of_several_sizes(tmp_path: Path) -> None:
    model = build_checkpoint("qwen2_vl", tmp_path / "model")
    sets = {"retain": sized(tmp_path, "retain", range(10, 13), 56)}
    for number, side in enumerate((56, 84)):
        sets["forget"] = sized(tmp_path, f"forget{number}", range(number, number + 1), side)
        save(prepared(model, sets, slice(None)), tmp_path / f"{number}.safetensors")
    replay = read_replays([tmp_path], None)
    assert len({image.activation.shape for image in replay.images}) == 2
    sets["forget"] = sized(tmp_path, "forget2", range(2, 3), 56)
    assert prepared(model, sets, slice(None), replay=replay).plan.replayed_pictures == 6


def test_a_third_request_keeps_its_own_images_alone(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    first = save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")
    second = prepared(deep, sets, slice(1, 2), replay=read_replays([first], None))
    later = save(second, tmp_path / "second.safetensors")
    both = read_replays([tmp_path], None)
    assert both.subjects == 2
    for order in ([first, later], [later, first]):
        assert read_replays(order, None).digest == replay_digest(order) == both.digest
    assert len(both.images) == len(read_replays([first], None).images) + len(second.job.forget)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [0, 3]),
        ("shape", [10**9, 10**9]),
        ("shape", [-1]),
        ("dtype", "nn"),
        ("dtype", "int64"),
    ],
)
def test_what_a_file_says_of_pixels_is_not_believed(
    deep: Path, sets: dict[str, Path], tmp_path: Path, key: str, value: object
) -> None:
    file = save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")
    tensors, facts = load(file.read_bytes()), facts_of(file)
    for inputs in facts["pixels"]:
        for told in inputs.values():
            told[key] = value
    file.write_bytes(save_tensors(tensors, metadata={"vkdsurgeon": json.dumps(facts)}))
    with pytest.raises(UserError, match="no replay file, or it is damaged"):
        read_replays([file], None)


@pytest.mark.parametrize("fault", ["nan", "flat", "missing", "copy of another shape", "copy of no number"])
def test_activations_are_numbers_of_tokens(deep: Path, sets: dict[str, Path], tmp_path: Path, fault: str) -> None:
    file = save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")
    tensors, facts = load(file.read_bytes()), facts_of(file)
    name = "0 activation"
    if fault == "nan":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    elif fault == "flat":
        tensors[name] = tensors[name].reshape(-1)
    elif fault == "copy of another shape":
        tensors[f"{name} 1"] = tensors[name][1:].clone()
    elif fault == "copy of no number":
        tensors[f"{name} one"] = tensors[name].clone()
    else:
        del tensors[name]
    file.write_bytes(save_tensors(tensors, metadata={"vkdsurgeon": json.dumps(facts)}))
    with pytest.raises(UserError, match="no replay file, or it is damaged"):
        read_replays([file], None)


@pytest.mark.parametrize("fault", ["width", "tokens", "layout", "inputs"])
def test_what_does_not_fit_the_model_is_refused(deep: Path, sets: dict[str, Path], tmp_path: Path, fault: str) -> None:
    file = save(prepared(deep, sets, slice(0, 1)), tmp_path / "first.safetensors")
    tensors, facts = load(file.read_bytes()), facts_of(file)
    for name in [name for name in tensors if "activation" in name]:
        whole = tensors[name]
        cut = {"width": whole[:, :-1], "tokens": whole[:0]}
        tensors[name] = cut.get(fault, whole).contiguous()
    if fault == "layout":
        facts["shape"] = [5, 31]
    if fault == "inputs":
        facts["pixels"] = [{"other": {"shape": [3], "dtype": "float32"}} for _ in facts["pixels"]]
    file.write_bytes(save_tensors(tensors, metadata={"vkdsurgeon": json.dumps(facts)}))
    with pytest.raises(UserError, match="does not fit this model"):
        prepared(deep, sets, slice(1, 2), replay=read_replays([file], None))


def test_equal_names_in_two_folders_are_other_people(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    files = []
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        made = prepared(deep, sets, slice(number, number + 1))
        files.append(save(made, tmp_path / f"{number}" / "replay.safetensors"))
    assert read_replays([*files, files[0], tmp_path / "1"], None).subjects == 2


def facts_of(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["vkdsurgeon"])
    return found


def test_a_file_is_whole_and_ours_or_refused(deep: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    made = prepared(deep, sets, slice(0, 1))
    keys = [tmp_path / "key", tmp_path / "other_key"]
    for key in keys:
        key.write_bytes(os.urandom(32))
    sealed = save(made, tmp_path / "sealed", keys[0])
    plain = save(made, tmp_path / "plain")
    assert read_replays([sealed], keys[0]).images[0].activation.equal(read_replays([plain], None).images[0].activation)
    with pytest.raises(UserError, match="encrypted"):
        read_replays([sealed], None)
    with pytest.raises(UserError, match="another key"):
        read_replays([sealed], keys[1])
    (tmp_path / "short").write_bytes(b"0" * 16)
    with pytest.raises(UserError, match="not a key"):
        read_replays([sealed], tmp_path / "short")
    content = plain.read_bytes()
    for damaged in (
        b"",
        content[:7],
        content[:-10],
        b"{}" * 40,
        content.replace(b"vkdsurgeon/replay/1", b"vkdsurgeon/replay/2"),
    ):
        plain.write_bytes(damaged)
        with pytest.raises(UserError, match="no replay file"):
            read_replays([plain], None)
    sealed.write_bytes(sealed.read_bytes()[:-1] + b"0")
    with pytest.raises(UserError, match="damaged"):
        read_replays([sealed], keys[0])
