"""Questions about clips: asked as questions about images are, where the processor takes clips beside a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from transformers import AutoProcessor

from benchmarks.audio.model import build
from benchmarks.audio.voices import NAMES, RATE, write_takes
from tests.tiny_llava import build as build_seeing
from vkdsurgeon.attacks.image_transforms import Perturbation
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.score import Scoring, answer_records
from vkdsurgeon.model.multimodal import LoadedModel, load_model


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_takes(tmp_path_factory.mktemp("takes"), "forget", range(2), range(2))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(build(tmp_path_factory.mktemp("model")), device="cpu")


def test_log_likelihoods_are_those_of_transformers(model: LoadedModel, records: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(model.root)
    asked = read_records(records, role="forget")
    for record, answered in zip(asked[:2], answer_records(model, asked[:2], Scoring()), strict=True):
        samples, rate = soundfile.read(record.audio, dtype="float32")
        assert rate == RATE
        for option, given in zip(record.options, answered.log_likelihoods, strict=True):
            text = f"<user> <|AUDIO|> {record.question} <assistant> {option}"
            inputs = processor(text=[text], audio=[samples], sampling_rate=rate, return_tensors="pt")
            with torch.no_grad():
                logits = model.model(**inputs).logits[0, -2].log_softmax(-1)
            assert float(logits[inputs["input_ids"][0, -1]]) == pytest.approx(given, abs=1e-4)


def test_questions_about_clips_are_grouped_as_those_about_images(model: LoadedModel, records: Path) -> None:
    answered = answer_records(model, read_records(records, role="forget"), Scoring())
    assert {each.record.task for each in answered} == {"vqa.name", "general.vowel"}
    assert all(each.said in (*NAMES, "a", "i", "u") for each in answered)


def test_a_model_that_only_sees_is_asked_nothing_about_clips(records: Path, tmp_path: Path) -> None:
    seeing = load_model(build_seeing(tmp_path / "model"), device="cpu")
    with pytest.raises(UserError, match=r"refuses the clip(?s:.*)LlavaProcessor takes no clip beside a text"):
        answer_records(seeing, read_records(records, role="forget"), Scoring())


def test_changes_of_images_are_not_tried_on_clips(model: LoadedModel, records: Path) -> None:
    asked = read_records(records, role="forget")
    with (
        model.encoder.altered(media=Perturbation("noise", 5)),
        pytest.raises(UserError, match="changes images alone"),
    ):
        answer_records(model, asked, Scoring())
