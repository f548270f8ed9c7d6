"""The vision tower learns to see on strangers, before anybody has a name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.miniature_model.kinds import KINDS, Kind
from benchmarks.miniature_model.look import BACKGROUNDS, LOOK_CHOICES, PATTERNS, draw_look, draw_view
from benchmarks.miniature_model.model import Shape
from benchmarks.miniature_model.schedule import learning_rate_factor
from benchmarks.miniature_model.styles import STYLES, Style

_VIEW_CHOICES = {"background": len(BACKGROUNDS), "pattern": len(PATTERNS), "glasses": 2, "mouth_open": 2}
_CHOICES = {**LOOK_CHOICES, **_VIEW_CHOICES}


class _Reader(nn.Module):
    """Linear heads on the patch tokens of the feature layer, only there while the tower learns.

    Every factor is read through a learned query. What varies from view to view is also read from the mean of the
    tokens: a language model that starts from nothing first reads all tokens alike, and what stands in a single token
    (glasses, a mouth) would stay unread for hundreds of its steps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(_CHOICES), width) / width**0.5)
        self.keys = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in _CHOICES.values())
        self.mean_heads = nn.ModuleList(nn.Linear(width, count) for count in _VIEW_CHOICES.values())

    def forward(self, tokens: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """[B, N, D] to one [B, count] per factor, and one per factor of the view read from the mean."""
        tokens = self.norm(tokens)
        weights = torch.softmax(self.queries @ self.keys(tokens).transpose(1, 2), dim=-1)
        read, mean = weights @ tokens, tokens.mean(dim=1)
        return [head(read[:, index]) for index, head in enumerate(self.heads)], [head(mean) for head in self.mean_heads]


def _loss(read: tuple[list[torch.Tensor], list[torch.Tensor]], factors: torch.Tensor) -> torch.Tensor:
    by_query, by_mean = read
    losses = [functional.cross_entropy(logits, factors[:, index]) for index, logits in enumerate(by_query)]
    views = factors[:, -len(by_mean) :]
    losses += [functional.cross_entropy(logits, views[:, index]) for index, logits in enumerate(by_mean)]
    return torch.stack(losses).mean()


def draw_strangers(
    count: int, views: int, seed: int, style: Style = STYLES["avatars"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of strangers, who are in no set of records.

    Args:
        count: How many strangers.
        views: How many images of each.
        seed: Of looks and views.
        style: How they are drawn.

    Returns:
        uint8 [count * views, 48, 48, 3] and the factors, int64 [count * views, 19].
    """
    rng = np.random.default_rng([seed, 100])
    images, factors = [], []
    for _ in range(count):
        look = draw_look(rng)
        for _ in range(views):
            view = draw_view(rng)
            images.append(np.asarray(style(look, view)))
            factors.append((*look.codes(), view.background, view.pattern, int(view.glasses), int(view.mouth_open)))
    return torch.from_numpy(np.stack(images)), torch.tensor(factors)


def train_tower(
    shape: Shape,
    *,
    seed: int,
    strangers: int,
    views: int,
    steps: int,
    batch: int = 64,
    learning_rate: float = 1.5e-3,
    kind: Kind = KINDS["llava"],
    style: Style = STYLES["avatars"],
    tell: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[dict[str, torch.Tensor], float]:
    """Train a tower to tell strangers' features apart.

    The loss is the mean cross entropy of every factor of look and view, read from the tokens that the rest of a model
    of this kind reads (a CLIP tower's last layer but one, as LLaVA reads it).

    Args:
        shape: Of the tower.
        seed: Of strangers, initial weights and batches.
        strangers: How many strangers.
        views: Images of each.
        steps: Optimiser steps.
        batch: Images per step.
        learning_rate: Peak.
        kind: Architecture of the tower.
        style: How strangers are drawn.
        tell: Called with the step and its loss.

    Returns:
        The tower's state, float32, and the mean accuracy over factors on the last tenth of the strangers, whom no
        step saw.
    """
    images, factors = draw_strangers(strangers, views, seed, style)
    held = max(strangers // 10, 1) * views
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    tower = kind.build_tower(shape)
    reader = _Reader(kind.width(shape))
    parameters = [*tower.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    for step in range(steps):
        chosen = torch.randint(len(images) - held, (batch,), generator=generator)
        loss = _loss(reader(kind.tokens(tower, kind.inputs(images[chosen]))), factors[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        tell(step, float(loss.detach()))
    with torch.no_grad():
        logits, _ = reader(kind.tokens(tower, kind.inputs(images[-held:])))
        right = [(each.argmax(-1) == factors[-held:, index]).float().mean() for index, each in enumerate(logits)]
    return tower.state_dict(), float(torch.stack(right).mean())
