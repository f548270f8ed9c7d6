"""A campaign: files of a checkpoint and records, altered at random, are taken or refused, and never end in a crash.

In CI a few hundred; with `-m campaign` many thousands, whose number is printed.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.conftest import draw_subject
from tests.voices import RATE, voice
from vkdsurgeon.checkpoint.header import LENGTH_BYTES
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.data.clips import open_clip
from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import SurgeryError, UserError

SHORT, LONG = 150, 5_000
STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    10**30,
    0.5,
    1e308,
    "",
    "x",
    "\ud800",
    "a/b",
    [],
    {},
    [None],
    {"": 1},
]
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


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, each in items for place in _places(each, (*path, key))]


def _altered(value: Any, draw: random.Random) -> Any:
    """A JSON value with something else at one place, or with that place gone."""
    value = json.loads(json.dumps(value))
    path = draw.choice(_places(value))
    node = value
    for step in path[:-1]:
        node = node[step]
    if draw.random() < 0.2:
        del node[path[-1]]
    else:
        node[path[-1]] = draw.choice(STRANGE)
    return value


def _bytes(content: bytes, draw: random.Random) -> bytes:
    kind, at = draw.randrange(3), draw.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    return content[:at] + draw.randbytes(8) + content[at:]


def _campaign(count: int, seed: int, once: Callable[[random.Random], None]) -> None:
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        begun = time.monotonic()
        try:
            once(random.Random(f"{seed} {number}"))
            outcomes["taken"] += 1
        except (UserError, SurgeryError) as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.monotonic() - begun)
    print(f"{count} cases: {dict(outcomes)}, slowest {slowest:.1f} s")
    assert slowest < 30


@pytest.fixture
def root(llava: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llava, tmp_path / "model"))


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_of_a_checkpoint(root: Path, count: int, name: str) -> None:
    path = root / name
    whole = json.loads(path.read_text())

    def once(draw: random.Random) -> None:
        path.write_text(json.dumps(_altered(whole, draw)))
        split_checkpoint(take_inventory(root))

    _campaign(count, 1, once)


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("part", ["header", "bytes"])
def test_weights(root: Path, count: int, part: str) -> None:
    path = sorted(root.glob("*.safetensors"))[0]
    whole = path.read_bytes()
    length = LENGTH_BYTES + int.from_bytes(whole[:LENGTH_BYTES], "little")
    header = json.loads(whole[LENGTH_BYTES:length])

    def once(draw: random.Random) -> None:
        if part == "header":
            text = json.dumps(_altered(header, draw)).encode()
            path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + whole[length:])
        else:
            path.write_bytes(_bytes(whole[:length], draw) + whole[length:])
        take_inventory(root)

    _campaign(count, 2, once)


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("row", ROWS, ids=["flat", "conversation", "clip", "chat"])
def test_records(tmp_path: Path, count: int, row: dict[str, Any]) -> None:
    draw_subject(1, 1).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", voice(1, 1), RATE)
    path = tmp_path / "set.jsonl"

    def once(draw: random.Random) -> None:
        content = json.dumps(_altered(row, draw)).encode()
        path.write_bytes(_bytes(content, draw) if draw.random() < 0.3 else content)
        read_records(path, role="forget")

    _campaign(count, 3, once)


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "TGA", "PCX", "SGI", "ICO"])
def test_images(tmp_path: Path, count: int, kind: str) -> None:
    path = tmp_path / "image"
    draw_subject(1, 1).save(path, format=kind)
    whole = path.read_bytes()

    def once(draw: random.Random) -> None:
        path.write_bytes(_bytes(whole, draw))
        open_image(path)

    _campaign(count, 4, once)


@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG", "AIFF", "CAF"])
def test_clips(tmp_path: Path, count: int, kind: str) -> None:
    path = tmp_path / "clip"
    soundfile.write(path, voice(1, 1), RATE, format=kind)
    whole = path.read_bytes()

    def once(draw: random.Random) -> None:
        path.write_bytes(_bytes(whole, draw))
        open_clip(path)

    _campaign(count, 5, once)
