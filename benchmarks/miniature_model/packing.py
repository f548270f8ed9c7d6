"""Many questions about one image in one sequence, none of which sees another.

A row is a shared prefix (start, user, image) followed by blocks `question <assistant> answer </s>`; every block
attends to the prefix and to itself, and its positions continue those of the prefix. So each block gives the very
logits that it would give alone, and the image is read once.

Where a prompt is read both ways, what the image's tokens become depends on the question: there every question gets a
row of its own, and only the tower reads the image once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.miniature_model.kinds import KINDS, Kind
from benchmarks.miniature_model.model import ASSISTANT, END

Asked = tuple[str, str]


class Encoder:
    """Words to token ids, each question and answer encoded once.

    Args:
        tokenizer: Of the model.
        kind: Its architecture.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, kind: Kind = KINDS["llava"]) -> None:
        self._table: dict[str, int] = tokenizer.get_vocab()
        self._blocks: dict[Asked, list[int]] = {}
        self.pad = self._table["<pad>"]
        # Beginnings of prompts and their positions, with an image and without.
        self.prefixes = {
            seen: (self.ids(words), kind.positions(words))
            for seen, words in ((seen, kind.beginning(seen=seen)) for seen in (True, False))
        }
        self.both_ways = kind.both_ways

    def block(self, asked: Asked) -> list[int]:
        """Token ids of `question <assistant> answer </s>`."""
        if asked not in self._blocks:
            question, answer = asked
            words = [*question.split(), ASSISTANT, answer, END]
            self._blocks[asked] = [self._table[word] for word in words]
        return self._blocks[asked]

    def ids(self, words: Sequence[str]) -> list[int]:
        """Token ids of single words."""
        return [self._table[word] for word in words]


@dataclass(frozen=True)
class Packed:
    """One batch of rows.

    Attributes:
        input_ids: int64 [B, T].
        position_ids: int64 [B, T], or [A, B, T] where positions have A axes.
        attention_mask: bool [B, 1, T, T], True where a position may look.
        answer_rows: int64 [Q], the row of each question.
        answer_columns: int64 [Q], the position that predicts the answer; the next one predicts the end.
        answers: int64 [Q], the answer's token.
        ends: int64 [Q], the end token.
        shown: int64 [B], the image of each row; None where each row has its own.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    answer_rows: torch.Tensor
    answer_columns: torch.Tensor
    answers: torch.Tensor
    ends: torch.Tensor
    shown: torch.Tensor | None = None


def pack(rows: Sequence[Sequence[Asked]], encoder: Encoder, *, images: bool) -> Packed:
    """Pack the questions of each row.

    Args:
        rows: Question and answer pairs, per row.
        encoder: Of the model's tokenizer.
        images: Whether each row has an image.

    Returns:
        The batch.
    """
    shown = None
    if encoder.both_ways:
        shown = torch.tensor([index for index, row in enumerate(rows) for _ in row])
        rows = [[asked] for row in rows for asked in row]
    prefix, places_before = encoder.prefixes[images]
    following = int(places_before.max()) + 1
    blocks = [[encoder.block(asked) for asked in row] for row in rows]
    width = len(prefix) + max(sum(len(block) for block in row) for row in blocks)
    ids = torch.full((len(rows), width), encoder.pad)
    positions = torch.zeros(len(places_before), *ids.shape, dtype=torch.int64)
    positions[:, :, : len(prefix)] = places_before[:, None]
    # Block 0 is the prefix, -1 the padding.
    member = torch.full_like(ids, -1)
    targets: list[tuple[int, int, int, int]] = []
    for index, row in enumerate(blocks):
        tokens, places, members = list(prefix), list[int](), [0] * len(prefix)
        for number, block in enumerate(row, start=1):
            tokens += block
            places += range(following, following + len(block))
            members += [0] * (len(block) - 2) + [number] * 2 if encoder.both_ways else [number] * len(block)
            targets.append((index, len(tokens) - 3, block[-2], block[-1]))
        ids[index, : len(tokens)] = torch.tensor(tokens)
        positions[:, index, len(prefix) : len(tokens)] = torch.tensor(places)
        member[index, : len(tokens)] = torch.tensor(members)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    visible = ((member[:, :, None] == member[:, None, :]) | (member[:, None, :] == 0)) & causal
    if encoder.both_ways:
        visible |= (member[:, :, None] == 0) & (member[:, None, :] == 0)
    answer_rows, answer_columns, answers, ends = torch.tensor(targets).unbind(1)
    positions = positions[0] if len(positions) == 1 else positions
    return Packed(ids, positions, visible[:, None], answer_rows, answer_columns, answers, ends, shown)


def answer_logits(
    model: Any, packed: Packed, images: dict[str, torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where the answer and where the end are predicted.

    Args:
        model: The model.
        packed: The batch.
        images: From `Kind.inputs`, where rows have images.

    Returns:
        Two tensors [Q, vocabulary].
    """
    hidden = model.model(
        **_content(model, packed, images),
        attention_mask=packed.attention_mask,
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    at_answer = hidden[packed.answer_rows, packed.answer_columns]
    at_end = hidden[packed.answer_rows, packed.answer_columns + 1]
    return model.lm_head(at_answer), model.lm_head(at_end)


def _content(model: Any, packed: Packed, images: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    if images is None or packed.shown is None:
        return {"input_ids": packed.input_ids, **(images or {})}
    # Rows share images, which the model itself would read once per row.
    features = model.model.get_image_features(**images).pooler_output[packed.shown]
    words = model.get_input_embeddings()(packed.input_ids)
    places = packed.input_ids == model.config.image_token_id
    return {"inputs_embeds": words.masked_scatter(places[..., None], features.to(words.dtype))}
