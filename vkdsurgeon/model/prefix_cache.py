"""Log-probabilities behind many prompts that begin alike: an image is read once for all questions about it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vkdsurgeon.model.batches import Request, batches_of, collate_requests, read_logits, to_model
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prompts import collate

# Positions are plain (one index per token) and every layer of the cache can be cut by rows in these.
_OUTER = frozenset({"llava", "llava_next", "llava_onevision", "internvl", "idefics3", "smolvlm"})
_INNER = frozenset({"llama", "mistral", "qwen2", "qwen3"})


@dataclass(frozen=True, eq=False)
class _Trunk:
    """Requests on one image (or one text prompt) and how many leading tokens they have in common."""

    members: tuple[int, ...]
    prompt_of: int
    length: int


def read_log_probabilities(loaded: LoadedModel, requests: Sequence[Request], batch_size: int) -> list[Tensor]:
    """Read what every request asks for, each common beginning once where the architecture allows it.

    Args:
        loaded: The model.
        requests: Any requests.
        batch_size: Sequences per forward pass.

    Returns:
        Per request float32 [n, k] on the CPU, as in `log_probabilities`.
    """
    read: dict[int, Tensor] = {}
    trunks = _trunks(loaded, requests) if can_share(loaded) else []

    def kind(trunk: _Trunk) -> Hashable:
        return requests[trunk.prompt_of].prompt.signature, trunk.length

    for batch in batches_of(trunks, lambda trunk: kind(trunk), batch_size):
        read |= _read_behind(loaded, requests, batch, batch_size)
    rest = [index for index in range(len(requests)) if index not in read]
    for part in batches_of(rest, lambda index: requests[index].signature, batch_size):
        chosen = [requests[index] for index in part]
        read |= zip(part, read_logits(loaded, collate_requests(loaded, chosen), chosen).cpu(), strict=True)
    return [read[index] for index in range(len(requests))]


def can_share(loaded: LoadedModel) -> bool:
    """Whether prompts may be continued from the cache of a common beginning."""
    text = loaded.model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    return (
        loaded.model_type in _OUTER
        and text.model_type in _INNER
        and kinds == {"full_attention"}
        and not getattr(text, "sliding_window", None)
    )


def _trunks(loaded: LoadedModel, requests: Sequence[Request]) -> list[_Trunk]:
    families: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        media = request.prompt.media
        families.setdefault(id(media) if media else request.prompt.text, []).append(index)
    found = []
    for members in families.values():
        if len(members) < 2:
            continue
        length = _common(loaded, [requests[index] for index in members])
        if length:
            # The shortest prompt is cut to the beginning; any would do.
            shortest = min(members, key=lambda index: requests[index].prompt.tokens["input_ids"].shape[1])
            found.append(_Trunk(tuple(members), shortest, length))
    return found


def _common(loaded: LoadedModel, family: Sequence[Request]) -> int:
    """How many tokens may be shared: none of an answer's positions, but all of the image's."""
    sequences = [request.ids for request in family]
    length = min(len(ids) - len(request.wanted) for ids, request in zip(sequences, family, strict=True))
    length = min(length, min(request.prompt.tokens["input_ids"].shape[1] for request in family))
    first = sequences[0]
    for ids in sequences[1:]:
        length = next((at for at in range(length) if ids[at] != first[at]), length)
    if family[0].prompt.media:
        mark = getattr(loaded.model.config, "image_token_id", None)
        if mark is None or mark not in first or mark in first[length:]:
            return 0
    return length


def _read_behind(
    loaded: LoadedModel, requests: Sequence[Request], trunks: Sequence[_Trunk], batch_size: int
) -> Iterator[tuple[int, Tensor]]:
    from transformers import DynamicCache

    length = trunks[0].length
    inputs = collate([requests[trunk.prompt_of].prompt for trunk in trunks])
    cut = {name: value[:, :length] if name in requests[0].prompt.tokens else value for name, value in inputs.items()}
    layers = loaded.model(**to_model(cut, loaded), use_cache=True).past_key_values.layers
    branches = [(row, index) for row, trunk in enumerate(trunks) for index in trunk.members]
    for batch in batches_of(
        branches, lambda item: (len(requests[item[1]].ids), len(requests[item[1]].wanted)), batch_size
    ):
        # On the CPU: layers may lie on different devices.
        rows = torch.tensor([row for row, _ in batch])
        chosen = [requests[index] for _, index in batch]
        ids = torch.tensor([request.ids for request in chosen], device=loaded.device)
        more = {
            "input_ids": ids[:, length:],
            "attention_mask": torch.ones_like(ids),
            "past_key_values": DynamicCache(ddp_cache_data=[(each.keys[rows], each.values[rows]) for each in layers]),
        }
        yield from zip((index for _, index in batch), read_logits(loaded, more, chosen).cpu(), strict=True)
