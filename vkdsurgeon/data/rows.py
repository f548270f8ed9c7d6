"""JSON and JSON-lines files as numbered rows; every defect is named with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_WHITESPACE = " \t\r\n"
_TABLES = {".csv": "CSV", ".tsv": "tab-separated values", ".yaml": "YAML", ".yml": "YAML", ".xlsx": "Excel"}


@dataclass(frozen=True)
class Row:
    """One JSON object of a file and where it stands.

    Attributes:
        value: The object's keys and values, as JSON has them.
        source: `file:line`.
    """

    value: dict[str, Any]
    source: str


def read_rows(path: Path, *, role: str) -> list[Row]:
    """Read a JSON list of objects or one JSON object per line, whichever the file is.

    Args:
        path: The file.
        role: What the file is for (`forget`, `retain`), for messages.

    Returns:
        At least one row, in the order of the file.

    Raises:
        UserError: The file is unreadable, empty, not UTF-8, or not such JSON.
    """
    text = _read_text(path, role)
    start = _skip(text, 0)
    if start == len(text):
        raise UserError(f"the {role} set is empty", where=path, expected="at least one record")
    if (kind := _TABLES.get(path.suffix.lower())) and text[start] not in "[{":
        raise _no_json(kind, path)
    rows = list(_list_items(text, start, path) if text[start] == "[" else _lines(text, path))
    if not rows:
        raise UserError(f"the {role} set is an empty list", where=path, expected="at least one record")
    return rows


def _no_json(kind: str, path: Path) -> UserError:
    return UserError(
        f"the file is {kind}",
        where=path,
        expected="JSON lines, a JSON list or a folder of images",
        remedy='write one object a line, such as {"image": "a.png", "question": "Who is this?", "answer": "Ada"}',
    )


def _read_text(path: Path, role: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no such file or folder for the {role} set", where=path) from None
    except (OSError, ValueError) as error:
        told = UserError(f"the {role} set cannot be read: {error}", where=path)
        raise (machine_or(told, error) if isinstance(error, OSError) else told) from None
    if raw.startswith(b"PAR1"):
        raise UserError(
            "this is a parquet file",
            where=path,
            expected="JSON lines, a JSON list or a folder of images",
            remedy="draw its images into a folder with `vkdsurgeon sample`, or name its benchmark with --suite",
        )
    if raw[257:262] == b"ustar":
        raise UserError(
            "this is a tar",
            where=path,
            expected="JSON lines, a JSON list or a folder of images",
            remedy="draw its images into a folder with `vkdsurgeon sample`",
        )
    if raw.startswith(b"PK\x03\x04"):
        raise _no_json(_TABLES.get(path.suffix.lower(), "a zip archive"), path)
    if raw.startswith(_UTF16_MARKS):
        raise UserError("the file is UTF-16", where=path, expected="UTF-8", remedy="save it again as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"byte {error.start} is not UTF-8", where=f"{path}:{line}", expected="UTF-8", remedy="save it as UTF-8"
        ) from None


def _lines(text: str, path: Path) -> Iterator[Row]:
    # Not str.splitlines: U+2028 and friends are legal inside JSON strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        start = _skip(line, 0)
        if line.strip() == "{" and _is_one_object(text):
            raise UserError(
                "the file is one JSON object over several lines",
                where=source,
                expected="one JSON object per line, or a JSON list of objects",
                remedy="put [ before it and ] behind it; where the records lie in it, write their list to a file",
            )
        value, end = _decode(line, start, source)
        if _skip(line, end) != len(line):
            raise UserError("there is more than one JSON value on the line", where=source, expected="one object")
        yield _row(value, source)


def _is_one_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _list_items(text: str, start: int, path: Path) -> Iterator[Row]:
    position, line, counted = _skip(text, start + 1), 1, 0
    if text[position : position + 1] == "]":
        _end_of_file(text, position + 1, path)
        return
    while True:
        line += text.count("\n", counted, position)
        counted = position
        source = f"{path}:{line}"
        value, end = _decode(text, position, source)
        yield _row(value, source)
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark == "]":
            _end_of_file(text, position + 1, path)
            return
        if mark != ",":
            line += text.count("\n", counted, position)
            raise UserError("the JSON list breaks off", where=f"{path}:{line}", value=mark, expected="',' or ']'")
        position = _skip(text, position + 1)


def _end_of_file(text: str, position: int, path: Path) -> None:
    rest = _skip(text, position)
    if rest != len(text):
        line = text.count("\n", 0, rest) + 1
        raise UserError("there is something after the JSON list", where=f"{path}:{line}", value=text[rest : rest + 20])


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITESPACE:
        position += 1
    return position


def _row(value: Any, source: str) -> Row:
    if not isinstance(value, dict):
        raise UserError("a record must be a JSON object", where=source, value=value, expected='{"image": ...}')
    return Row(value, source)


def _decode(text: str, position: int, source: str) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        path, _, line = source.rpartition(":")
        number = int(line) + text.count("\n", position, error.pos)
        raise UserError(
            f"broken JSON: {error.msg}",
            where=f"{path}:{number}",
            expected="one JSON object per line, or a JSON list of objects",
            remedy="correct the file there; `python -m json.tool --json-lines FILE` checks JSON lines",
        ) from None
    except RecursionError:
        raise UserError("the JSON is nested too deeply", where=source) from None
    except ValueError as error:
        raise UserError(f"broken JSON: {error}", where=source) from None
    refuse_surrogates(value, source)
    return value, end


def refuse_surrogates(value: Any, source: str) -> None:
    """Refuse half a UTF-16 pair, which is legal in JSON and legal nowhere else.

    Raises:
        UserError: A string in the value holds one.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError("a string holds half of a surrogate pair", where=source, expected="Unicode text") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands there twice")
        found[key] = value
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
