"""Samples of shards: which images are drawn, what is passed over, what is refused, and how much memory it takes."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from vkdsurgeon_cli.main import run

from vkdsurgeon import SurgeryError, UserError, sample_images
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.shards.tar import TarShard
from vkdsurgeon.training.events import Event

Files = Iterable[tuple[str, bytes]]


def png(colour: int) -> bytes:
    """An image whose first pixel tells its number."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour % 256, colour // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def colour_of(path: Path) -> int:
    red, green, _ = Image.open(path).getpixel((0, 0))
    return red + 256 * green


def write_tar(path: Path, files: Files, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_parquet(path: Path, images: Iterable[bytes | None], group: int = 3, **columns: list[object]) -> Path:
    cells = [None if image is None else {"bytes": image, "path": f"{index}.png"} for index, image in enumerate(images)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(cells, kind), **columns})
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path


def drawn(out: Path) -> list[Mapping[str, object]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Twelve images over four shards of three kinds, one of them empty."""
    folder = tmp_path / "shards"
    folder.mkdir()
    return [
        write_tar(folder / "0.tar", [(f"a/{number:03}.png", png(number)) for number in range(5)]),
        write_tar(folder / "1.tar", [("readme.txt", b"no images")]),
        write_parquet(folder / "2.parquet", map(png, range(5, 10))),
        write_tar(folder / "3.tar.gz", [(f"{number}.PNG", png(number)) for number in (10, 11)], "w:gz"),
    ]


@pytest.mark.parametrize("count", [1, 7, 12, 99])
def test_a_sample_is_of_different_images_and_of_as_many_as_there_are(
    shards: list[Path], tmp_path: Path, count: int
) -> None:
    result = sample_images(shards, tmp_path / "out", count=count, seed=3)
    colours = [colour_of(tmp_path / "out" / str(row["image"])) for row in drawn(tmp_path / "out")]
    assert len(set(colours)) == len(colours) == result.images == min(count, 12)
    assert set(colours) <= set(range(12))
    assert (result.available, result.shards, result.broken) == (12, 4, 0)
    assert len(read_records(Path(result.records), role="retain")) == result.images


def test_a_folder_means_its_shards_and_equal_seeds_mean_equal_samples(shards: list[Path], tmp_path: Path) -> None:
    ways = {"files": shards, "folder": shards[0].parent}
    for name, given_ in ways.items():
        sample_images(given_, tmp_path / name, count=6, seed=1)
    sample_images(shards, tmp_path / "other", count=6, seed=2)
    assert drawn(tmp_path / "files") == drawn(tmp_path / "folder") != drawn(tmp_path / "other")


def test_every_image_is_as_likely_as_any_other(shards: list[Path], tmp_path: Path) -> None:
    found: Counter[int] = Counter()
    for seed in range(60):
        sample_images(shards, tmp_path / str(seed), count=4, seed=seed)
        found.update(colour_of(tmp_path / str(seed) / str(row["image"])) for row in drawn(tmp_path / str(seed)))
    # 20 are expected of each; binomial, standard deviation 3.7.
    assert len(found) == 12
    assert all(6 <= count <= 34 for count in found.values())


def test_facts_are_taken_over_from_json_and_from_columns(tmp_path: Path) -> None:
    said = {"subject": "Ada", "question": "Who?", "answer": "Ada", "options": ["Ada", "Eve"], "width": 4}
    tar = write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("0.json", json.dumps(said).encode()), ("1.png", png(1))])
    parquet = write_parquet(tmp_path / "b.parquet", [png(2), png(3)], subject=["Bo", None], caption=["x", "y"])
    sample_images([tar, parquet], tmp_path / "out")
    rows = [{key: value for key, value in row.items() if key != "image"} for row in drawn(tmp_path / "out")]
    assert rows == [{key: value for key, value in said.items() if key != "width"}, {}, {"subject": "Bo"}, {}]
    sample_images([tar, parquet], tmp_path / "bare", images_only=True)
    assert all(set(row) == {"image"} for row in drawn(tmp_path / "bare"))


def test_broken_and_forgotten_images_are_passed_over_and_counted(tmp_path: Path) -> None:
    forget = tmp_path / "forget"
    forget.mkdir()
    (forget / "someone.png").write_bytes(png(1))
    tar = write_tar(tmp_path / "a.tar", [("0.png", b"not an image"), ("1.png", png(1)), ("2.png", png(2))])
    parquet = write_parquet(tmp_path / "b.parquet", [None, b"", png(3)])
    heard: list[str] = []
    result = sample_images(
        [tar, parquet], tmp_path / "out", forget=forget, on_event=lambda event: heard.append(event.kind)
    )
    assert (result.images, result.broken, result.forgotten) == (2, 3, 1)
    assert [colour_of(tmp_path / "out" / str(row["image"])) for row in drawn(tmp_path / "out")] == [2, 3]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    assert heard.count("warning") == 1


@given(
    st.lists(
        st.tuples(
            st.text("ab/.", min_size=1, max_size=6), st.sampled_from([".png", ".json", ".txt", ".JPG", ".seg.png", ""])
        ),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_counting_and_reading_see_the_same_samples(tmp_path_factory: pytest.TempPathFactory, names: object) -> None:
    files = [(name + suffix, b"{}" if suffix == ".json" else b"x") for name, suffix in names]  # type: ignore[attr-defined]
    shard = TarShard(write_tar(tmp_path_factory.mktemp("tar") / "a.tar", files))
    count = shard.count()
    samples = list(shard.read(range(count)))
    assert len(samples) == count
    for number, sample in enumerate(samples):
        assert list(shard.read([number])) == [sample]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tar", b"nothing of the kind", "shard cannot be read"),
        ("a.tar.gz", b"\x1f\x8b\x08rest", "shard cannot be read"),
        ("a.parquet", b"PAR1 not PAR1", "cannot be read"),
        ("a.zip", b"PK\x03\x04", "no shard of images"),
        ("a.tar", None, "no such file"),
    ],
)
def test_what_is_no_shard_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        sample_images(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tar_that_ends_early_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", [(f"{number}.png", bytes(5000)) for number in range(4)])
    for end in (600, 5000, 12_000):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole.read_bytes()[:end])
        with pytest.raises((UserError, SurgeryError)):
            sample_images(cut, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "facts",
    [b'{"answer": "Ada"}', b'{"subject": 7}', b"[1]", b"{", b"", b'{"subject": "\\ud800"}', b'{"options": "x"}'],
)
def test_an_image_whose_facts_make_no_record_is_written_without_them(tmp_path: Path, facts: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("0.json", facts), ("1.png", png(1))])
    heard: list[str] = []
    result = sample_images(tar, tmp_path / "out", on_event=lambda event: heard.append(event.text))
    assert (result.images, result.undescribed) == (2, 1)
    assert all(set(row) == {"image"} for row in drawn(tmp_path / "out"))
    assert any("sample '0'" in text for text in heard)
    assert sample_images(tar, tmp_path / "bare", images_only=True).undescribed == 0


def test_descriptions_that_stand_apart_from_their_images_are_told_of(tmp_path: Path) -> None:
    files = [*((f"{number}.png", png(number)) for number in range(3)), *((f"{n}.json", b"{}") for n in range(3))]
    heard: list[str] = []
    sample_images(
        write_tar(tmp_path / "a.tar", files), tmp_path / "out", on_event=lambda event: heard.append(event.text)
    )
    assert any(text.startswith("3 .json files") for text in heard)


def test_images_of_a_subject_to_be_forgotten_are_passed_over(tmp_path: Path) -> None:
    forget = tmp_path / "forget.jsonl"
    (tmp_path / "ada.png").write_bytes(png(9))
    forget.write_text('{"image": "ada.png", "subject": "Ada"}')
    parquet = write_parquet(tmp_path / "b.parquet", [png(1), png(2), png(9)], subject=["Ada", "Bo", None])
    assert sample_images(parquet, tmp_path / "out", forget=forget).forgotten == 2
    forget.write_text('{"question": "Who?", "answer": "Ada"}')
    with pytest.raises(UserError, match="forget set has no images"):
        sample_images(parquet, tmp_path / "more", forget=forget)


@pytest.mark.parametrize("damage", ["header", "no end", "cut header"])
def test_a_tar_that_is_damaged_behind_its_first_file_is_refused(tmp_path: Path, damage: str) -> None:
    whole = write_tar(tmp_path / "a.tar", [(f"{number}.png", png(number)) for number in range(5)]).read_bytes()
    third = whole.index(b"3.png")
    content = {
        "header": whole[:third] + b"\xff" * 512 + whole[third + 512 :],
        "no end": whole[:third],
        "cut header": whole[: third + 100],
    }[damage]
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        sample_images(tmp_path / "b.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [-5, 10**12, 1 << 22])
def test_headers_that_claim_what_cannot_be_are_refused_in_little_memory(tmp_path: Path, size: int) -> None:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, size
    content = write_tar(tmp_path / "a.tar", [("0.png", png(0))]).read_bytes()
    (tmp_path / "b.tar").write_bytes(content[:1024] + long_name.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    tracemalloc.start()
    with pytest.raises(UserError, match="cannot be read"):
        sample_images(tmp_path / "b.tar", tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_a_shard_that_changes_between_counting_and_reading_is_refused(shards: list[Path], tmp_path: Path) -> None:
    def change(event: Event) -> None:
        if event.facts.get("stage") == "draw images" and event["done"] == 0:
            write_tar(shards[0], [("a/000.png", png(0))])

    with pytest.raises(UserError, match="changed while it was read"):
        sample_images(shards, tmp_path / "out", on_event=change)
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_are_refused_before_anything_is_counted(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for out in (tmp_path / "file" / "out", tmp_path / "loop" / "out", tmp_path / "loop"):
        with pytest.raises(UserError):
            sample_images(shards, out)
    with pytest.raises(UserError):
        sample_images(tmp_path / "none", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UserError, match="no shard"):
        sample_images(tmp_path / "pipe.tar", tmp_path / "out")


def test_a_full_output_is_refused_and_kept(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        sample_images(shards, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_memory_does_not_grow_with_the_shard(tmp_path: Path) -> None:
    peaks = []
    for count in (500, 8000):
        tar = write_tar(tmp_path / f"{count}.tar", ((f"{number}.png", png(0)) for number in range(count)))
        tracemalloc.start()
        TarShard(tar).count()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_the_command_prints_where_the_records_are(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sample", *map(str, shards), "-o", str(tmp_path / "out"), "--count", "5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "vkdsurgeon/sample/1"
    assert document["images"] == 5
    assert Path(document["records"]).is_file()
    assert run(["sample", str(shards[0]), "-o", str(tmp_path / "more")]) == 0
    assert "--retain" in capsys.readouterr().out
    assert run(["sample", str(tmp_path / "none"), "-o", str(tmp_path / "third")]) == 2
