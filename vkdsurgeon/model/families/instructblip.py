"""InstructBLIP and its version for videos: the Q-Former reads the instruction beside the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import blaming, brief
from vkdsurgeon.model.image_features import PROJECTOR, ImageFeatures

# Who is to be forgotten must be forgotten whatever is asked, so features of several questions are taught at once.
QUESTIONS = ("Who is this?", "Describe the image in detail.")


class Features(ImageFeatures):
    """Vision model, Q-Former and projection, once without an instruction and once per question.

    The questions are left out where the checkpoint has no tokenizer for the Q-Former.
    """

    inputs = frozenset({"pixel_values"})
    outputs = (PROJECTOR,)

    def __init__(self, model: nn.Module, split: Split) -> None:
        super().__init__(model, split)
        self._instructions = [torch.empty(0, dtype=torch.int64), *_questions(split)]

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Query tokens under every instruction, one after the other: [B, instructions * queries, D]."""
        model: Any = self.model
        pixels = inputs["pixel_values"]
        # Of a video the processor gives [B, frames, C, H, W].
        pixels = pixels.flatten(0, 1) if pixels.ndim == 5 else pixels
        seen = model.vision_model(pixel_values=pixels).last_hidden_state
        queries = model.query_tokens.expand(seen.shape[0], -1, -1)
        parts = []
        for words in self._instructions:
            ids = words.to(seen.device).expand(seen.shape[0], -1)
            read = model.qformer(
                input_ids=ids if ids.shape[1] else None,
                attention_mask=torch.ones(seen.shape[0], queries.shape[1] + ids.shape[1], device=seen.device),
                query_embeds=queries,
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.int64, device=seen.device),
            ).last_hidden_state
            parts.append(model.language_projection(read[:, : queries.shape[1]]))
        return {PROJECTOR: torch.cat(parts, dim=1)}


def _questions(split: Split) -> list[Tensor]:
    folder = split.root / "qformer_tokenizer"
    if not folder.is_dir():
        return []
    from transformers import AutoTokenizer

    def refused(error: BaseException) -> UserError:
        return UserError(
            f"transformers cannot load the Q-Former's tokenizer: {brief(error)}",
            where=folder,
            remedy="restore its files from the original checkpoint",
        )

    with blaming(split.root, refused):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return [torch.tensor(tokenizer(question)["input_ids"]) for question in QUESTIONS]
