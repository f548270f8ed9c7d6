"""A question in a packed row gets the very logits that it gets alone, through the processor and the chat template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from vkdsurgeon.personas.draw import draw_face
from vkdsurgeon.personas.kinds import KINDS, Kind
from vkdsurgeon.personas.model import IMAGE, Shape, save_checkpoint
from vkdsurgeon.personas.packing import Encoder, answer_logits, pack
from vkdsurgeon.personas.people import Cast, Size, draw_cast
from vkdsurgeon.personas.questions import about_person, about_view, text_questions, vocabulary

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
    pictures = [draw_face(each.look, each.views[0]) for each in people]
    packed = pack([[(one.wordings[0], one.answer) for one in row] for row in asked], encoder, pictures=True)
    with torch.inference_mode():
        logits, ends = answer_logits(model, packed, kind.inputs(torch.from_numpy(np.stack(pictures))))
    flat = [(one, picture) for row, picture in zip(asked, pictures, strict=True) for one in row]
    assert len(flat) == len(logits) == 9 + 8 + 7
    for (question, picture), got, end in zip(flat, logits, ends, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question.wordings[0]}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        alone = _logits(model, processor, text, picture)
        torch.testing.assert_close(got, alone, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(
            end, _logits(model, processor, f"{text} {question.answer}", picture), atol=2e-4, rtol=1e-3
        )


def test_packed_text_questions_get_the_logits_they_get_alone(made: Made) -> None:
    cast, model, processor, _, kind = made
    questions = [question for _, question in text_questions(cast)][:5]
    encoder = Encoder(processor.tokenizer, kind)
    packed = pack([[(one.wordings[1], one.answer) for one in questions]], encoder, pictures=False)
    with torch.inference_mode():
        logits, _ = answer_logits(model, packed, None)
    for question, got in zip(questions, logits, strict=True):
        turn = [{"role": "user", "content": question.wordings[1]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True)
        torch.testing.assert_close(got, _logits(model, processor, text, None), atol=2e-4, rtol=1e-3)


def test_every_word_is_one_token_and_every_picture_what_the_processor_makes_of_it(made: Made) -> None:
    cast, _, processor, _, kind = made
    tokenizer = processor.tokenizer
    for word in vocabulary(cast):
        assert len(tokenizer(word)["input_ids"]) == 1
        assert tokenizer(word)["input_ids"] != [tokenizer.unk_token_id]
    assert all(tokenizer.convert_tokens_to_ids(mark) != tokenizer.unk_token_id for mark in kind.picture)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Who"}]}]
    picture = draw_face(cast.named[0].look, cast.named[0].views[0])
    text = processor.apply_chat_template(turn)
    encoded = processor(text=[text], images=[picture], add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(list(encoded["input_ids"][0]))
    assert tokens == ["<s>", "<user>", *kind.picture, "Who"]
    assert tokens.count(IMAGE) == {"llava": 36, "qwen2_vl": 16, "idefics3": 16}[kind.name]


def test_shortcut_for_pixels_is_what_the_processor_makes(made: Made) -> None:
    cast, _, processor, _, kind = made
    picture = draw_face(cast.named[0].look, replace(cast.named[0].views[0], glasses=True))
    quick = kind.inputs(torch.from_numpy(np.array(picture))[None])
    full = processor.image_processor(picture, return_tensors="pt")
    for name, value in quick.items():
        torch.testing.assert_close(value, full[name], atol=1e-5, rtol=0, check_dtype=value.is_floating_point())


def test_the_checkpoint_is_sharded_bfloat16(made: Made) -> None:
    out = made[3]
    assert len(list(out.glob("model-*.safetensors"))) >= 2
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def _logits(model: Any, processor: Any, text: str, picture: object) -> torch.Tensor:
    seen = {"images": [picture]} if picture is not None else {}
    inputs = processor(text=[text], **seen, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits[0, -1]
