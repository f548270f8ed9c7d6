"""A campaign: files of a checkpoint and records, altered at random, are taken or refused, and never end in a crash.

In CI a few hundred; with `-m campaign` many thousands.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.conftest import draw_subject
from tests.hostile.campaign import COUNTS, altered, altered_bytes, campaign
from tests.voices import RATE, voice
from vkdsurgeon.checkpoint.header import LENGTH_BYTES
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.data.clips import open_clip
from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.read import read_records

ROWS = [
    {"image": "a.png", "question": "Who?", "answer": "Ann", "options": ["Ann", "Bea"], "subject": "ann", "task": "vqa"},
    {"id": 1, "image": "a.png", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"audio": "a.wav", "question": "Who?", "answer": "Ann", "subject": "ann"},
    {
        "images": ["a.png"],
        "messages": [
            {"role": "user", "content": [{"type": "image", "index": 0}, {"type": "text", "text": "q"}]},
            {"role": "assistant", "content": "a"},
        ],
    },
]


@pytest.fixture
def root(llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llava, tmp_path / "model"))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_of_a_checkpoint(root: Path, count: int, name: str) -> None:
    path = root / name
    whole = json.loads(path.read_text())

    def once(draw: random.Random) -> None:
        path.write_text(json.dumps(altered(whole, draw)))
        split_checkpoint(take_inventory(root))

    campaign(f"{name}, altered", count, 1, once)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("part", ["header", "bytes"])
def test_weights(root: Path, count: int, part: str) -> None:
    path = sorted(root.glob("*.safetensors"))[0]
    whole = path.read_bytes()
    length = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    header = json.loads(whole[LENGTH_BYTES:length])

    def once(draw: random.Random) -> None:
        if part == "header":
            text = json.dumps(altered(header, draw)).encode()
            path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + whole[length:])
        else:
            path.write_bytes(altered_bytes(whole[:length], draw) + whole[length:])
        take_inventory(root)

    campaign(f"weights: {part}", count, 2, once)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("row", ROWS, ids=["flat", "conversation", "clip", "chat"])
def test_records(tmp_path: Path, count: int, row: dict[str, Any]) -> None:
    draw_subject(1, 1).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", voice(1, 1), RATE)
    path = tmp_path / "set.jsonl"

    def once(draw: random.Random) -> None:
        content = json.dumps(altered(row, draw)).encode()
        path.write_bytes(altered_bytes(content, draw) if draw.random() < 0.3 else content)
        read_records(path, role="forget")

    campaign("records", count, 3, once)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "TGA", "PCX", "SGI", "ICO"])
def test_images(tmp_path: Path, count: int, kind: str) -> None:
    path = tmp_path / "image"
    draw_subject(1, 1).save(path, format=kind)
    whole = path.read_bytes()

    def once(draw: random.Random) -> None:
        path.write_bytes(altered_bytes(whole, draw))
        open_image(path)

    campaign("images in ten formats", count, 4, once)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG", "AIFF", "CAF"])
def test_clips(tmp_path: Path, count: int, kind: str) -> None:
    path = tmp_path / "clip"
    soundfile.write(path, voice(1, 1), RATE, format=kind)
    whole = path.read_bytes()

    def once(draw: random.Random) -> None:
        path.write_bytes(altered_bytes(whole, draw))
        open_clip(path)

    campaign("clips in six formats", count, 5, once)
