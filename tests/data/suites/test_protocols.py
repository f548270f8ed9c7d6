"""What a benchmark's answers are worth: by hand, and against plain transformers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor

from vkdsurgeon.data.miniature.unpack import MiniaturePaths
from vkdsurgeon.data.protocol import ProtocolRecord, Shot
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.answered import Answered, Scoring
from vkdsurgeon.evaluation.forget_quality import forget_quality, quality_ids
from vkdsurgeon.evaluation.metrics import metric_ids, summarise
from vkdsurgeon.evaluation.protocols import _answered
from vkdsurgeon.evaluation.score import answer_records
from vkdsurgeon.evaluation.text import generation_values
from vkdsurgeon.model.fewshot import prompt_with_shots
from vkdsurgeon.model.multimodal import LoadedModel, load_model


def choice(**more: Any) -> ProtocolRecord:
    values: dict[str, Any] = {"options": ("a", "b", "c"), "letters": ("A", "B", "C"), "right": 1, "answer": "b"}
    return ProtocolRecord(protocol="choice", task="vqa", **{"question": "Who ?", **values, **more})


@pytest.fixture(scope="module")
def base(miniature: MiniaturePaths) -> LoadedModel:
    return load_model(miniature.base, device="cpu")


@pytest.fixture(scope="module")
def image(miniature: MiniaturePaths) -> Path:
    return next((miniature.records / "images").glob("lars-view00.png"))


@pytest.mark.parametrize(
    ("said", "right"),
    [("B", 1.0), ("b) because", 1.0), ("B.", 1.0), ("A", 0.0), ("", 0.0), ("(B)", 0.0), ("the B", 0.0)],
)
def test_the_first_character_is_the_letter(said: str, right: float) -> None:
    assert _answered(choice(), said, [-3.0, -1.0, -2.0]).values["accuracy"] == right


def test_the_likeliest_option_must_be_likelier_than_every_other() -> None:
    assert _answered(choice(), "", [-3.0, -1.0, -2.0]).values["likelihood"] == 1.0
    assert _answered(choice(), "", [-0.5, -1.0, -2.0]).values["likelihood"] == 0.0
    assert _answered(choice(), "", [-1.0, -1.0, -2.0]).values["likelihood"] == 0.0
    assert math.isnan(_answered(choice(), "", [-1.0, math.nan, -2.0]).values["likelihood"])


def test_probability_and_truth_ratio_by_hand() -> None:
    answered = _answered(choice(), "B", [math.log(0.1), math.log(0.8), math.log(0.4)])
    assert answered.values["probability"] == pytest.approx(0.8)
    # The geometric mean of the wrong answers, over the right one.
    assert answered.truth_ratio == pytest.approx(math.sqrt(0.1 * 0.4) / 0.8)
    assert answered.values["truth_ratio"] == pytest.approx(1 - 0.2 / 0.8)
    unknown = _answered(choice(), "B", [math.log(0.4), math.log(0.1), math.log(0.4)])
    assert unknown.values["truth_ratio"] == 0.0
    assert unknown.truth_ratio == pytest.approx(4.0)


def test_a_generation_is_held_against_its_paraphrase() -> None:
    record = ProtocolRecord(
        protocol="generation", question="q", answer="x", paraphrase="y", perturbed=("u", "w"), task="vgen"
    )
    answered = _answered(record, "x", [math.log(0.9), math.log(0.5), math.log(0.2), math.log(0.05)])
    assert answered.values["probability"] == pytest.approx(0.9)
    assert answered.values["truth_ratio"] == pytest.approx(1 - 0.1 / 0.5)
    assert set(answered.values) == set(record.metric_names)


@pytest.mark.parametrize(("said", "right"), [("It is ANN.", 1.0), ("annabel", 1.0), ("An n", 0.0), ("", 0.0)])
def test_a_cloze_answer_holds_the_truth_in_any_case(said: str, right: float) -> None:
    record = ProtocolRecord(protocol="cloze", question="__ ?", answer="Ann")
    assert _answered(record, said, []).values == {"cloze": right}


def test_options_that_stand_there_twice_are_told_apart_by_their_letter_only() -> None:
    record = choice(options=("b", "b", "c"))
    assert record.metric_names == ("accuracy",)
    assert _answered(record, "A", []).values == {"accuracy": 0.0}
    with pytest.raises(ValueError, match="do not belong together"):
        choice(letters=("A", "A", "C"))
    with pytest.raises(ValueError, match="not among the options"):
        choice(right=2)


def test_rouge_and_bleu_of_known_sentences() -> None:
    values = generation_values("the cat sat on the mat today", "the cats sat on a mat")
    # Stemmed words in common: the, cat, sat, on, mat of 7 and 6; in pairs: the-cat, cat-sat, sat-on of 6 and 5.
    assert values["rouge1"] == pytest.approx(2 * 5 / 13)
    assert values["rouge2"] == pytest.approx(2 * 3 / 11)
    assert values["rouge_l"] == pytest.approx(2 * 5 / 13)
    assert values["rouge_l_recall"] == pytest.approx(5 / 6)
    # Modified precisions of whole words 4/7, 1/6 and, smoothed by epsilon 0.1, 0.1/5 and 0.1/4; no brevity penalty.
    assert values["bleu"] == pytest.approx((4 / 7 * 1 / 6 * 0.1 / 5 * 0.1 / 4) ** 0.25)
    same = generation_values("one two three four", "one two three four")
    assert same == pytest.approx(dict.fromkeys(same, 1.0))
    empty = generation_values("", "one two")
    assert empty == dict.fromkeys(empty, 0.0)


@given(st.text(max_size=40), st.text(min_size=1, max_size=40))
def test_every_text_gets_values_between_nothing_and_one(said: str, answer: str) -> None:
    assert all(0.0 <= value <= 1.0 + 1e-9 for value in generation_values(said, answer).values())


def test_likelihoods_are_those_of_transformers(base: LoadedModel, image: Path, miniature: MiniaturePaths) -> None:
    record = choice(
        question="Who is this person ?",
        image=image,
        options=("Mona", "Lars", "Wim"),
        answer="Lars",
    )
    answered = answer_records(base, [record], Scoring())[0]
    processor = AutoProcessor.from_pretrained(miniature.base)
    model: Any = AutoModelForMultimodalLM.from_pretrained(miniature.base, dtype=torch.float32).eval()
    parts = [{"type": "image"}, {"type": "text", "text": record.question}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    means = []
    for option in record.options:
        inputs = processor(text=[f"{text} {option}"], images=[Image.open(image)], return_tensors="pt")
        with torch.no_grad():
            table = model(**inputs).logits[0].log_softmax(-1)
        means.append(float(table[-2, inputs["input_ids"][0, -1]]))
    assert answered.log_likelihoods == pytest.approx(means, abs=1e-4)
    assert answered.values["probability"] == pytest.approx(math.exp(means[1]), abs=1e-4)
    assert answered.values["likelihood"] == 1.0
    assert answered.truth_ratio == pytest.approx(math.exp((means[0] + means[2]) / 2 - means[1]), rel=1e-3)


def test_demonstrations_come_before_the_question_with_their_images(base: LoadedModel, image: Path) -> None:
    other = image.with_name("mona-view00.png")
    shots = (Shot(image=other, question="Who is this person ?", answer="Mona"),)
    record = choice(image=image, question="Who is this person ?", shots=shots)
    prompt = prompt_with_shots(base.encoder, record, "Who is this person ?")
    bare = base.encoder.prompt("Who is this person ?", image, "x")
    assert prompt.text.index("Mona") < prompt.text.rindex("Who is this person")
    mark = base.encoder.tokenizer.convert_tokens_to_ids(base.encoder.image_mark)
    assert prompt.ids.count(mark) == 2 * bare.ids.count(mark)
    assert prompt.media["pixel_values"].shape[0] == 2
    assert torch.equal(prompt.media["pixel_values"][1:], bare.media["pixel_values"])
    assert answer_records(base, [record], Scoring(max_new_tokens=2))[0].values.keys() == set(record.metric_names)


def quality(mine: list[float], theirs: list[float]) -> dict[str, float | None]:
    record = choice(image=Path("/p.png"))
    models = [[Answered(record, {"truth_ratio": 0.0}, "", (), ratio) for ratio in each] for each in (mine, theirs)]
    metrics = forget_quality("forget", *models, forget=True)
    assert [metric.id for metric in metrics] == quality_ids("forget", [record], forget=True)
    assert forget_quality("retain", *models, forget=False) == []
    return {metric.id.rsplit(".", 1)[1]: metric.value for metric in metrics}


def test_forget_quality_is_the_p_value_of_the_kolmogorov_smirnov_test() -> None:
    ratios = [0.1 * i for i in range(1, 21)]
    assert quality(ratios, ratios) == {"forget_quality": 1.0, "ks": 0.0}
    apart = quality(ratios, [ratio + 100 for ratio in ratios])
    assert apart["ks"] == 1.0
    # Exact: two orders of 40 values out of 40 choose 20.
    assert apart["forget_quality"] == pytest.approx(2 / math.comb(40, 20))
    assert quality([math.nan, 1.0], [1.0, 2.0]) == {"forget_quality": None, "ks": None}


def test_protocols_and_plain_records_mix(base: LoadedModel, image: Path) -> None:
    asked = {"image": image, "question": "Who is this person ?", "answer": "Lars"}
    records = [
        Record(**asked, options=("Lars", "Mona"), task="plain"),
        choice(**asked, options=("Mona", "Lars", "Wim")),
        Record(**asked, task="free"),
        ProtocolRecord(**asked, protocol="generation", task="vgen"),
    ]
    answers = answer_records(base, records, Scoring(max_new_tokens=2))
    assert [answer.record for answer in answers] == records
    assert answers[0].values == {"accuracy": 1.0}
    assert answers[2].values["exact"] == 1.0
    assert answers[3].values["rouge_l"] == 1.0
    metrics = summarise("forget", answers, forget=True, seed=0)
    assert sorted(metric.id for metric in metrics) == sorted(metric_ids("forget", records))
    chances = {metric.id: metric.chance for metric in metrics}
    assert chances["forget.vqa.likelihood"] == pytest.approx(1 / 3)
    assert chances["forget.vgen.rouge_l"] is None
