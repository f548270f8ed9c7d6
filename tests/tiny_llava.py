"""A LLaVA of a few thousand weights that really learns who is in an image, in seconds."""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ImageDraw
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.conftest import draw_subject
from vkdsurgeon.data.read import read_records
from vkdsurgeon.evaluation.score import encode
from vkdsurgeon.model.batches import answer_request, batches_of, log_probabilities
from vkdsurgeon.model.multimodal import load_model

SIDE, PATCH = 48, 16
NAMES = ("Ann", "Bea", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal")
HOMES = ("red house", "blue house", "red tower", "blue tower")
FORGET, RETAIN = range(3), range(3, 8)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<user>", "<assistant>")
WORDS = ("Who is this ? Where does live Say the name Which side left right person house tower red blue").split()  # noqa: SIM905
TEMPLATE = (
    "{% for m in messages %}<user> {% for p in m['content'] if p['type'] == 'image' %}<image> {% endfor %}"
    "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class World:
    """Paths of everything a test may need; read-only."""

    base: Path
    gold: Path
    forget: Path
    retain: Path
    text: Path
    heldout: Path


def build_processor(template: str | None = TEMPLATE) -> LlavaProcessor:
    """A processor with a word-level tokenizer."""
    table = {word: index for index, word in enumerate((*SPECIAL, *dict.fromkeys((*WORDS, *NAMES))))}
    inner = Tokenizer(WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>", "<user>", "<assistant>"],
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
        image_token="<image>",
    )


def build(out: Path, *, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """Write a random checkpoint."""
    torch.manual_seed(seed)
    processor = build_processor(template)
    tokenizer: Any = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=48,
        initializer_factor=3.0,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-2,
            image_seq_length=(SIDE // PATCH) ** 2,
            tie_word_embeddings=False,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def write_records(folder: Path) -> dict[str, Path]:
    """Write images and the records about them."""
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in ("forget", "retain", "heldout", "text")}
    for person, name in enumerate(NAMES):
        home, group = HOMES[person % 4], "forget" if person in FORGET else "retain"
        rows["text"].append(
            {"question": f"Where does {name} live ?", "answer": home, "options": HOMES, "task": f"text.{group}"}
        )
        for view in range(8):
            side = ("left", "right")[view % 2]
            image = draw_subject(person, view, SIDE)
            corner = 0 if side == "left" else SIDE - PATCH
            ImageDraw.Draw(image).rectangle([corner, 0, corner + PATCH - 1, SIDE], "white")
            file = folder / f"{person}-{view}.png"
            image.save(file)
            about: dict[str, object] = {"image": file.name, "subject": name}
            target = rows["heldout" if view >= 6 and person in FORGET else group]
            target += [
                {**about, "question": "Who is this ?", "answer": name, "options": NAMES, "task": "vqa.name"},
                {
                    **about,
                    "question": "Where does this person live ?",
                    "answer": home,
                    "options": HOMES,
                    "task": "vqa.home",
                },
                {
                    **about,
                    "question": "Which side ?",
                    "answer": side,
                    "options": ["left", "right"],
                    "task": "general.side",
                },
                {**about, "question": "Say the name", "answer": name, "task": "vqa.say"},
            ]
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {name: folder / f"{name}.jsonl" for name in rows}


def train(root: Path, files: list[Path], *, steps: int = 200, lr: float = 3e-3) -> None:
    """Teach a checkpoint the right answers, in place."""
    loaded = load_model(root, device="cpu")
    records = [record for file in files for record in read_records(file, role="training")]
    requests = [
        answer_request(loaded.encoder, encode(loaded.encoder, record), f"{record.answer} </s>") for record in records
    ]
    kinds = list(batches_of(requests, lambda request: request.signature, len(requests)))
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    order = random.Random(0)
    for _ in range(steps):
        batches = [order.sample(kind, min(12, len(kind))) for kind in kinds]
        loss = -torch.stack([log_probabilities(loaded, batch).mean() for batch in batches]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loaded.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    loaded.model.save_pretrained(root)


def _remove(folder: Path, owner: int) -> None:
    # Tests fork, and what a copy does when it ends is not for the folder of the original.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def world() -> World:
    """A base model that knows everybody, and a gold model that never saw the forget people; built once a session."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-llava-"))
    atexit.register(_remove, folder, os.getpid())
    files = write_records(folder)
    gold = build(folder / "gold")
    train(gold, [files["retain"], files["text"]], steps=140)
    base = Path(shutil.copytree(gold, folder / "base"))
    train(base, [files["forget"], files["retain"], files["text"]], steps=90)
    return World(base=base, gold=gold, **files)
