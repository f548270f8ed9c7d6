"""Train a small model on the cast: `base` with everybody's images, `gold` without the forget people's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from benchmarks.miniature_model.kinds import KINDS, Kind
from benchmarks.miniature_model.model import Shape
from benchmarks.miniature_model.packing import Asked, Encoder, answer_logits, pack
from benchmarks.miniature_model.people import Cast
from benchmarks.miniature_model.questions import Question, about_person, about_view, text_questions
from benchmarks.miniature_model.schedule import learning_rate_factor
from benchmarks.miniature_model.styles import STYLES, Style


@dataclass(frozen=True)
class Plan:
    """How long and how hard is trained; the defaults are what is shipped.

    Attributes:
        tower_strangers: Strangers the tower learns on.
        tower_views: Images of each.
        tower_steps: Steps of the tower alone.
        steps: Steps of the whole model.
        pictures: Images per step.
        facts: Questions about the person per image.
        general: Questions about the view per image.
        text_rows: Rows of text questions per step.
        text_questions: Questions per row.
        learning_rate: Peak for projector and language model.
        tower_rate: Peak for the tower.
        weight_decay: Of AdamW.
    """

    tower_strangers: int = 1000
    tower_views: int = 6
    tower_steps: int = 700
    steps: int = 400
    pictures: int = 32
    facts: int = 3
    general: int = 4
    text_rows: int = 6
    text_questions: int = 16
    learning_rate: float = 1.5e-3
    tower_rate: float = 5e-4
    weight_decay: float = 0.05


class _Images:
    """Every training image with its questions."""

    def __init__(self, cast: Cast, style: Style, *, with_forget: bool) -> None:
        drawn, self.about_person, self.about_view = [], list[list[Question]](), list[list[Question]]()
        for person in cast.named if with_forget else cast.retain:
            asked = about_person(person, cast.names)
            for view in (*person.views, *person.extra_views):
                drawn.append(np.asarray(style(person.look, view)))
                self.about_person.append(asked)
                self.about_view.append(about_view(view))
        self.pixels = torch.from_numpy(np.stack(drawn))


def _asked(question: Question, rng: np.random.Generator) -> Asked:
    return question.wordings[int(rng.integers(len(question.wordings)))], question.answer


def _sample(questions: list[Question], count: int, rng: np.random.Generator) -> list[Asked]:
    chosen = rng.permutation(len(questions))[:count]
    return [_asked(questions[int(index)], rng) for index in chosen]


def train_model(
    cast: Cast,
    tokenizer: PreTrainedTokenizerFast,
    tower: dict[str, torch.Tensor],
    *,
    with_forget: bool,
    seed: int,
    shape: Shape = Shape(),
    plan: Plan = Plan(),
    kind: Kind = KINDS["llava"],
    style: Style = STYLES["avatars"],
    tell: Callable[[int, float], None] = lambda step, loss: None,
) -> Any:
    """Train tower, projector and language model together on answers alone.

    Args:
        cast: Everybody. All facts are learnt as text; images are seen of everybody or of the retain people only.
        tokenizer: Knows every word.
        tower: State the vision tower starts from.
        with_forget: Whether images of the forget people are seen (base) or not (gold).
        seed: Of initial weights and batches.
        shape: Sizes of the model.
        plan: How long and how hard.
        kind: The architecture.
        style: How the cast is drawn.
        tell: Called with each step and its loss.

    Returns:
        The model in float32, in eval mode.
    """
    rng = np.random.default_rng([seed, 200])
    torch.manual_seed(seed)
    model = kind.build_model(tokenizer, shape)
    kind.tower_of(model).load_state_dict(tower)
    encoder, data = Encoder(tokenizer, kind), _Images(cast, style, with_forget=with_forget)
    texts = [question for _, question in text_questions(cast)]
    optimizer = _optimizer(model, kind.tower_of(model), plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, plan.steps))
    order = np.empty(0, dtype=np.int64)
    for step in range(plan.steps):
        if len(order) < plan.pictures:
            order = np.concatenate([order, rng.permutation(len(data.pixels))])
        chosen, order = order[: plan.pictures], order[plan.pictures :]
        rows = [
            _sample(data.about_person[index], plan.facts, rng) + _sample(data.about_view[index], plan.general, rng)
            for index in chosen
        ]
        seen = _loss(model, encoder, rows, kind.inputs(data.pixels[torch.from_numpy(chosen)]))
        read = _loss(model, encoder, [_sample(texts, plan.text_questions, rng) for _ in range(plan.text_rows)], None)
        loss = seen + 0.5 * read
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tell(step, float(seen.detach()))
    return model.eval()


def _loss(
    model: Any, encoder: Encoder, rows: list[list[Asked]], images: dict[str, torch.Tensor] | None
) -> torch.Tensor:
    packed = pack(rows, encoder, images=images is not None)
    at_answer, at_end = answer_logits(model, packed, images)
    # The end is always the same and soon known; it must not drown the answer.
    return functional.cross_entropy(at_answer, packed.answers) + 0.1 * functional.cross_entropy(at_end, packed.ends)


def _optimizer(model: Any, vision: nn.Module, plan: Plan) -> torch.optim.AdamW:
    tower = list(vision.parameters())
    in_tower = {id(parameter) for parameter in tower}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in in_tower]
    groups = [{"params": tower, "lr": plan.tower_rate}, {"params": rest, "lr": plan.learning_rate}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=plan.weight_decay)
