"""The text retain set: what it may be, and what it is refused for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vkdsurgeon.decoder_pass.text_set import BUILT_IN, read_text_retain_set
from vkdsurgeon.errors import UserError


def test_half_is_held_out_and_nothing_is_in_both_halves(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*(f"prompt {number}" for number in range(9)), "", "prompt 0"]))
    first, again, other = (read_text_retain_set(file, seed) for seed in (0, 0, 1))
    assert sorted((*first.train, *first.held_out)) == [f"prompt {number}" for number in range(9)]
    assert (len(first.train), len(first.held_out), first.built_in) == (5, 4, False)
    assert first == again
    assert first.train != other.train


def test_records_give_their_questions(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    rows = [{"question": "Who ?", "answer": "A"}, {"question": "Where ?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    keep = read_text_retain_set(file, 0)
    assert {*keep.train, *keep.held_out} == {"Who ?", "Where ?"}


def test_the_built_in_prompts_are_distinct() -> None:
    keep = read_text_retain_set(None, 0)
    assert keep.built_in
    assert len(keep.train) + len(keep.held_out) == len(BUILT_IN) == len(set(BUILT_IN))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"only one\nonly one\n", "too small"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"image": "a.png", "question": "Who ?"}\n{"question": "b"}\n', "has an image"),
        (b'{"image": "a.png"}\n', "has an image"),
    ],
)
def test_what_cannot_be_kept_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    from tests.conftest import draw_subject

    draw_subject(0, 0).save(tmp_path / "a.png")
    file = tmp_path / "text"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text_retain_set(file, 0)
    with pytest.raises(UserError, match="cannot be read"):
        read_text_retain_set(tmp_path / "absent", 0)
    with pytest.raises(UserError, match="a folder"):
        read_text_retain_set(tmp_path, 0)
