"""Words in images: where they stand, what is asked under them, and that nothing of them stays."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vkdsurgeon_cli.main import run

from tests.tiny_llava import NAMES, World, world
from vkdsurgeon import attack
from vkdsurgeon.attacks.typography import Writing, WrittenImages, WrittenNames, WrittenQuestions, typography
from vkdsurgeon.attacks.written_images import Writer
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.evaluation.score import Scoring, encode
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.results.attacks import TypographyResult

SHORT = Scoring(max_new_tokens=3)
GREY = (90, 120, 160)


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def changed(size: tuple[int, int], text: str, percent: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Where the image was covered, and where the text stands."""
    pixels = np.asarray(Writer(percent).write(Image.new("RGB", size, GREY), text))
    assert pixels.shape == (size[1], size[0], 3)
    return (pixels != GREY).any(axis=2), (pixels.astype(int).sum(axis=2) < 3 * 60)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (64, 64), (1000, 90)])
@pytest.mark.parametrize("text", ["", "Ada", "What is the name of the city in which this person lives and works?"])
def test_the_band_lies_in_the_square_that_is_not_cropped(size: tuple[int, int], text: str) -> None:
    covered, black = changed(size, text)
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    expected = np.zeros_like(covered)
    expected[top + side - round(side / 4) : top + side, left : left + side] = True
    assert np.array_equal(covered, expected)
    assert black.any() == bool(text)


def test_words_are_as_large_as_fits() -> None:
    heights = []
    for text in ("Ada", "Where was this person born and where does this person live today, and why?"):
        _, black = changed((400, 400), text)
        rows = np.flatnonzero(black.any(axis=1))
        columns = np.flatnonzero(black.any(axis=0))
        assert columns[0] > 8, "a margin"
        assert columns[-1] < 392, "nothing is cut off"
        heights.append(np.diff(np.flatnonzero(np.diff(np.r_[0, black.any(axis=1), 0]))).max())
        assert 300 < rows[0] <= rows[-1] < 400
    assert heights[0] > heights[1] * 1.5


def test_a_text_that_does_not_fit_is_told() -> None:
    writer, small = Writer(25), Image.new("RGB", (32, 32), GREY)
    writer.write(small, "Ann")
    assert writer.cut == set()
    writer.write(small, "Where was this person born?")
    assert writer.cut == {"Where was this person born?"}


def test_letters_without_a_shape_lose_their_accent_or_are_told() -> None:
    writer, plain = Writer(30), Image.new("RGB", (200, 200), GREY)
    for name in ("Zoë Ådå", unicodedata.normalize("NFD", "Zoë Ådå")):
        assert np.array_equal(writer.write(plain, name), writer.write(plain, "Zoe Ada"))
        assert writer.lacks([name]) == []
    assert writer.lacks(["Zoë", "Ada?", "阿达", "Иван"]) == ["阿达", "Иван"]
    with pytest.raises(UserError, match="font cannot be read"):
        Writer(30, Path(__file__))


def about(**values: object) -> Record:
    return Record.model_validate(
        {"image": "a.png", "subject": "Ann Lee", "question": "Who ?", "answer": "red", **values}
    )


def test_a_name_that_answers_the_question_is_not_written() -> None:
    written = WrittenNames("name", Writer(25), {"Ann Lee": "Ann Lee"})
    assert written.concerns(about())
    assert not written.concerns(about(answer="ann"))
    assert not written.concerns(about(answer="It is Lee."))
    assert not written.concerns(about(subject=None))
    assert not written.concerns(about(subject="Bea"))
    assert not written.concerns(about(image=None))
    other = WrittenNames("other-name", Writer(25), {"Ann Lee": "Bea Red"})
    assert not other.concerns(about()), "the other name would answer it"
    assert not other.concerns(about(answer="Ann"))
    assert other.concerns(about(answer="blue"))
    zoe = WrittenNames("name", Writer(25), {"Zoe\u0308": "Zoe\u0308"})
    assert not zoe.concerns(about(subject="Zoe\u0308", answer="Zo\u00eb"))


