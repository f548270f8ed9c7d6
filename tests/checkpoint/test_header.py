"""Headers: whatever is not a whole, consistent safetensors file is refused; whatever safetensors writes is read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vkdsurgeon.checkpoint.header import read_header
from vkdsurgeon.errors import UserError

TWO = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [8, 14]},
}
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def write(path: Path, header: Any, data: int = 14) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    return path


def changed(name: str, **facts: Any) -> dict[str, Any]:
    return {**TWO, name: {**TWO[name], **facts}}


def test_offsets_are_absolute(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    values = {"one": torch.arange(6.0).reshape(2, 3), "two": torch.tensor([1, 2], dtype=torch.int64)}
    save_file(values, path)
    entries = {entry.name: entry for entry in read_header(path, "x.safetensors")}
    raw = path.read_bytes()
    for name, value in values.items():
        entry = entries[name]
        assert raw[entry.begin : entry.end] == value.numpy().tobytes()
        assert (entry.shape, entry.elements) == (tuple(value.shape), value.numel())


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (TWO, 13, "outside the file"),
        (TWO, 15, "goes on after its last tensor"),
        (changed("b", data_offsets=[4, 10]), 14, "overlap"),
        (changed("b", data_offsets=[9, 15]), 15, "belong to no tensor"),
        (changed("a", shape=[3]), 14, "does not fit"),
        (changed("a", dtype="F99"), 14, "unknown dtype"),
        (changed("a", dtype=["F32"]), 14, "unknown dtype"),
        (changed("a", shape=[-2]), 14, "malformed shape"),
        (changed("a", shape=[True]), 14, "malformed shape"),
        (changed("a", data_offsets=[8, 0]), 14, "malformed offsets"),
        (changed("a", data_offsets=[0]), 14, "malformed offsets"),
        (changed("a", data_offsets=None), 14, "malformed offsets"),
        ({"a": 3}, 0, "malformed header entry"),
        (b"[]", 0, "not a JSON object"),
        (b"{nonsense", 0, "not valid JSON"),
        (b"\xff\xfe", 0, "not valid JSON"),
        (b'{"a": {}, "a": {}}', 0, "appears twice"),
        (b"[" * 100_000, 0, "not valid JSON"),
    ],
)
def test_refuses(tmp_path: Path, header: Any, data: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_header(write(tmp_path / "x.safetensors", header, data), "x.safetensors")
    assert "x.safetensors" in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"1234567", struct.pack("<Q", 10) + b"{}", struct.pack("<Q", 2**63) + b"{}"])
def test_refuses_what_is_too_short(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"too short|longer than the file"):
        read_header(path, path.name)


@RELAXED
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_never_crash(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", max(len(data) - 8, 0)) + data)
    with pytest.raises(UserError):
        read_header(path, path.name)


@RELAXED
@given(begin=st.integers(-2, 16), end=st.integers(-2, 16), size=st.integers(0, 4), tail=st.integers(0, 16))
def test_nothing_is_accepted_that_safetensors_refuses(
    tmp_path: Path, begin: int, end: int, size: int, tail: int
) -> None:
    path = write(tmp_path / "x.safetensors", changed("b", shape=[size], data_offsets=[begin, end]), tail)
    try:
        read_header(path, path.name)
    except UserError:
        return
    try:
        with safe_open(path, "pt") as opened:
            assert sorted(opened.keys()) == ["a", "b"]
    except SafetensorError as error:  # pragma: no cover - the failure this test looks for
        pytest.fail(f"accepted, but: {error}")
