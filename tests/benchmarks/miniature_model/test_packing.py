"""A question in a packed row gets the very logits that it gets alone, through the processor and the chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.miniature_model.draw import draw_face
from benchmarks.miniature_model.kinds import KINDS, Kind
from benchmarks.miniature_model.model import IMAGE, Shape, save_checkpoint
from benchmarks.miniature_model.packing import Encoder, answer_logits, pack
from benchmarks.miniature_model.people import Cast, Size, draw_cast
from benchmarks.miniature_model.questions import about_person, about_view, text_questions, vocabulary
from vkdsurgeon.model.prompts import Encoder as Prompter

SMALL = Shape(32, 3, 48, 2, 32, 2, 48, 2)
Made = tuple[Cast, Any, Any, Path, Kind]


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A random model of each kind on disk, read back in float32."""
    kind = KINDS[request.param]
    torch.manual_seed(0)
    cast = draw_cast(0, Size(2, 6, 2, 0, 1, 1, 2, 1))
    tokenizer = kind.build_tokenizer(vocabulary(cast))
    out = tmp_path_factory.mktemp("model")
    save_checkpoint(kind.build_model(tokenizer, SMALL), kind.build_processor(tokenizer), out)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    return cast, model, AutoProcessor.from_pretrained(out), out, kind


def test_packed_questions_get_the_logits_they_get_alone(made: Made) -> None:
    cast, model, processor, _, kind = made
    encoder = Encoder(processor.tokenizer, kind)
    people = cast.named[:3]
    asked = [
        [*about_person(each, cast.names), *about_view(each.views[0])][: 9 - place] for place, each in enumerate(people)
    ]
    images = [draw_face(each.look, each.views[0]) for each in people]
    packed = pack([[(one.wordings[0], one.answer) for one in row] for row in asked], encoder, images=True)
    with torch.inference_mode():
        logits, ends = answer_logits(model, packed, kind.inputs(torch.from_numpy(np.stack(images))))
    flat = [(one, image) for row, image in zip(asked, images, strict=True) for one in row]
    assert len(flat) == len(logits) == 9 + 8 + 7
    for (question, image), got, end in zip(flat, logits, ends, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question.wordings[0]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        alone, alone_end = _logits(made, text, question.answer, image)
        torch.testing.assert_close(got, alone, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(end, alone_end, atol=2e-4, rtol=1e-3)


def test_packed_text_questions_get_the_logits_they_get_alone(made: Made) -> None:
    cast, model, processor, _, kind = made
    questions = [question for _, question in text_questions(cast)][:5]
    encoder = Encoder(processor.tokenizer, kind)
    packed = pack([[(one.wordings[1], one.answer) for one in questions]], encoder, images=False)
    with torch.inference_mode():
        logits, ends = answer_logits(model, packed, None)
    for question, got, end in zip(questions, logits, ends, strict=True):
        turn = [{"role": "user", "content": question.wordings[1]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True)
        alone, alone_end = _logits(made, text, question.answer, None)
        torch.testing.assert_close(got, alone, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(end, alone_end, atol=2e-4, rtol=1e-3)


def test_every_word_is_one_token_and_every_image_what_the_processor_makes_of_it(made: Made) -> None:
    cast, _, processor, _, kind = made
    tokenizer = processor.tokenizer
    for word in vocabulary(cast):
        assert len(tokenizer(word)["input_ids"]) == 1
        assert tokenizer(word)["input_ids"] != [tokenizer.unk_token_id]
    assert all(tokenizer.convert_tokens_to_ids(mark) != tokenizer.unk_token_id for mark in kind.image)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who"}]}]
    image = draw_face(cast.named[0].look, cast.named[0].views[0])
    text = processor.apply_chat_template(turn)
    encoded = processor(text=[text], images=[image], add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(list(encoded["input_ids"][0]))
    assert tokens == [*kind.beginning(seen=True), "Who"]
    assert tokens.count(IMAGE) == (36 if kind.name in {"llava", "paligemma"} else 16)


def test_what_is_trained_on_is_what_is_asked_later(made: Made, tmp_path: Path) -> None:
    cast, model, processor, _, kind = made
    encoder, asking = Encoder(processor.tokenizer, kind), Prompter(processor)
    image = tmp_path / "image.png"
    draw_face(cast.named[0].look, cast.named[0].views[0]).save(image)
    for seen, question in (
        *((True, each) for each in about_person(cast.named[0], cast.names)),
        *((False, each) for _, each in text_questions(cast)[:4]),
    ):
        words = question.wordings[0]
        prompt = asking.prompt(words, image if seen else None, "here")
        block = encoder.block((words, question.answer))
        assert list(prompt.ids) == encoder.prefixes[seen][0] + block[:-2]
        assert asking.continuation(prompt, question.answer) == (block[-2],)
    assert len(processor.tokenizer) <= model.get_input_embeddings().num_embeddings


def test_answers_that_follow_are_not_seen_by_the_prompt(made: Made) -> None:
    cast, model, processor, _, kind = made
    encoder = Encoder(processor.tokenizer, kind)
    person = cast.named[0]
    question = about_person(person, cast.names)[0]
    images = kind.inputs(torch.from_numpy(np.stack([draw_face(person.look, person.views[0])])))
    first, second = (
        answer_logits(model, pack([[(question.wordings[0], name)]], encoder, images=True), images)
        for name in cast.names[:2]
    )
    torch.testing.assert_close(first[0], second[0], atol=0, rtol=0)
    assert not torch.equal(first[1], second[1])


def test_tied_embeddings_stay_tied_on_disk(made: Made) -> None:
    _, model, _, _, kind = made
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind.name == "paligemma")


def test_shortcut_for_pixels_is_what_the_processor_makes(made: Made) -> None:
    cast, _, processor, _, kind = made
    image = draw_face(cast.named[0].look, replace(cast.named[0].views[0], glasses=True))
    quick = kind.inputs(torch.from_numpy(np.array(image))[None])
    full = processor.image_processor(image, return_tensors="pt")
    for name, value in quick.items():
        torch.testing.assert_close(value, full[name], atol=1e-5, rtol=0, check_dtype=value.is_floating_point())


def test_the_checkpoint_is_sharded_bfloat16(made: Made) -> None:
    out = made[3]
    assert len(list(out.glob("model-*.safetensors"))) >= 2
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def _logits(made: Made, text: str, answer: str, image: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the answer and where the end are predicted, the way a user of transformers asks for them."""
    _, model, processor, _, kind = made
    inputs = []
    for whole in (text, f"{text} {answer}"):
        if image is None:
            inputs.append(processor.tokenizer([whole], add_special_tokens=False, return_tensors="pt"))
        else:
            inputs.append(processor(text=[whole], images=[image], add_special_tokens=False, return_tensors="pt"))
    if kind.both_ways:
        for each, answers in zip(inputs, (0, 1), strict=True):
            each.pop("labels", None)
            each["token_type_ids"] = torch.zeros_like(each["input_ids"])
            # What the processor gives its `suffix`, and generation each new token.
            each["token_type_ids"][:, each["input_ids"].shape[1] - answers :] = 1
    with torch.inference_mode():
        short, long = (model(**each).logits[0, -1] for each in inputs)
    return short, long
