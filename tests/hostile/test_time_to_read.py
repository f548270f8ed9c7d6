"""The time to read a file grows with its length, not with the square of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import draw_subject
from vkdsurgeon.attacks.templates import read_templates
from vkdsurgeon.checkpoint.header import LENGTH_BYTES, read_header
from vkdsurgeon.config.yaml import read_mapping, read_value
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError

# Read in a second or less; a reader that compares everything with everything needs minutes.
MANY, SECONDS = 10_000, 10.0


def _header(folder: Path) -> None:
    tensors = {f"t{n}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n in range(MANY)}
    text = json.dumps(tensors).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + bytes(4 * MANY))
    assert len(read_header(path, path.name)) == MANY


def _rows(folder: Path) -> None:
    row = json.dumps({"image": "a.png", "question": "q", "answer": "a"})
    (folder / "set.jsonl").write_text("[" + ",\n".join([row] * MANY) + "]")
    assert len(read_records(folder / "set.jsonl", role="forget")) == MANY


def _parts(folder: Path) -> None:
    parts = [{"type": "image"}, *[{"type": "text", "text": "q"}] * MANY]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]
    (folder / "set.jsonl").write_text(json.dumps({"images": ["a.png"], "messages": messages}))
    assert len(read_records(folder / "set.jsonl", role="forget")) == 1


def _keys(folder: Path) -> None:
    (folder / "set.jsonl").write_text(json.dumps({f"k{n}": n for n in range(MANY)}))
    with pytest.raises(UserError, match="unknown key"):
        read_records(folder / "set.jsonl", role="forget")


def _brackets(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("steps: " + "[" * MANY)
    with pytest.raises(UserError, match="brackets in each other"):
        read_mapping(folder / "recipe.yaml", "recipe")
    with pytest.raises(UserError, match="brackets in each other"):
        read_templates(folder / "recipe.yaml")
    with pytest.raises(yaml.YAMLError, match="brackets in each other"):
        read_value("{" * MANY)


@pytest.mark.parametrize("read", [_header, _rows, _parts, _keys, _brackets])
def test_length(tmp_path: Path, read: Callable[[Path], None]) -> None:
    draw_subject(1, 1).save(tmp_path / "a.png")
    begun = time.process_time()
    read(tmp_path)
    assert time.process_time() - begun < SECONDS
