"""Whatever is wrong with a benchmark's files: which file, row and column, and nothing else happens."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from vkdsurgeon_cli.main import run

from tests.data.suites.layouts import MLLMU, write_config
from vkdsurgeon.data.suites.read import evaluation_sets, unlearning_sets
from vkdsurgeon.data.suites.split import SuiteSplit
from vkdsurgeon.errors import UserError

SHARD = "train-00000-of-00001.parquet"


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], None], **types: pa.DataType) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    schema = pa.schema([(field.name, types.get(field.name, field.type)) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def forget(root: Path) -> Path:
    return root / "forget_5" / SHARD


def _no_column(root: Path) -> None:
    pq.write_table(pq.read_table(forget(root)).drop_columns(["Mask_Task"]), forget(root))


def _other_type(root: Path) -> None:
    rewrite(forget(root), lambda rows: [row.update(ID=7) for row in rows], ID=pa.int64())  # type: ignore[func-returns-value]


def _image_is_a_path(root: Path) -> None:
    rewrite(forget(root), lambda rows: [row.update(image="a.png") for row in rows], image=pa.string())  # type: ignore[func-returns-value]


def _no_shard(root: Path) -> None:
    (root / "Test_Set" / "train-00001-of-00003.parquet").unlink()


def _mixed_shards(root: Path) -> None:
    shutil.copy(forget(root), root / "Test_Set" / "train-00001-of-00002.parquet")


def _no_config(root: Path) -> None:
    shutil.rmtree(root / "retain_95")


def _no_files(root: Path) -> None:
    forget(root).rename(root / "forget_5" / "data.parquet")


def _pointer(root: Path) -> None:
    forget(root).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def _truncated(root: Path) -> None:
    forget(root).write_bytes(forget(root).read_bytes()[:-40])


def _hole(root: Path) -> None:
    content = bytearray(forget(root).read_bytes())
    content[200:2000] = bytes(1800)
    forget(root).write_bytes(content)


def _broken_json(root: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["Mask_Task"] = json.dumps(row["Mask_Task"])
        rows[2]["Mask_Task"] = rows[2]["Mask_Task"][:-3]

    rewrite(forget(root), change, Mask_Task=pa.string())


def _other_json(root: Path) -> None:
    rewrite(
        forget(root),
        lambda rows: [row.update(Mask_Task='[{"Type": "Spoken"}]') for row in rows],  # type: ignore[func-returns-value]
        Mask_Task=pa.string(),
    )


def _image(content: bytes | None) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        rewrite(forget(root), lambda rows: rows[1]["image"].update(bytes=content))

    return change


def _bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    return buffer.getvalue()


def _half_an_image() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    return buffer.getvalue()[:600]


def _no_id(root: Path) -> None:
    rewrite(forget(root), lambda rows: rows[3].update(ID=None))


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (_no_column, SHARD, "the column 'Mask_Task' is missing"),
        (_other_type, SHARD, "the column 'ID' has another type"),
        (_image_is_a_path, SHARD, "expected: struct<bytes: binary, path: string>"),
        (_no_shard, "Test_Set", "00001 is not here"),
        (_mixed_shards, "Test_Set", "several uploads are mixed"),
        (_no_config, "", "no configuration 'retain_95'"),
        (_no_files, "forget_5", "no shards here"),
        (_pointer, SHARD, "git lfs pull"),
        (_truncated, SHARD, "cannot be read"),
        (_hole, SHARD, "error"),
        (_broken_json, "row 2, column 'Mask_Task'", "broken JSON"),
        (_other_json, "row 0, column 'Mask_Task'", "0.Type"),
        (_image(None), "row 1, column 'image'", "there is no image"),
        (_image(b"GIF89a"), "row 1, column 'image'", "cannot be decoded"),
        (_image(_half_an_image()), "row 1, column 'image'", "cannot be decoded"),
        (_image(_bomb()), "row 1, column 'image'", "at most 64000000 pixels"),
        (_no_id, "row 3, column 'ID'", "the cell is blank"),
    ],
)
def test_status_two_before_any_model_is_loaded(
    change: Callable[[Path], None],
    place: str,
    message: str,
    mllmu: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "suite", tmp_path / "result.json"
    shutil.copytree(mllmu, root)
    change(root)
    words = ["--suite", "mllmu", "--suite-root", str(root), "--split", "forget_5", "-o", str(out)]
    assert run(["eval", "/no/such/model", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert place in printed.err
    assert str(root) in printed.err
    assert "/no/such/model" not in printed.err
    assert printed.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "mllmu", "--split", "forget_5"], "needs --suite-root"),
        (["--suite", "clear", "--suite-root", "."], "expected: --suite-root DIR --split forget05"),
        (["--suite", "clear", "--suite-root", ".", "--split", "forget_5"], "not a split of this benchmark"),
        (
            ["--suite", "mllmu", "--suite-root", ".", "--split", "forget_5", "--forget", "x"],
            "already provides this set",
        ),
        (["--split", "forget_5"], "this option needs a benchmark"),
    ],
)
@pytest.mark.parametrize("command", ["eval", "unlearn"])
def test_options_that_do_not_go_together(
    command: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["-o", "/no/such/place"] if command == "unlearn" else []
    assert run([command, "/no/such/model", *words, *more]) == 2
    assert message in capsys.readouterr().err


def test_demonstrations_need_a_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "/no/such/model", "--few-shot"]) == 2
    assert "few-shot examples need a benchmark" in capsys.readouterr().err


def refusal(call: Callable[[], object]) -> str | None:
    """What the user is told; anything but a `UserError` is a failure of ours."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def raw(mllmu: Path) -> bytes:
    return forget(mllmu).read_bytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_the_bytes_ends_otherwise_than_by_a_user_error(
    raw: bytes, mllmu: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly the footer, which holds the schema and where everything lies.
        place = data.draw(st.integers(max(0, len(raw) - 4000), len(raw) - 1) | st.integers(0, len(raw) - 1))
        content[place] = data.draw(st.integers(0, 255))
    root, images = tmp_path / "suite", tmp_path / "images"
    for folder in (root / "forget_5", images):
        folder.mkdir(parents=True, exist_ok=True)
    if not (root / "retain_95").exists():
        shutil.copytree(mllmu / "retain_95", root / "retain_95")
    forget(root).write_bytes(content)
    told = refusal(lambda: unlearning_sets(SuiteSplit("mllmu", root, "forget_5"), images))
    assert told is None or str(root) in told


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["Type", "Question", "Ground_Truth"]), inner),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cell=st.text() | json_values.map(json.dumps))
def test_any_text_in_a_nested_cell_is_questions_or_a_user_error(cell: str, mllmu: Path, tmp_path: Path) -> None:
    root, images = tmp_path / "suite", tmp_path / "images"
    if not root.exists():
        shutil.copytree(mllmu, root)
        images.mkdir()
        shutil.rmtree(root / "forget_5")
        row = pq.read_table(forget(mllmu)).to_pylist()[0]
        write_config(root, "forget_5", {**MLLMU, "Mask_Task": pa.string()}, [{**row, "Mask_Task": "[]"}])
    try:
        cell.encode()
    except UnicodeEncodeError:
        return
    rewrite(forget(root), lambda rows: rows[0].update(Mask_Task=cell))
    split, asked = SuiteSplit("mllmu", root, "forget_5"), []

    def read() -> None:
        sets, _ = evaluation_sets(split, images, seed=0, few_shot=False, warn=lambda text: None)
        asked.extend(sets[0].records)

    told = refusal(read)
    assert told is None or "row 0, column 'Mask_Task'" in told
    assert all(record.question and record.answer for record in asked)
