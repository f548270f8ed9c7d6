"""Records as people's tools write them are read, or what is wrong with them is named."""

from __future__ import annotations

import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "a.png")
    return tmp_path


def _read(folder: Path, row: Any) -> list[tuple[str | None, str | None, str | None]]:
    path = folder / "set.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return [(r.image and r.image.name, r.question, r.answer) for r in read_records(path, role="forget")]


TURNS = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Ann"}]
SYSTEM = {"from": "system", "value": "You are helpful."}
WHO = {"type": "text", "text": "Who?"}
ASKED = {"role": "user", "content": [{"type": "image", "path": "a.png"}, WHO]}
SAID = {"role": "assistant", "content": "Ann"}
NOISE = {"model": "gpt-4", "width": 640, "height": 480, "source": "coco", "weight": 1.0, "dataset": None, "meta": {}}


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "question": "Who?", "answer": "Ann", "options": None, "subject": None, "task": None},
        {"image": ["a.png"], "question": "Who?", "answer": "Ann"},
        {"images": ["a.png"], "question": "Who?", "answer": "Ann"},
        {"image": {"path": "a.png", "bytes": None}, "question": "Who?", "answer": "Ann"},
        {"id": "1", "image": "a.png", "conversations": TURNS, **NOISE},
        {"image": ["a.png"], "conversations": TURNS},
        {"images": ["a.png"], "conversations": [SYSTEM, *TURNS]},
        {"image": "a.png", "conversations": [{**turn, "loss": True, "weight": None} for turn in TURNS]},
        {"messages": [{"role": "system", "content": "Be kind."}, ASKED, SAID], **NOISE},
        {"messages": [{**ASKED, "name": None, "tool_calls": None}, {**SAID, "weight": 1}]},
        {"images": ["a.png"], "messages": [{"role": "user", "content": "<image>Who?"}, SAID]},
        {
            "images": [{"path": "a.png"}],
            "messages": [
                {"role": "user", "content": [{"type": "image", "index": 0, "text": None}, WHO]},
                {"role": "assistant", "content": [{"type": "text", "text": "Ann", "index": None}]},
            ],
        },
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, WHO]}, SAID]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}, WHO]}, SAID]},
        {"image": "a.png", "conversations": [{"role": "user", "content": "<image>\nWho?"}, SAID]},
        {"messages": [{"role": "developer", "content": "Be kind."}, ASKED, SAID]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": "a.png"},
                        {"type": "input_text", "text": "Who?"},
                    ],
                },
                SAID,
            ]
        },
    ],
)  # fmt: skip
def test_they_are_read(folder: Path, row: Any) -> None:
    assert _read(folder, row) == [("a.png", "Who?", "Ann")]


