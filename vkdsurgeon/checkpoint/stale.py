"""Files beside the weights that may contain a second copy of them, found by content and size."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

# Containers of weights, and archives and compressed files that may hold one.
_MARKS = (
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"\xfd7zXZ",
    b"BZh",
    b"7z\xbc\xaf",
    b"\x04\x22\x4d\x18",
    b"Rar!",
    b"GGUF",
    b"ggml",
    b"\x89HDF",
    b"\x93NUMPY",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)
# Images, films and papers are large too, and hold no weights.
_HARMLESS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF", b"RIFF", b"\x00\x00\x00\x18ftyp", b"\x00\x00\x00\x20ftyp")
_NAMES = re.compile(
    r"\.(bin|pt|pth|ckpt|pkl|msgpack|h5|safetensors|gguf|onnx|onnx[._]data|npz|ot|tflite|distcp|incomplete"
    r"|tar|tgz|zip|7z|rar|mlmodel|pte|ort|nemo|keras|pb|engine)\b",
    re.I,
)
_SETTINGS = (".json", ".jinja", ".txt", ".model", ".md", ".py", ".yaml", ".yml")
# Of SentencePiece: no text, and no weights.
_VOCABULARY = ".model"
# Bytes as letters, in long lines: base64 or hexadecimal digits.
_LETTERS = string.ascii_letters.encode() + string.digits.encode() + b"+/=-_\r\n"
_LINE = 60
_HEAD = 4096
# Less cannot hold a layer of anything; a share of all weights, so that a vocabulary is not taken for one.
_LEAST_BYTES, _SHARE = 64 << 10, 20


def stale_copies(root: Path, files: Iterable[tuple[str, int]], shards: set[str]) -> Iterator[str]:
    """Paths of files that may hold the same weights once more.

    Args:
        root: The checkpoint.
        files: Path relative to it, and length.
        shards: The weight files, which nothing is told of.
    """
    listed = list(files)
    weights = sum(size for path, size in listed if path in shards)
    for path, size in sorted(listed):
        if path in shards:
            continue
        # `model.safetensors.index.json` names weights and holds none.
        named = _NAMES.search(Path(path).name) is not None and not path.lower().endswith(_SETTINGS)
        if (
            named
            or path.startswith(("original/", ".git/lfs/"))
            or (size and _holds_weights(root / path, path, size, weights))
        ):
            yield path


def _holds_weights(path: Path, name: str, size: int, weights: int) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
        # A header is text where the weights behind it are none.
        file.seek(max(size - _HEAD, 0))
        tail = file.read(_HEAD)
    if _is_safetensors(head, size):
        return True
    if size < _LEAST_BYTES or head.startswith(_HARMLESS):
        return False
    if head.startswith(_MARKS):
        return True
    if size * _SHARE < weights or name.lower().endswith(_VOCABULARY):
        return False
    text = _is_text(head) and _is_text(tail)
    return not text or (_is_encoded(head) and _is_encoded(tail))


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 9 and 1 < length <= size - 8 and head[8:10].startswith((b'{"', b"{}", b"{ "))


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    # Both ends of the piece may fall into the middle of a letter.
    return any(_decodes(head[first : len(head) - last]) for first in range(4) for last in range(4))


def _is_encoded(piece: bytes) -> bool:
    return not piece.translate(None, _LETTERS) and all(len(line) >= _LINE for line in piece.split()[1:-1])


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
