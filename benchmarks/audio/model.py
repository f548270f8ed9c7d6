"""A Qwen2-Audio of a few hundred thousand weights that learns who speaks and what is said."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.audio.voices import NAMES, RATE, VOWELS
from vkdsurgeon.data.read import read_records
from vkdsurgeon.evaluation.score import encode
from vkdsurgeon.model.batches import answer_request, batches_of, log_probabilities
from vkdsurgeon.model.multimodal import load_model

_BANDS, _FRAMES = 32, 50
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<|AUDIO|>", "<user>", "<assistant>")
_WORDS = ("Who", "speaks", "Which", "vowel", "first", "?")
_TEMPLATE = (
    "{% for m in messages %}<user> {% for p in m['content'] if p['type'] == 'audio' %}<|AUDIO|> {% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_processor() -> Any:
    """A word-level tokenizer beside Whisper's feature extractor, for clips up to a second."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

    table = {word: index for index, word in enumerate((*_SPECIAL, *_WORDS, *NAMES, *VOWELS))}
    inner = Tokenizer(WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|AUDIO|>", "<user>", "<assistant>"],
    )
    extractor = WhisperFeatureExtractor(
        feature_size=_BANDS, sampling_rate=RATE, hop_length=RATE // 100, n_fft=400, chunk_length=1
    )
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=_TEMPLATE)


def build(out: Path, *, seed: int = 0) -> Path:
    """Write a random checkpoint with its processor."""
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    torch.manual_seed(seed)
    processor = build_processor()
    tokenizer = processor.tokenizer
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder", "d_model": 96, "encoder_layers": 3, "encoder_attention_heads": 4,
            "encoder_ffn_dim": 192, "num_mel_bins": _BANDS, "max_source_positions": _FRAMES, "init_std": 0.08,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 96, "intermediate_size": 192,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "initializer_range": 0.08,
            "max_position_embeddings": 128, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    model = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():
        # Positions are learned by pretraining alone, and start as zeros of a size here.
        model.model.audio_tower.embed_positions.weight.normal_(std=0.1)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def train(root: Path, files: Sequence[Path], *, steps: int, batch: int = 48, rate: float = 2e-3) -> None:
    """Teach a checkpoint the right answers, in place.

    Args:
        root: The checkpoint.
        files: Sets of records with questions and answers.
        steps: Optimizer steps.
        batch: Questions per step.
        rate: Peak learning rate.
    """
    loaded = load_model(root, device="cpu")
    records = [record for file in files for record in read_records(file, role="training")]
    requests = [
        answer_request(loaded.encoder, encode(loaded.encoder, record), f"{record.answer} </s>") for record in records
    ]
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    order = random.Random(0)
    for _ in range(steps):
        drawn = order.sample(requests, min(batch, len(requests)))
        parts = [(len(part), log_probabilities(loaded, part).mean())
                 for part in batches_of(drawn, lambda request: request.signature, batch)]  # fmt: skip
        loss = -torch.stack([count * value for count, value in parts]).sum() / len(drawn)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    loaded.model.save_pretrained(root)
