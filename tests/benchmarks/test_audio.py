"""The audio case: voices differ by speaker, and Whisper's tensors come out of their file by name."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from benchmarks.audio import whisper
from benchmarks.audio.voices import RATE, VOWELS, draw_voice, say
from vkdsurgeon.errors import UserError


def _pitch(samples: np.ndarray) -> float:
    """Of the strongest repetition between 80 and 300 Hz."""
    middle = samples[:3000].astype(float)
    likeness = np.correlate(middle, middle, "full")[len(middle) :]
    shortest, longest = RATE // 300, RATE // 80
    return RATE / (shortest + int(likeness[shortest:longest].argmax()) + 1)


def test_a_voice_keeps_its_pitch_from_take_to_take() -> None:
    said = {
        (speaker, take): say(draw_voice(speaker), list(VOWELS) * 2, np.random.default_rng(take))
        for speaker in range(3)
        for take in range(3)
    }
    assert {len(clip) for clip in said.values()} == {round(0.8 * RATE)}
    for (speaker, _), clip in said.items():
        assert np.abs(clip).max() <= 0.31
        octaves = np.log2(_pitch(clip) / draw_voice(speaker).pitch)
        # What repeats repeats after twice the time, too.
        assert min(abs(octaves), abs(octaves + 1)) < 0.2


def _file(spec: str, variables: dict[str, np.ndarray]) -> bytes:
    def text(words: str) -> bytes:
        return struct.pack("<H", len(words) + 1) + words.encode() + b"\0"

    made = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        kind = {"float16": 4, "int8": 1}[str(value.dtype)]
        made += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        made += struct.pack("<BI", kind, value.nbytes) + value.tobytes()
    return made + struct.pack("<I", 0)


def test_whispers_tensors_are_found_and_joined_ones_taken_apart() -> None:
    joined = np.arange(12).reshape(6, 2).astype(np.float16)
    bias = np.array([1, 2, 0, 0, 5, 6], dtype=np.float16)
    content = _file(
        "WhisperSpec",
        {
            "encoder/conv1/weight": np.ones((2, 3, 3), dtype=np.float16),
            "encoder/layer_0/self_attention/linear_0/weight": joined,
            "encoder/layer_0/self_attention/linear_0/bias": bias,
            "encoder/layer_0/ffn/layer_norm/gamma": np.ones(2, dtype=np.float16),
            "encoder/layer_norm/beta": np.zeros(2, dtype=np.float16),
            "encoder/num_heads": np.array(8, dtype=np.int8),
            "decoder/layer_norm/beta": np.zeros(2, dtype=np.float16),
        },
    )
    found = whisper._tower(dict(whisper._variables(content)))
    assert set(found) == {
        "conv1.weight", "layer_norm.bias", "layers.0.final_layer_norm.weight", "layers.0.self_attn.k_proj.weight",
        "layers.0.self_attn.q_proj.bias", "layers.0.self_attn.q_proj.weight", "layers.0.self_attn.v_proj.bias",
        "layers.0.self_attn.v_proj.weight",
    }  # fmt: skip
    assert torch.equal(found["layers.0.self_attn.v_proj.bias"], torch.tensor([5.0, 6.0]))
    assert torch.equal(found["layers.0.self_attn.k_proj.weight"], torch.tensor([[4.0, 5.0], [6.0, 7.0]]))
    with pytest.raises(UserError, match="not Whisper's"):
        dict(whisper._variables(_file("TransformerSpec", {})))
