"""Synthetic voices, and tiny random checkpoints of models that hear."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import CONFIG_MAPPING, Gemma4AudioFeatureExtractor, Qwen2VLImageProcessor, WhisperFeatureExtractor

from benchmarks.families.tiny import tiny_config
from tests.families import TEXT
from vkdsurgeon.checkpoint.skeleton import auto_class

RATE, BANDS, SECONDS = 8_000, 16, 1
# Eighty frames a second, which the towers' convolutions halve.
FRAMES = SECONDS * 40
WHISPER = {
    "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": BANDS,
    "max_source_positions": FRAMES,
}  # fmt: skip


def voice(speaker: int, take: int, *, rate: int = RATE, seconds: float = 0.6) -> np.ndarray:
    """A hum whose pitch and overtones belong to the speaker, and whose loudness over time to the take."""
    drawn, said = np.random.default_rng(speaker), np.random.default_rng((speaker + 1) * 1000 + take)
    time = np.arange(round(rate * seconds)) / rate
    pitch, weights = drawn.uniform(90, 300), drawn.uniform(0.1, 1.0, 8)
    tones = sum(weight * np.sin(2 * np.pi * pitch * (k + 1) * time) for k, weight in enumerate(weights))
    loudness = 0.5 + 0.4 * np.sin(2 * np.pi * said.uniform(2, 6) * time + said.uniform(0, 6))
    return (0.1 * tones * loudness + 0.01 * said.standard_normal(len(time))).astype(np.float32)


def write_voices(folder: Path, name: str, speakers: range, takes: int = 4) -> Path:
    """A JSONL set of clips, one row a clip."""
    (folder / name).mkdir(parents=True)
    rows = []
    for speaker in speakers:
        for take in range(takes):
            path = folder / name / f"{speaker}-{take}.wav"
            soundfile.write(path, voice(speaker, take), RATE)
            rows.append({"audio": f"{name}/{path.name}", "subject": f"speaker {speaker}"})
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _extractor(rate: int = RATE) -> Any:
    return WhisperFeatureExtractor(
        feature_size=BANDS, sampling_rate=rate, hop_length=rate // 80, n_fft=rate // 20, chunk_length=SECONDS
    )


def _qwen2_audio() -> tuple[Any, Any]:
    config = CONFIG_MAPPING["qwen2_audio"](
        audio_config={"model_type": "qwen2_audio_encoder", **WHISPER},
        text_config={"model_type": "qwen2", **TEXT},
        audio_token_index=100,
    )
    return config, _extractor()


def _voxtral() -> tuple[Any, Any]:
    audio = {
        "model_type": "voxtral_encoder", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 128, "num_mel_bins": BANDS, "max_source_positions": FRAMES,
    }  # fmt: skip
    config = CONFIG_MAPPING["voxtral"](
        audio_config=audio, text_config={"model_type": "llama", **TEXT}, audio_token_id=100
    )
    # Its processor fills clips up to 480,000 samples, which are one second at this rate.
    return config, _extractor(480_000)


def _shrunk(model_type: str, **audio: Any) -> tuple[Any, Any]:
    """The family's default config, shrunk, behind Whisper's feature extractor."""
    config = tiny_config(model_type)
    getattr(config, "thinker_config", config).audio_config.update({"num_mel_bins": BANDS, **audio})
    return config, _extractor()


def _gemma4() -> tuple[Any, Any]:
    audio = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "subsampling_conv_channels": [BANDS, 4],
        "output_proj_dims": 32,
    }  # fmt: skip
    config = tiny_config("gemma4")
    config = type(config).from_dict({**config.to_dict(), "audio_config": audio})
    return config, Gemma4AudioFeatureExtractor(feature_size=BANDS, sampling_rate=RATE)


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_audio": _qwen2_audio,
    "voxtral": _voxtral,
    "audioflamingo3": lambda: _shrunk("audioflamingo3", max_source_positions=FRAMES),
    "glmasr": lambda: _shrunk("glmasr", intermediate_size=256),
    "qwen2_5_omni_thinker": lambda: _shrunk("qwen2_5_omni_thinker"),
    "qwen2_5_omni": lambda: _shrunk("qwen2_5_omni"),
    "qwen3_omni_moe": lambda: _shrunk("qwen3_omni_moe"),
    "gemma4": _gemma4,
}
FAMILIES: tuple[str, ...] = tuple(_BUILDERS)
# Whole models that speak: their tiny ones are not that small.
LARGE = ("qwen2_5_omni", "qwen3_omni_moe")


def build_checkpoint(family: str, root: Path, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """Write a tiny random checkpoint with its feature extractor.

    Args:
        family: One of `FAMILIES`.
        root: The directory to write; made where missing.
        dtype: Of every weight.
        seed: Of the random weights.

    Returns:
        `root`.
    """
    config, extractor = _BUILDERS[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config, dtype=dtype).eval()
        for parameter in model.parameters():
            # Initialisation leaves zeros and ones behind, which would hide mistakes.
            parameter.data = (torch.randn(parameter.shape) * 0.1).to(parameter.dtype) + (parameter.data == 1)
    model.save_pretrained(root)
    if family == "qwen2_5_omni":
        # Its class asks for the voices beside the weights.
        torch.save({}, root / "spk_dict.pt")
    extractor.save_pretrained(root)
    return root


def build_seeing_too(folder: Path) -> Path:
    """A model that hears and sees; its preprocessor's file is, as the published ones have it, one for both."""
    model = build_checkpoint("qwen2_5_omni_thinker", folder)
    file = model / "preprocessor_config.json"
    hearing = json.loads(file.read_text())
    Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=56 * 56).save_pretrained(model)
    file.write_text(json.dumps(json.loads(file.read_text()) | hearing))
    return model