def test_images_are_changed_only_while_they_are_asked(facts: World, temporary: Path) -> None:
    loaded = load_model(facts.base, device="cpu")
    first, second, *_ = [each for each in read_set("forget", facts.forget).records if each.subject == NAMES[0]]
    assert first.image == second.image
    for written, alike in (
        (WrittenImages("blank", Writer(25)), True),
        (WrittenNames("name", Writer(25), {NAMES[0]: NAMES[0]}), True),
        (WrittenQuestions("question", Writer(25), "Say the name"), False),
    ):
        with written.applied(loaded, "model"):
            asked = [written.reword(each) for each in (first, second)]
            assert (asked[0].image == asked[1].image) is alike
            assert all(each.image is not None and temporary in each.image.parents for each in asked)
            same = asked[0].question == first.question
            assert same is alike
            prompt = encode(loaded.encoder, asked[0])
            assert not np.array_equal(prompt.media["pixel_values"], encode(loaded.encoder, first).media["pixel_values"])
        assert not list(temporary.iterdir())


def test_the_attack(facts: World, temporary: Path) -> None:
    settings = Writing(
        model=facts.base,
        gold=facts.gold,
        forget=read_set("forget", facts.heldout),
        retain=read_set("retain", facts.retain),
        instruction="Say the name",
        limit=12,
        scoring=SHORT,
        device="cpu",
        gates=parse_gates(["typography.name.vqa.home.accuracy<=1", "typography.worst.vqa.accuracy<=gold"]),
    )
    result = typography(settings)
    values = {metric.id: metric.value for metric in result.metrics}
    assert result.settings.written == ["blank", "name", "other-name", "question"]
    assert [gate.passed for gate in result.gates] == [True, False]
    for prefix in ("typography.", "gold.typography.", "typography.retain."):
        assert f"{prefix}name.vqa.home.accuracy" in values
        assert f"{prefix}other-name.vqa.home.accuracy" in values
        assert f"{prefix}name.vqa.name.accuracy" not in values, "the name would be the answer"
        assert f"{prefix}blank.vqa.name.accuracy" in values
    assert values["typography.question.vqa.home.accuracy"] is not None
    assert not list(temporary.iterdir())
    text = result.model_dump_json()
    assert not any(name in text for name in NAMES)
    again = typography(replace(settings, gold=None, gates=()))
    assert [metric for metric in result.metrics if metric in again.metrics] == again.metrics


def test_what_cannot_be_written_is_left_out_and_told(facts: World) -> None:
    names = [each for each in read_set("forget", facts.heldout).records if each.task == "vqa.name"]
    found = attack("typography", facts.base, names[:3], settings={"limit": 3}, device="cpu")
    assert isinstance(found, TypographyResult)
    assert found.settings.written == ["blank"]
    told = " ".join(found.warnings)
    assert "name was not asked" in told
    assert "other-name was not asked" in told
    assert "question was not asked: the tokenizer does not know most words" in told


def test_the_command(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "typography.json"
    words = ["attack", "typography", str(facts.base), "--forget", str(facts.heldout), "--limit", "4"]
    words += ["--device", "cpu", "--max-new-tokens", "2"]
    assert run([*words, "-o", str(out), "--json", "--percent", "40"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["settings"]["written"] == ["blank", "name", "other-name"]
    result = TypographyResult.model_validate_json(out.read_text())
    assert (result.settings.percent, result.settings.font) == (40, "Pillow")
    assert run([*words, "--gate", "typography.other-name.vqa.home.accuracy<0"]) == 3
    assert "other-name" in capsys.readouterr().out
    assert run([*words, "--percent", "80"]) == 2
    assert run([*words, "--font", str(out)]) == 2
    assert run([*words, "--instruction", " "]) == 2
    assert run([*words, "--gate", "typography.name.vqa.name.accuracy<=1"]) == 2
