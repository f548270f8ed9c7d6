"""The divergence against torch's own, and the gate."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.keys import parse_settings
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.decoder_pass.gate import judge
from vkdsurgeon.decoder_pass.questions import QUESTIONS, questions_about
from vkdsurgeon.decoder_pass.trainer import Drift
from vkdsurgeon.training.losses import kl


def test_kl_is_that_of_torch_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, logits = (torch.randn(2, 3, 7, generator=generator) for _ in range(2))
    teacher = teacher.log_softmax(dim=2)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    mine = kl(teacher, ours.log_softmax(dim=2))
    expected = torch.nn.functional.kl_div(theirs.log_softmax(dim=2), teacher, log_target=True, reduction="none").sum(2)
    torch.testing.assert_close(mine, expected)
    mine.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert kl(torch.tensor([0.0, -torch.inf]), torch.tensor([0.0, -50.0])) == 0


def test_images_without_questions_get_the_built_in_ones() -> None:
    samples = [Sample(Path(name), "someone", name, f"file:{name}") for name in ("a", "b")]
    records = [Record(image=Path("a"), question=text) for text in ("Who?", "Where?", "Who?")]
    mine, theirs = questions_about(samples, [*records, Record(image=Path("b"))])
    assert [question.text for question in mine] == ["Who?", "Where?"]
    assert tuple(question.text for question in theirs) == QUESTIONS
    assert {question.source for question in theirs} == {"file:b"}


def test_every_bound_of_the_gate_counts_and_what_is_no_number_misses() -> None:
    recipe = DecoderRecipe()
    start, good = Drift(4.0, 0.0, 8), Drift(0.01, 1.0, 8)
    assert judge(recipe, start, good, good, good).met
    assert "decoder.forget_ratio" in judge(recipe, start, Drift(2.0, 0.0, 8), good, good).missed[0]
    assert "decoder.retain_kl" in judge(recipe, start, good, Drift(1.0, 1.0, 8), good).missed[0]
    assert "decoder.text_agreement" in judge(recipe, start, good, good, Drift(0.01, 0.5, 8)).missed[0]
    assert "decoder.text_kl" in judge(recipe, start, good, good, Drift(float("nan"), 1.0, 8)).missed[0]
    missed = judge(recipe, start, start, Drift(1.0, 1.0, 8), Drift(1.0, 0.0, 8)).missed
    keys = [re.search(r"\((.*)\)", each).group(1) for each in missed]  # type: ignore[union-attr]
    assert len(parse_settings([f"{key}=0.5" for key in keys])["decoder"]) == 4