def test_a_file_url_is_a_path(folder: Path) -> None:
    (folder / "a.png").rename(folder / "a b.png")
    row = {"image": f"file://{folder}/a%20b.png", "question": "Who?", "answer": "Ann"}
    assert _read(folder, row) == [("a b.png", "Who?", "Ann")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": ["a.png", "b.png"], "question": "q"}, "several images"),
        ({"image": "a.png", "images": ["a.png"], "question": "q"}, "both `image` and `images`"),
        ({"image": {"bytes": "aGVsbG8="}, "question": "q"}, "lies in the record itself"),
        ({"image": "a.png", "conversations": TURNS, "subjects": "Ann"}, "did you mean 'subject'"),
        ({"image": "a.png", "conversations": [{"from": "robot", "value": "x"}]}, "conversations.0.from"),
        ({"image": "a.png", "messages": [{**ASKED, "content": [{"type": "video", "path": "x"}]}, SAID]}, "type"),
        ({"image": "a.png", "question": "q", "width": 3}, "unknown key 'width'"),
        ({"image": "https://x.org/a.png", "question": "q"}, "nothing is ever downloaded"),
        ({"image": "data:image/png;base64,AAAA", "question": "q"}, "lies in the record itself"),
        ({"conversations": [{"from": "user", "value": "<img>a.png</img>Who?"}, TURNS[1]]}, "give the image's path"),
        ({"image_path": "a.png", "conversations": [{"from": "human", "value": "Who?"}, TURNS[1]]}, "mean 'image'"),
        ({"file_name": "a.png", "question": "q"}, "did you mean 'image'"),
        ({"images": ["a.png"], "query": "q", "response": "a"}, "did you mean 'question'"),
        ({"video": "v.mp4", "conversations": TURNS}, "videos are not read"),
        ({"image": "", "question": "q"}, "no name"),
        ({"image": "A.PNG", "question": "q"}, "did you mean 'a.png'"),
        ({"image": "sub\\a.png", "question": "q"}, "write paths with /"),
        ({"image": "a.png", "question": "q", "answer": 5}, "in quotes"),
        ({"image": "a.png", "question": "q", "answer": "A", "options": ["Ann", "Bo"]}, "the option's own words"),
        ({"image": "a.png", "messages": [{**ASKED, "content": None}, SAID]}, "messages.0.content: null"),
        ({"annotations": [{"image": "a.png"}]}, "where these are the records"),
    ],
)
def test_or_what_is_wrong_is_named(folder: Path, row: Any, words: str) -> None:
    with pytest.raises(UserError) as refused:
        _read(folder, row)
    assert words in str(refused.value)
    assert "set.jsonl:1" in str(refused.value.where)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("set.csv", b"image,question\na.png,Who?\n", "the file is CSV"),
        ("set.yaml", b"- image: a.png\n", "the file is YAML"),
        ("set.xlsx", b"PK\x03\x04", "the file is Excel"),
        ("set.parquet", b"PAR1", "this is a parquet file"),
        ("set.json", b'{\n "annotations": [{"image": "a.png"}]\n}\n', "one JSON object over several lines"),
    ],
)
def test_a_file_of_another_kind_is_called_by_it(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        read_records(folder / name, role="forget")
    assert refused.value.remedy


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_pixels_of_32_bits_are_refused(folder: Path, kind: str) -> None:
    Image.fromarray((np.arange(64).reshape(8, 8) * 1_000_000).astype(kind)).save(folder / "deep.tif")
    with pytest.raises(UserError, match="without a known white value") as refused:
        open_image(folder / "deep.tif", where="set.jsonl:3")
    assert "set.jsonl:3" in str(refused.value.where)
    assert refused.value.remedy == "save it with 8 or 16 bits"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_record", ["NFC", "NFD"])
def test_accents_have_two_spellings(folder: Path, on_disk: str, in_record: str) -> None:
    name = "José.png"
    (folder / "a.png").rename(folder / unicodedata.normalize(on_disk, name))
    row = {"image": unicodedata.normalize(in_record, name), "subject": unicodedata.normalize(in_record, "José")}
    path = folder / "set.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (record,) = read_records(path, role="forget")
    assert record.subject == unicodedata.normalize("NFC", "José")


FORMATS = [
    ("a.avif", "avif"),
    ("b.JPG", None),
    ("c.tga", None),
    ("d.jp2", "jpg_2000"),
    ("e.pgm", None),
    ("photo", None),
]


def test_a_folder_reads_every_image_and_says_what_it_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = [name for name, needs in FORMATS if needs is None or features.check(needs)]
    for name in there:
        kind = {"photo": "PNG", "b.JPG": "JPEG"}.get(name)
        Image.new("RGB" if name != "e.pgm" else "L", (8, 8)).save(tmp_path / name, format=kind)
    (tmp_path / "notes.txt").write_text("BM is not a bitmap")
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        records = read_records(tmp_path, role="forget")
    assert sorted(record.image.name for record in records if record.image) == sorted(there)
    assert "2 files that are no images were passed over, such as notes.txt" in caplog.text
    for record in records:
        assert record.image is not None
        assert open_image(record.image).size == (8, 8)


def test_pixels_of_32_bits(tmp_path: Path) -> None:
    small = Image.fromarray(np.full((4, 4), 40_000, dtype=np.int32))
    small.save(tmp_path / "small.tif")
    assert open_image(tmp_path / "small.tif").getpixel((0, 0)) == (156, 156, 156)
    Image.fromarray(np.full((4, 4), 1 << 30, dtype=np.int32)).save(tmp_path / "large.tif")
    with pytest.raises(UserError, match="32-bit pixels"):
        open_image(tmp_path / "large.tif")
