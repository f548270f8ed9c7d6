"""How often a checkpoint on disk answers right, by choosing among the options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from benchmarks.miniature_model.kinds import KINDS, Kind
from benchmarks.miniature_model.look import View
from benchmarks.miniature_model.packing import Encoder, answer_logits, pack
from benchmarks.miniature_model.people import Cast, Person
from benchmarks.miniature_model.questions import Question, about_person, about_view, text_questions
from benchmarks.miniature_model.styles import STYLES, Style

Right = dict[str, list[bool]]


def measure(
    checkpoint: Path, cast: Cast, kind: Kind = KINDS["llava"], style: Style = STYLES["avatars"]
) -> dict[str, float]:
    """Accuracy on held-out views and on text, after the checkpoint was rounded and written.

    Args:
        checkpoint: A directory from `save_checkpoint`.
        cast: Who it was trained on.
        kind: Its architecture.
        style: How the cast is drawn.

    Returns:
        Accuracy in [0, 1] by set and task prefix, such as `forget.vqa`, `forget.vqa.name`, `retain.general`,
        `text.forget` and `text.retain.city`.
    """
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    encoder = Encoder(AutoTokenizer.from_pretrained(checkpoint), kind)
    right: Right = defaultdict(list)
    for name, people in (("forget", cast.forget), ("retain", cast.retain)):
        shown = [(person, view) for person in people for view in person.heldout]
        for start in range(0, len(shown), 32):
            _look(model, encoder, shown[start : start + 32], cast.names, name, right, kind, style)
    _read(model, encoder, [question for _, question in text_questions(cast)], right)
    return {task: float(np.mean(hits)) for task, hits in sorted(right.items())}


@torch.inference_mode()
def _look(
    model: Any,
    encoder: Encoder,
    shown: Sequence[tuple[Person, View]],
    names: tuple[str, ...],
    group: str,
    right: Right,
    kind: Kind,
    style: Style,
) -> None:
    asked = [[*about_person(person, names), *about_view(view)] for person, view in shown]
    images = torch.from_numpy(np.stack([np.asarray(style(person.look, view)) for person, view in shown]))
    _count(model, encoder, asked, kind.inputs(images), f"{group}.", right)


@torch.inference_mode()
def _read(model: Any, encoder: Encoder, questions: Sequence[Question], right: Right) -> None:
    rows = [list(questions[start : start + 16]) for start in range(0, len(questions), 16)]
    _count(model, encoder, rows, None, "", right)


def _count(
    model: Any,
    encoder: Encoder,
    rows: list[list[Question]],
    images: dict[str, torch.Tensor] | None,
    group: str,
    right: Right,
) -> None:
    packed = pack(
        [[(each.wordings[0], each.answer) for each in row] for row in rows], encoder, images=images is not None
    )
    logits, _ = answer_logits(model, packed, images)
    for scores, question in zip(logits, (each for row in rows for each in row), strict=True):
        best = int(scores[encoder.ids(question.options)].argmax())
        words = f"{group}{question.task}".split(".")
        for depth in range(1, len(words) + 1):
            right[".".join(words[:depth])].append(question.options[best] == question.answer)
