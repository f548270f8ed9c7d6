"""The reader takes what people have and names file and line of everything it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vkdsurgeon.data.read import read_records, require_answers
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (4, 4), (len(name), 2, 3)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def write(folder: Path, *rows: object, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


FLAT = {
    "image": "images/a.png",
    "question": "Who is this?",
    "answer": "Ann",
    "options": ["Ann", "Bea"],
    "subject": "ann",
    "task": "vqa.name",
}


def test_flat_rows_keep_every_field_and_the_line(folder: Path) -> None:
    path = write(folder, FLAT, "", {"question": "Capital of France?", "answer": "Paris"})
    first, second = read_records(path, role="forget")
    assert first == Record(
        image=folder / "images" / "a.png",
        question="Who is this?",
        answer="Ann",
        options=("Ann", "Bea"),
        subject="ann",
        task="vqa.name",
        source=f"{path}:1",
    )
    assert (second.image, second.task, second.source) == (None, "text", f"{path}:3")


def test_a_task_that_is_not_named_follows_from_the_image(folder: Path) -> None:
    path = write(folder, {"image": "images/a.png"}, {"question": "q"})
    assert [r.task for r in read_records(path, role="retain")] == ["vqa", "text"]


def test_a_json_list_and_json_lines_say_the_same(folder: Path) -> None:
    lines = read_records(write(folder, FLAT, FLAT), role="forget")
    listed = write(folder, json.dumps([FLAT, FLAT], indent=1), name="list.json")
    assert [r.model_dump(exclude={"source"}) for r in read_records(listed, role="forget")] == [
        r.model_dump(exclude={"source"}) for r in lines
    ]
    second_object = listed.read_text().split("\n").index(" {", 3) + 1
    assert read_records(listed, role="forget")[1].source == f"{listed}:{second_object}"


def test_an_utf8_byte_order_mark_and_unicode_line_separators_are_harmless(folder: Path) -> None:
    path = folder / "set.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"question": "a\u2028b"}, ensure_ascii=False).encode() + b"\r\n")
    assert read_records(path, role="text")[0].question == "a\u2028b"


def test_llava_conversations_become_one_record_per_turn(folder: Path) -> None:
    row = {
        "id": 7,
        "image": "images/a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWho is this?"},
            {"from": "gpt", "value": "Ann"},
            {"from": "human", "value": "Where does she live?"},
            {"from": "gpt", "value": "Oslo"},
        ],
    }
    records = read_records(write(folder, json.dumps([row]), name="llava.json"), role="forget")
    assert [(r.question, r.answer) for r in records] == [("Who is this?", "Ann"), ("Where does she live?", "Oslo")]
    assert {r.image for r in records} == {folder / "images" / "a.png"}


@pytest.mark.parametrize("key", ["path", "image", "url"])
def test_chat_messages(folder: Path, key: str) -> None:
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "image", key: "images/b.png"}, {"type": "text", "text": "Who?"}]},
            {"role": "assistant", "content": "Bea"},
            {"role": "user", "content": "Again?"},
            {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
        ],
        "subject": "bea",
    }
    records = read_records(write(folder, row), role="forget")
    assert [(r.question, r.answer, r.subject, r.image) for r in records] == [
        ("Who?", "Bea", "bea", folder / "images" / "b.png"),
        ("Again?", "Yes", "bea", folder / "images" / "b.png"),
    ]


def test_a_flat_folder_is_one_subject_and_sub_folders_are_subjects(folder: Path) -> None:
    assert [(r.image, r.subject) for r in read_records(folder / "images", role="forget")] == [
        (folder / "images" / "a.png", None),
        (folder / "images" / "b.png", None),
    ]
    (folder / "images" / "note.txt").write_text("no image")
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / "images" / "a.png").rename(folder / "more" / "deep" / "A.PNG")
    assert [r.subject for r in read_records(folder, role="forget")] == ["images", "more"]


def test_a_folder_that_says_who_for_some_only_is_refused(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / "loose.png")
    with pytest.raises(UserError, match=r"loose\.png.*sub-folders"):
        read_records(folder, role="forget")


BAD_ROWS = {
    "broken json": ('{"image": ', "broken JSON"),
    "two values": ("{} {}", "more than one JSON value"),
    "not an object": ("[1]", "must be a JSON object"),
    "NaN": ('{"question": NaN}', "NaN is not JSON"),
    "key twice": ('{"question": "a", "question": "b"}', "'question' stands there twice"),
    "half a pair": ('{"question": "\\ud800"}', "surrogate"),
    "wrong type": ({"question": 3}, "question"),
    "options no list": ({"question": "q", "answer": "a", "options": "ab"}, "options"),
    "unknown key": ({**FLAT, "anwser": "x"}, "did you mean 'answer'"),
    "known keys": ({"foo": 1}, "image, audio, question, answer, options, subject, task"),
    "nothing": ({"subject": "ann"}, "needs an image, a clip or a question"),
    "missing image": ({"image": "images/zz.png"}, "does not exist"),
    "image is folder": ({"image": "images"}, "does not exist"),
    "blank image": ({"image": ""}, "no name"),
    "nul": ({"image": "a\0b"}, "does not exist"),
    "long": ({"image": "x" * 5000}, "does not exist"),
    "url": ({"image": "https://example.org/a.png"}, "ever downloaded"),
    "data url": ({"image": "data:image/png;base64,AAAA"}, "lies in the record itself"),
    "answer not offered": ({**FLAT, "answer": "Cid"}, "not among the options"),
    "option twice": ({**FLAT, "options": ["Ann", "Ann"]}, "stands there twice"),
    "one option": ({**FLAT, "options": ["Ann"]}, "no choice"),
    "options alone": ({"question": "q", "options": ["a", "b"]}, "answer"),
    "answer alone": ({"image": "images/a.png", "answer": "x"}, "no question"),
    "blank question": ({"question": " "}, "blank"),
    "task": ({"question": "q", "task": "vqa..name"}, "dotted name"),
    "mixed": ({"conversations": []}, "formats are mixed"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_errors_name_file_and_line(folder: Path, case: str) -> None:
    row, message = BAD_ROWS[case]
    path = write(folder, FLAT, row)
    with pytest.raises(UserError) as caught:
        read_records(path, role="forget")
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


BAD_CONVERSATIONS = [
    {"conversations": [{"from": "human", "value": "q"}]},
    {"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}]},
    {"conversations": [{"from": "system", "value": "a"}]},
    {"conversations": []},
    {"conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]},
    {"conversations": [{"from": "robot", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "user", "content": [{"type": "video", "path": "v"}]}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image", "path": "images/a.png"}] * 2},
            {"role": "assistant", "content": "a"},
        ]
    },
    {"messages": "hello"},
]


@pytest.mark.parametrize("row", BAD_CONVERSATIONS)
def test_broken_conversations_are_refused(folder: Path, row: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"set\.jsonl:1: "):
        read_records(write(folder, row), role="forget")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\n", "empty"),
        (b"[]", "empty list"),
        (b'[{"question": "q"}', "breaks off"),
        (b'[{"question": "q"}]x', "after the JSON list"),
        (b'{"question": "q"}\n{"question": "\xff"}', "set.jsonl:2: byte"),
        ('{"question": "q"}'.encode("utf-16"), "UTF-16"),
        (b"PAR1....", "parquet"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_files_are_refused(folder: Path, content: bytes, message: str) -> None:
    path = folder / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"set\.jsonl") as caught:
        read_records(path, role="retain")
    assert message in str(caught.value)


def test_what_does_not_exist_and_what_holds_no_images(folder: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder for the forget set"):
        read_records(folder / "nope", role="forget")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        read_records(folder / "empty", role="forget")


def test_requirements_name_the_first_record_that_misses_them(folder: Path) -> None:
    records = read_records(write(folder, FLAT, {"question": "q"}), role="retain")
    with pytest.raises(UserError, match=r":2: a record of the retain set has no answer"):
        require_answers(records, role="retain")
    require_answers(records[:1], role="retain")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["image", "question", "answer", "options", "subject", "task", "conversations", "messages", "id"]
ROWS = st.dictionaries(
    st.sampled_from(KEYS),
    JSON
    | st.sampled_from(["images/a.png", "Ann", ["Ann", "Bea"], "vqa.name"])
    | st.lists(st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": st.text(max_size=4)}))
    | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": JSON})),
    max_size=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=3), listed=st.booleans())
def test_any_json_gives_records_or_a_user_error(folder: Path, rows: list[dict[str, object]], listed: bool) -> None:
    path = folder / "any.json"
    path.write_text(json.dumps(rows) if listed else "\n".join(json.dumps(row) for row in rows))
    try:
        records = read_records(path, role="forget")
    except UserError:
        return
    assert records
    assert all(record.image or record.question for record in records)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64) | st.text(alphabet='[]{}",: \\u\n0', max_size=40).map(str.encode))
def test_any_bytes_give_records_or_a_user_error(folder: Path, content: bytes) -> None:
    path = folder / "any.json"
    path.write_bytes(content)
    try:
        told = read_records(path, role="forget")[0].source
    except UserError as error:
        told = str(error)
    assert str(path) in told
