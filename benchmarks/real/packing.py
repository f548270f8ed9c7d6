"""Many questions about one image in one sequence, none of which sees another.

A row is a beginning (start, image) and blocks `question answer end` behind it; every block attends to the beginning
and to itself, and its positions continue those of the beginning. So each block gives the logits it would give alone,
and the image is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Packed:
    """One batch of rows.

    Attributes:
        ids: int64 [B, T].
        positions: int64 [B, T].
        mask: bool [B, 1, T, T], True where a position may look.
        rows: int64 [Q], the row of each question.
        columns: int64 [Q], the position that predicts the answer; the next one predicts the end.
        answers: int64 [Q], the answer's token.
        ends: int64 [Q], the end's token.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    answers: torch.Tensor
    ends: torch.Tensor


def pack(prefix: Sequence[int], rows: Sequence[Sequence[Sequence[int]]]) -> Packed:
    """Pack the blocks of each row.

    Args:
        prefix: Token ids of the beginning.
        rows: Per row its blocks, each token ids that close with the answer's one token and the end.
    """
    width = len(prefix) + max(sum(len(block) for block in row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    positions, member = torch.zeros_like(ids), torch.full_like(ids, -1)
    found: list[tuple[int, int, int, int]] = []
    for index, row in enumerate(rows):
        tokens, places, members = list(prefix), list(range(len(prefix))), [0] * len(prefix)
        for number, block in enumerate(row, start=1):
            tokens += block
            places += range(len(prefix), len(prefix) + len(block))
            members += [number] * len(block)
            found.append((index, len(tokens) - 3, block[-2], block[-1]))
        for target, values in ((ids, tokens), (positions, places), (member, members)):
            target[index, : len(tokens)] = torch.tensor(values)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    visible = (member[:, :, None] == member[:, None, :]) | (member[:, None, :] == 0)
    where = torch.tensor(found).unbind(1)
    return Packed(ids, positions, (visible & causal)[:, None], *where)
