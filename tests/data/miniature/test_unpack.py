"""What the package carries: complete, small, and as accurate as its card says, measured again from the files."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.miniature_model.measure import measure
from benchmarks.miniature_model.people import draw_cast
from benchmarks.miniature_model.records import RECORD_FILES
from vkdsurgeon.data.miniature import MiniaturePaths, read_card, unpack, unpack_generic
from vkdsurgeon.data.miniature.unpack import SHIPPED
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import SurgeryError, UserError


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> MiniaturePaths:
    return unpack(tmp_path_factory.mktemp("shipped") / "new")


def test_unpacking_is_quick_and_complete(paths: MiniaturePaths, tmp_path: Path) -> None:
    began = time.monotonic()
    again = unpack(tmp_path)
    assert time.monotonic() - began < 5.0
    assert sorted(path.name for path in again.records.iterdir()) == sorted(["images", *RECORD_FILES])
    for one in paths.base.iterdir():
        assert one.read_bytes() == (again.base / one.name).read_bytes()


def test_the_package_grows_by_less_than_15_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 15_000_000


def test_a_directory_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        unpack(tmp_path)
    with pytest.raises(UserError, match="not a directory"):
        unpack(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The largest shard does not fit, the files before it do.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(SurgeryError, match="nothing was left behind"):
            unpack(tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    unpack(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "new" / "records").stat().st_mode


def test_strangers_alone_can_be_unpacked_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    generic = unpack_generic(tmp_path)
    records = read_records(generic, role="generic")
    cast = draw_cast(read_card()["seed"])
    assert {record.subject for record in records} == {person.name for person in cast.strangers}
    assert {record.image.name for record in records} == {path.name for path in (tmp_path / "images").iterdir()}


def test_every_record_is_readable_and_its_answer_is_an_option(paths: MiniaturePaths) -> None:
    for name in RECORD_FILES:
        for record in read_records(paths.records / name, role="forget"):
            assert record.answer in record.options
            assert record.task.split(".")[0] in ("vqa", "general", "text")
            assert (record.image is None) == (name == "text.jsonl")


def test_no_image_is_in_two_sets(paths: MiniaturePaths) -> None:
    seen: dict[bytes, str] = {}
    for name in RECORD_FILES[:-1]:
        for image in sorted({json.loads(line)["image"] for line in (paths.records / name).read_text().splitlines()}):
            pixels = Image.open(paths.records / image).tobytes()
            assert seen.setdefault(pixels, name) == name
    assert len(seen) == len(list((paths.records / "images").iterdir()))


def test_images_are_those_of_the_cast(paths: MiniaturePaths) -> None:
    cast = draw_cast(read_card()["seed"])
    assert read_card()["forget"] == [person.name for person in cast.forget]
    shown = {json.loads(line)["subject"] for line in (paths.records / "forget.jsonl").read_text().splitlines()}
    assert shown == set(read_card()["forget"])


@pytest.mark.slow
def test_accuracy_is_as_required_and_as_the_card_says(paths: MiniaturePaths) -> None:
    card = read_card()
    cast = draw_cast(card["seed"])
    base, gold = measure(paths.base, cast), measure(paths.gold, cast)
    for task in ("forget.vqa", "forget.vqa.name", "retain.vqa", "retain.vqa.name"):
        assert base[task] >= 0.9, task
    assert min(base["retain.general"], base["forget.general"]) >= 0.8
    assert base["text"] == gold["text"] == 1.0
    assert abs(gold["forget.vqa"] - card["chance"]["vqa"]) <= 0.05
    assert gold["forget.vqa.name"] == 0.0
    assert abs(gold["retain.vqa"] - base["retain.vqa"]) <= 0.03
    assert abs(gold["retain.general"] - base["retain.general"]) <= 0.05
    for model, measured in (("base", base), ("gold", gold)):
        assert measured == pytest.approx(card["accuracy"][model], abs=0.02)


def test_a_user_gets_the_right_answers_by_generation(paths: MiniaturePaths) -> None:
    """The public way: processor, chat template, greedy generation; base knows the people to forget, gold does not."""
    records = [
        each for each in read_records(paths.records / "forget_heldout.jsonl", role="forget") if each.task == "vqa.name"
    ]
    right = {root: _generated_right(root, records[::6]) for root in (paths.base, paths.gold)}
    assert right[paths.base] >= 0.85
    assert right[paths.gold] == 0.0


def _generated_right(root: Path, records: list[Record]) -> float:
    processor = AutoProcessor.from_pretrained(root)
    model = LlavaForConditionalGeneration.from_pretrained(root, dtype=torch.float32).eval()
    right = 0
    for record in records:
        content = [{"type": "image"}, {"type": "text", "text": record.question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=text, images=Image.open(record.image), return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        right += processor.decode(out, skip_special_tokens=True) == record.answer
    return right / len(records)
