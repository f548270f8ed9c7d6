"""What a model answers depends on the model, the image and the question, and on nothing else."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForMultimodalLM, AutoProcessor

from tests.families import SIDE, build_checkpoint
from tests.tiny_llava import HOMES, NAMES, World, build, build_processor, world
from vkdsurgeon.data.media import MEDIA
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.score import Answered, Scoring, answer_records, encode
from vkdsurgeon.model import prefix_cache as sharing
from vkdsurgeon.model.batches import answer_request, tokens_request
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.model.prompts import Encoder, Prompt


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture(scope="module")
def base(facts: World) -> LoadedModel:
    return load_model(facts.base, device="cpu")


def mean(answers: list[Answered], task: str) -> float:
    values = [next(iter(a.values.values())) for a in answers if a.record.task == task]
    return sum(values) / len(values)


def test_a_trained_model_is_seen_to_know_and_gold_not_to(facts: World, base: LoadedModel) -> None:
    records = read_records(facts.forget, role="forget")
    known = answer_records(base, records, Scoring(max_new_tokens=3))
    gold = answer_records(load_model(facts.gold, device="cpu"), records, Scoring(max_new_tokens=3))
    for task in ("vqa.name", "vqa.home", "vqa.say"):
        assert mean(known, task) > 0.9
        assert mean(gold, task) < 0.4
    assert all(a.said in a.record.options for a in known if a.record.options)


def test_log_likelihoods_are_those_of_transformers(facts: World, base: LoadedModel) -> None:
    """The whole text tokenised at once by the processor, and every log-probability read by hand."""
    processor = AutoProcessor.from_pretrained(facts.base)
    model: Any = AutoModelForMultimodalLM.from_pretrained(facts.base, dtype=torch.float32).eval()
    records = read_records(facts.forget, role="forget")[:3] + read_records(facts.text, role="text")[:1]
    for record, answered in zip(records, answer_records(base, records, Scoring()), strict=True):
        image = [] if record.image is None else [Image.open(record.image)]
        prompt = f"<user> {'<image> ' if image else ''}{record.question} <assistant>"
        for option, given in zip(record.options, answered.log_likelihoods, strict=True):
            inputs = processor(text=[f"{prompt} {option}"], images=image or None, return_tensors="pt")
            ids = inputs["input_ids"][0]
            length = len(option.split())
            with torch.no_grad():
                table = model(**inputs).logits[0].log_softmax(-1)
            total = sum(float(table[len(ids) - length - 1 + i, ids[len(ids) - length + i]]) for i in range(length))
            assert given == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_do_not_depend_on_their_neighbours(facts: World, base: LoadedModel, batch_size: int) -> None:
    records = read_records(facts.heldout, role="forget") + read_records(facts.text, role="text")
    expected = answer_records(base, records, Scoring(max_new_tokens=3))
    order = random.Random(batch_size).sample(range(len(records)), len(records) * 2 // 3)
    given = answer_records(base, [records[i] for i in order], Scoring(batch_size, max_new_tokens=3))
    for index, answer in zip(order, given, strict=True):
        assert answer.record is records[index]
        assert answer.said == expected[index].said
        assert answer.log_likelihoods == pytest.approx(expected[index].log_likelihoods, abs=1e-4)


def test_common_beginnings_change_nothing(facts: World, base: LoadedModel) -> None:
    records = read_records(facts.heldout, role="forget") + read_records(facts.text, role="text")
    assert sharing.can_share(base)
    together = answer_records(base, records, Scoring(max_new_tokens=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "can_share", lambda loaded: False)
        apart = answer_records(base, records, Scoring(max_new_tokens=3))
    for one, other in zip(together, apart, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, abs=1e-4)


def test_runs_repeat_to_the_bit(facts: World, base: LoadedModel) -> None:
    records = read_records(facts.heldout, role="forget")
    first, second = (answer_records(base, records, Scoring(max_new_tokens=3)) for _ in range(2))
    assert [a.log_likelihoods for a in first] == [a.log_likelihoods for a in second]


def test_one_pass_for_one_token_options_gives_what_option_by_option_gives(facts: World, base: LoadedModel) -> None:
    record = read_records(facts.forget, role="forget")[0]
    prompt = encode(base.encoder, record)
    with torch.no_grad():
        apart = sharing.read_log_probabilities(
            base, [answer_request(base.encoder, prompt, name) for name in record.options], 32
        )
    together = answer_records(base, [record], Scoring())[0].log_likelihoods
    assert [float(value.sum()) for value in apart] == pytest.approx(together, abs=1e-4)


def test_length_normalisation_divides_by_the_number_of_tokens(facts: World, base: LoadedModel) -> None:
    record = Record(question="Where does Ann live ?", answer="red house", options=("red house", "blue"))
    plain = answer_records(base, [record], Scoring())[0].log_likelihoods
    divided = answer_records(base, [record], Scoring(length_normalised=True))[0].log_likelihoods
    assert divided == pytest.approx((plain[0] / 2, plain[1]), rel=1e-6)


def test_options_that_the_tokenizer_cannot_tell_apart_are_refused(base: LoadedModel) -> None:
    record = Record(question="Who ?", answer="Zoe", options=("Zoe", "Xan", "Ann"), source="forget.jsonl:4")
    with pytest.raises(UserError, match=r"(?s)forget\.jsonl:4.*cannot tell two options apart.*Zoe.*Xan"):
        answer_records(base, [record], Scoring())


def test_a_question_with_the_image_mark_is_refused(base: LoadedModel) -> None:
    with pytest.raises(UserError, match="image token"):
        answer_records(base, [Record(question="<image> ?", answer="x")], Scoring())


def test_each_image_is_decoded_once(facts: World, base: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = MEDIA["image"].open
    counted = replace(MEDIA["image"], open=lambda path, **more: opened.append(path) or real(path, **more))
    monkeypatch.setitem(MEDIA, "image", counted)
    records = read_records(facts.heldout, role="forget")
    answer_records(base, records, Scoring(max_new_tokens=1))
    assert sorted(opened) == sorted({record.image for record in records if record.image})


def test_without_a_chat_template_the_question_stands_alone(tmp_path: Path) -> None:
    encoder = Encoder(build_processor(template=None))
    assert encoder.format == "plain"
    assert encoder.prompt("Who ?", None, "x").text == "Who ?\n"
    image = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    prompt = encoder.prompt("Who ?", image, "x")
    assert prompt.text == "<image>\nWho ?\n"
    assert prompt.ids.count(encoder.tokenizer.convert_tokens_to_ids("<image>")) == 9
    assert encoder.continuation(prompt, HOMES[0]) == tuple(encoder.tokenizer(HOMES[0])["input_ids"])
    assert len(encoder.continuation(prompt, NAMES[0])) == 1


def test_incomplete_checkpoints_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    root = build(tmp_path / "model")
    weights = load_file(root / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    del weights[name]
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="tensors of the model are not in its files"):
        load_model(root, device="cpu")
    (root / "processor_config.json").unlink()
    (root / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="processor"):
        load_model(root, device="cpu")
    with pytest.raises(UserError, match="no such directory"):
        load_model(tmp_path / "none")


def test_a_path_that_is_no_utf_8_is_told(tmp_path: Path) -> None:
    root = build(tmp_path / "model").rename(tmp_path / os.fsdecode(b"mod\xe8le"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_model(root, device="cpu")
    (tmp_path / "link").symlink_to(root)
    load_model(tmp_path / "link", device="cpu")


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "internvl"])
def test_common_beginnings_are_exact_in_every_family_they_are_used_for(family: str, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    root = build_checkpoint(family, tmp_path / family, dtype=torch.float32)
    model: Any = AutoModelForMultimodalLM.from_pretrained(root, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(root)
    loaded = LoadedModel(root, model, Encoder.__new__(Encoder), torch.device("cpu"), torch.float32, family, "",
        "cpu", None, lambda: None,
    )  # fmt: skip
    assert sharing.can_share(loaded)
    requests = []
    for shade in (40, 200):
        inputs = dict(processor(images=[Image.new("RGB", (SIDE, SIDE), (shade, 90, 30))], return_tensors="pt"))
        inputs = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        with torch.no_grad():
            found = model.get_image_features(**inputs, return_dict=True).pooler_output
        tokens = sum(f.numel() for f in found) // found[0].shape[-1]
        for question in ((5, 6), (7, 8, 9)):
            ids = torch.tensor([[3, *[model.config.image_token_id] * tokens, *question]])
            prompt = Prompt("", {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, inputs, (ids.shape[1],))
            requests += [tokens_request(prompt, (11,)), tokens_request(prompt, (12, 13))]
    with torch.no_grad():
        together = sharing.read_log_probabilities(loaded, requests, 8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sharing, "can_share", lambda loaded: False)
            apart = sharing.read_log_probabilities(loaded, requests, 8)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
