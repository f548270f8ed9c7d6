"""Changed images: the changes by hand, and a trained pattern that stays within its bound."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from vkdsurgeon_cli.main import run

from tests.conftest import draw_subject
from tests.tiny_llava import PATCH, SIDE, TEMPLATE, World, build_processor, world
from vkdsurgeon.attacks.image_transforms import CHANGES, Perturbation, perturbations_of
from vkdsurgeon.attacks.perturb import Perturbing, perturb
from vkdsurgeon.attacks.universal import Pixels, Universal, added, pixels_of, train_perturbation
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.evaluation.score import Scoring, answer_records
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.model.prompts import Encoder
from vkdsurgeon.results.attacks import PerturbResult

SHORT = Scoring(max_new_tokens=3)


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def pixels_after(text: str, image: Image.Image, seed: int = 0) -> np.ndarray:
    (change,) = perturbations_of([text], seed)
    changed = change(image)
    assert changed.size == image.size
    return np.asarray(changed).astype(int)


def test_changes_by_hand() -> None:
    image = draw_subject(0, 0, 8)
    pixels = np.asarray(image).astype(int)
    assert np.array_equal(pixels_after("hflip", image), pixels[:, ::-1])
    assert np.array_equal(pixels_after("vflip", image), pixels[::-1])
    assert np.abs(pixels_after("brightness=50", image) - pixels / 2).max() <= 1
    assert np.array_equal(pixels_after("brightness=100", image), pixels)
    flat = pixels_after("contrast=0", image)
    assert flat.min() == flat.max() == round(np.asarray(image.convert("L")).mean())
    assert np.array_equal(pixels_after("crop=100", image), pixels)
    covered = (pixels_after("occlusion=25", image) != pixels).any(axis=2)
    grey = (pixels_after("occlusion=25", image) == 128).all(axis=2)
    assert grey.sum() == 16
    assert not (covered & ~grey).any()
    plain = Image.new("RGB", (200, 200), (128, 128, 128))
    assert np.array_equal(pixels_after("blur=4", plain), np.asarray(plain))
    noisy = pixels_after("noise=10", plain) - 128
    assert noisy.std() == pytest.approx(25.5, rel=0.02)
    assert abs(noisy.mean()) < 0.3


def test_an_image_always_gets_the_same_and_another_something_else() -> None:
    one, two = draw_subject(0, 0), draw_subject(1, 0)
    for text in ("noise=10", "occlusion=10", "crop=50"):
        assert np.array_equal(pixels_after(text, one), pixels_after(text, one.copy()))
        assert not np.array_equal(pixels_after(text, one), pixels_after(text, one, seed=1))
    grey = [tuple(np.argwhere((pixels_after("occlusion=10", each) == 128).all(axis=2))[0])
            for each in (one, two, draw_subject(2, 0), draw_subject(3, 0))]  # fmt: skip
    assert len(set(grey)) > 1


def test_without_a_list_every_kind_is_tried() -> None:
    found = perturbations_of([], seed=3)
    assert {each.kind for each in found} == set(CHANGES)
    assert len({each.name for each in found}) == len(found)
    assert Perturbation("noise", 5, 3) in found


@pytest.mark.parametrize(
    "texts",
    [["smudge"], ["noise=0"], ["noise=a"], ["hflip=5"], ["crop=101"], ["noise=5", "noise=5"], [""], ["noise=-1"]],
)
def test_what_is_no_perturbation_is_refused(texts: list[str]) -> None:
    with pytest.raises(UserError, match="perturbation"):
        perturbations_of(texts, 0)


def test_pixel_values_stay_between_black_and_white() -> None:
    pixels = Pixels((3, 1, 2), torch.full((3, 1, 1), 0.5), torch.full((3, 1, 1), 0.25))
    values = torch.tensor([-2.0, 1.9]).expand(1, 3, 1, 2)
    moved = pixels.perturbed(values, torch.tensor([-0.1, 0.01]).expand(3, 1, 2))
    assert torch.allclose(moved[0, 0, 0], torch.tensor([-2.0, 1.94])), "black stays black; 1.9 + 0.01 / 0.25"


def test_a_trained_pattern_keeps_its_bound_and_the_model(facts: World) -> None:
    loaded = load_model(facts.gold, device="cpu")
    records = [record for record in read_set("forget", facts.forget).records if record.task == "vqa.name"]
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    pixels = pixels_of(loaded, records)
    delta, losses = train_perturbation(loaded, pixels, records, Universal(eps=24, steps=12), "model")
    assert pixels.shape == delta.shape == (3, SIDE, SIDE)
    assert 0 < float(delta.abs().max()) <= 24 / 255 + 1e-6
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in loaded.model.parameters())

    def likelihood() -> float:
        answers = answer_records(loaded, records, SHORT)
        return sum(each.log_likelihoods[each.record.options.index(str(each.record.answer))] for each in answers)

    plain = likelihood()
    with added(loaded, pixels, delta):
        assert likelihood() > plain
    assert likelihood() == plain, "the pattern is gone afterwards"


def loaded_with(processor: object) -> LoadedModel:
    return LoadedModel(Path("."), None, Encoder(processor), torch.device("cpu"), torch.float32, "kind", "",
        "cpu", None, lambda: None,
    )  # fmt: skip


def test_images_that_are_not_one_tensor_have_no_place_for_a_pattern(facts: World, tmp_path: Path) -> None:
    records = list(read_set("forget", facts.forget).records)[:1]
    tiles = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=[[SIDE, 2 * SIDE], [2 * SIDE, SIDE]],
    )  # fmt: skip
    processor = LlavaNextProcessor(
        tiles, build_processor().tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE, image_token="<image>",
    )  # fmt: skip
    with pytest.raises(UserError, match="not one image-shaped tensor"):
        pixels_of(loaded_with(processor), records)
    plain = build_processor()
    plain.image_processor.do_resize = plain.image_processor.do_center_crop = False
    draw_subject(0, 0, 64).save(tmp_path / "wide.png")
    wide = Record(image=tmp_path / "wide.png", question="Who ?", answer="Ann")
    with pytest.raises(UserError, match="different shapes"):
        pixels_of(loaded_with(plain), [*records, wide])


def test_the_attack_sees_the_change_and_nothing_stays(facts: World) -> None:
    result = perturb(
        Perturbing(
            model=facts.base,
            gold=facts.gold,
            forget=read_set("forget", facts.forget),
            heldout=read_set("heldout", facts.heldout),
            retain=read_set("retain", facts.retain),
            perturbations=perturbations_of(["brightness=0", "brightness=100"], 0),
            universal=Universal(steps=2, batch_size=8),
            limit=24,
            scoring=SHORT,
            device="cpu",
            gates=parse_gates(["perturb.universal.vqa.accuracy<=1", "perturb.worst.vqa.accuracy<=gold"]),
        )
    )
    values = {metric.id: metric.value for metric in result.metrics}
    for prefix in ("", "gold."):
        same = (f"{prefix}perturb.{name}.vqa.accuracy" for name in ("before", "brightness-100"))
        assert len({values[name] for name in same}) == 1
    assert values["perturb.retain.before.vqa.name.accuracy"] > 0.9
    assert values["perturb.retain.brightness-0.vqa.name.accuracy"] < 0.5, "black images show nobody"
    assert [gate.passed for gate in result.gates] == [True, False]
    told = result.settings.universal
    assert told is not None
    assert {role: len(losses) for role, losses in told.losses.items()} == {"model": 2, "gold": 2}
    assert told.step_size == 12.0
    assert result.settings.measured_on == "heldout"
    assert [each.name for each in result.sets] == ["heldout", "retain"]
    assert any("utility falls as well" in warning for warning in result.warnings)


def test_the_command(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "perturb.json"
    words = ["attack", "perturb", str(facts.base), "--forget", str(facts.forget), "--limit", "6", "--device", "cpu"]
    words += ["--max-new-tokens", "2", "--perturbation", "hflip"]
    assert run([*words, "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert "give --heldout" in printed.err
    result = PerturbResult.model_validate_json(out.read_text())
    assert json.loads(printed.out)["settings"]["perturbations"] == ["hflip"]
    assert result.settings.universal is None
    assert run([*words, "--universal", "--steps", "1", "--gate", "perturb.universal.vqa.name.accuracy<0"]) == 3
    assert "12/255, 1 steps" in capsys.readouterr().out
    assert run([*words, "--gate", "perturb.universal.vqa.accuracy<=0"]) == 2
    assert run([*words, "--universal", "--eps", "0"]) == 2
    assert run([*words, "--perturbation", "smudge"]) == 2
