"""Writing: a patched copy appears whole and verified, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.conftest import files_of, leftovers
from vkdsurgeon.checkpoint import output, stage
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.output import check_output, output_claimed
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files import copy as files


def some_change(inventory: Inventory) -> dict[str, torch.Tensor]:
    """One element of the first matrix, other than it was."""
    name = next(name for name, entry in inventory.tensors.items() if len(entry.shape) == 2)
    value = read_tensor(inventory, name)
    value.view(-1)[5] += 1
    return {name: value}


def test_reports_what_changed(sharded: Path, tmp_path: Path) -> None:
    inventory = take_inventory(sharded)
    changes = some_change(inventory)
    (name,) = changes
    unchanged = next(n for n in inventory.tensors if n != name)
    report = write_patched(inventory, {**changes, unchanged: read_tensor(inventory, unchanged)}, tmp_path / "out")
    assert (report.tensors_changed, report.elements_changed, report.bytes_changed) == (1, 1, 2)
    assert report.by_tensor == {name: 1}
    assert report.shards_changed == (inventory.tensors[name].file,)
    assert report.files == len(inventory.files)
    assert torch.equal(read_tensor(take_inventory(tmp_path / "out"), name), changes[name])
    assert leftovers(tmp_path) == ["out"]


def test_untouched_shards_are_linked_on_request(shards: Path, tmp_path: Path) -> None:
    inventory = take_inventory(shards)
    before = {file.path: (shards / file.path).stat() for file in inventory.files}
    plain = write_patched(inventory, some_change(inventory), tmp_path / "plain")
    report = write_patched(inventory, some_change(inventory), tmp_path / "out", link_untouched=True)
    assert plain.shards_linked == ()
    assert set(report.shards_linked) == set(inventory.shards) - set(report.shards_changed) != set()
    assert report.weights_digest == plain.weights_digest
    for file in inventory.files:
        ours, source = tmp_path / "out" / file.path, shards / file.path
        assert ours.samefile(source) == (file.path in report.shards_linked)
        assert ours.read_bytes() == (tmp_path / "plain" / file.path).read_bytes()
        now = source.stat()
        assert (now.st_mode, now.st_mtime_ns) == (before[file.path].st_mode, before[file.path].st_mtime_ns)


def test_where_links_cannot_be_made_shards_are_copied(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", across)
    inventory = take_inventory(shards)
    report = write_patched(inventory, some_change(inventory), tmp_path / "out", link_untouched=True)
    assert report.shards_linked == ()
    for shard in inventory.shards:
        assert not (tmp_path / "out" / shard).samefile(shards / shard)


def test_room_is_asked_for_what_is_copied_alone(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = take_inventory(shards)
    largest = max(file.size for file in inventory.files)
    room = namedtuple("room", "free")(output.SLACK_BYTES + inventory.size - largest)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda place: room)
    with pytest.raises(UserError, match="not enough room"):
        check_output(inventory, tmp_path / "out")
    check_output(inventory, tmp_path / "out", linked=inventory.shards)


def test_keeps_modes_directories_and_every_other_byte(single: Path, tmp_path: Path) -> None:
    (single / "empty").mkdir()
    (single / "assets").mkdir()
    (single / "assets" / "run.sh").write_text("#!/bin/sh\n")
    (single / "assets" / "run.sh").chmod(0o750)
    (single / "config.json").chmod(0o440)
    (single / "model.safetensors").chmod(0o444)
    (single / "assets").chmod(0o555)
    single.chmod(0o750)
    try:
        inventory = take_inventory(single)
        write_patched(inventory, some_change(inventory), tmp_path / "out", extra_files={"proof/x.json": b"{}"})
        out = tmp_path / "out"
        assert stat.S_IMODE(out.stat().st_mode) == 0o750
        for path in single.rglob("*"):
            copy = out / path.relative_to(single)
            assert stat.S_IMODE(copy.stat().st_mode) == stat.S_IMODE(path.stat().st_mode)
            assert copy.is_dir() == path.is_dir()
        before, after = files_of(single), files_of(out)
        assert after.pop("proof/x.json") == b"{}"
        assert {path for path in before if before[path] != after[path]} == {"model.safetensors"}
    finally:
        (single / "assets").chmod(0o755)
        if (tmp_path / "out").exists():
            (tmp_path / "out" / "assets").chmod(0o755)


def test_links_become_files_of_their_own(single: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in single.iterdir():
        (snapshot / path.name).symlink_to(path)
    before = files_of(single)
    inventory = take_inventory(snapshot)
    write_patched(inventory, some_change(inventory), tmp_path / "out")
    assert files_of(single) == before
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_an_empty_output_directory_is_taken(single: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_patched(take_inventory(single), {}, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(single)


def test_a_link_to_an_empty_directory_is_taken_for_it(single: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    check_output(take_inventory(single), tmp_path / "out")
    write_patched(take_inventory(single), {}, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert files_of(tmp_path / "real") == files_of(single)


def a_link_to_nowhere(root: Path, folder: Path) -> Path:
    (folder / "out").symlink_to("nowhere")
    return folder / "out"


def occupied(root: Path, folder: Path) -> Path:
    (folder / "out").mkdir()
    (folder / "out" / "x").write_text("")
    return folder / "out"


def a_file(root: Path, folder: Path) -> Path:
    (folder / "out").write_text("")
    return folder / "out"


OUTPUTS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "occupied": (occupied, "not empty"),
    "file": (a_file, "is no directory"),
    "link to nowhere": (a_link_to_nowhere, "leads nowhere"),
    "model": (lambda root, folder: root, "not empty"),
    "inside": (lambda root, folder: root / "out", "inside the model"),
    "roundabout": (lambda root, folder: folder / "x" / ".." / root.name / "out", "inside the model"),
    "below a file": (lambda root, folder: a_file(root, folder) / "no" / "out", "in the place of the output's parent"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_refuses_outputs(single: Path, tmp_path: Path, case: str) -> None:
    place, message = OUTPUTS[case]
    out = place(single, tmp_path)
    inventory, before = take_inventory(single), leftovers(tmp_path)
    with pytest.raises(UserError, match=message):
        check_output(inventory, out)
    with pytest.raises(UserError, match=message):
        write_patched(inventory, {}, out)
    assert leftovers(tmp_path) == before
    assert take_inventory(single) == inventory


def test_directories_above_the_output_are_made(single: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "out"
    inventory = take_inventory(single)
    check_output(inventory, out)
    assert not (tmp_path / "a").exists(), "looking makes nothing"
    with pytest.raises(KeyboardInterrupt), output_claimed(inventory, out):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists(), "a failed run leaves nothing"
    with output_claimed(inventory, out):
        write_patched(inventory, {}, out)
    assert out.is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_refuses_a_parent_that_is_read_only(single: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(UserError, match="no permission"):
        check_output(take_inventory(single), tmp_path / "locked" / "out")


def test_a_parent_that_refuses_is_named(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    inventory = take_inventory(single)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written.*Read-only file system"):
        write_patched(inventory, {}, tmp_path / "out")


def test_refuses_too_little_room_before_any_work(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = take_inventory(single)
    usage = namedtuple("usage", "total used free")(10**9, 10**9, inventory.size)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="not enough room") as caught:
        write_patched(inventory, {}, tmp_path / "out")
    assert str(inventory.size) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "config.json/x"])
def test_refuses_added_files_that_collide(single: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="already holds"):
        write_patched(take_inventory(single), {}, tmp_path / "out", extra_files={name: b""})


@pytest.mark.parametrize("name", ["../x", "/x", ""])
def test_added_files_stay_inside(single: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        write_patched(take_inventory(single), {}, tmp_path / "out", extra_files={name: b""})


def test_refuses_wrong_changes(single: Path, tmp_path: Path) -> None:
    inventory = take_inventory(single)
    ((name, value),) = some_change(inventory).items()
    for changes in ({name: value.half()}, {name: value[1:]}, {"nobody": value}):
        with pytest.raises(ValueError, match=r"on disk|no tensor"):
            write_patched(inventory, changes, tmp_path / "out")
    with pytest.raises(SurgeryError, match="NaN"):
        write_patched(inventory, {name: value.fill_(float("nan"))}, tmp_path / "out")
    assert leftovers(tmp_path) == ["llava"]


@contextmanager
def failing_after(monkeypatch: pytest.MonkeyPatch, module: object, name: str, error: BaseException, calls: int = 1
                  ) -> Iterator[None]:  # fmt: skip
    """Let a function work `calls` times and fail from then on."""
    honest, seen = getattr(module, name), 0

    def fail(*arguments: object, **options: object) -> object:
        nonlocal seen
        seen += 1
        if seen > calls:
            raise error
        return honest(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        yield


@pytest.mark.parametrize(
    ("module", "function", "calls"),
    [(stage, "copy_bytes", 2), (stage, "write_at", 0), (stage, "sync", 3), (stage, "same_range", 1), (os, "rename", 0)],
)
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), SurgeryError, "disk is full"),
        (OSError(errno.EIO, "Input/output error"), SurgeryError, "writing failed"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_failures_leave_nothing(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, function: str, calls: int,
    error: BaseException, raised: type[BaseException], message: str | None,
) -> None:  # fmt: skip
    inventory = take_inventory(single)
    before = files_of(single)
    with failing_after(monkeypatch, module, function, error, calls), pytest.raises(raised, match=message):
        write_patched(inventory, some_change(inventory), tmp_path / "out")
    assert leftovers(tmp_path) == ["llava"]
    assert files_of(single) == before


def test_damage_is_found_before_the_output_appears(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = take_inventory(shards)
    changes = some_change(inventory)
    settle = stage._settle

    def flip(where: Path, offset: int) -> None:
        with where.open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)
            stream.seek(offset)
            stream.write(bytes([byte[0] ^ 1]))

    entry = inventory.tensors[next(iter(changes))]
    stranger = next(e for e in inventory.tensors.values() if e.file != entry.file)
    for file, offset in (
        ("config.json", 3), (entry.file, entry.begin), (stranger.file, stranger.begin), (stranger.file, 0)
    ):  # fmt: skip

        def damage(
            ours: Inventory, staging: Path, shared: tuple[str, ...], file: str = file, offset: int = offset
        ) -> None:
            flip(staging / file, offset)
            settle(ours, staging, shared)

        monkeypatch.setattr(stage, "_settle", damage)
        with pytest.raises(SurgeryError, match=r"differs|damaged|does not hold"):
            write_patched(inventory, changes, tmp_path / "out")
        assert leftovers(tmp_path) == ["sharded"]


def test_an_original_that_changed_meanwhile_is_noticed(single: Path, tmp_path: Path) -> None:
    inventory = take_inventory(single)
    with (single / "config.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(SurgeryError, match="changed while"):
        write_patched(inventory, {}, tmp_path / "out")
    assert leftovers(tmp_path) == ["llava"]


@pytest.mark.parametrize("missing", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_copies_without_the_kernels_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str]) -> None:
    content = os.urandom(3 * 1024 + 7)
    (tmp_path / "a").write_bytes(content)
    monkeypatch.setattr(files, "CHUNK", 1000)

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    files.copy_bytes(tmp_path / "a", tmp_path / "b", len(content))
    assert (tmp_path / "b").read_bytes() == content
    with pytest.raises(OSError, match="became shorter"):
        files.copy_bytes(tmp_path / "a", tmp_path / "c", len(content) + 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data())
def test_any_selection_is_written_exactly(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(stage, "CHUNK", 256)
    monkeypatch.setattr(stage, "BLOCK", 64)
    inventory = take_inventory(single)
    changes = {}
    for name in data.draw(st.lists(st.sampled_from(sorted(inventory.tensors)), max_size=4, unique=True)):
        value = read_tensor(inventory, name)
        where = data.draw(st.lists(st.integers(0, value.numel() - 1), max_size=20, unique=True))
        value.view(-1)[where] += 1
        changes[name] = (value, len(where))
    out = tmp_path / "out"
    try:
        report = write_patched(inventory, {name: value for name, (value, _) in changes.items()}, out)
        assert report.by_tensor == {name: count for name, (_, count) in changes.items() if count}
        copy = take_inventory(out)
        for name in inventory.tensors:
            value = changes[name][0] if name in changes else read_tensor(inventory, name)
            assert torch.equal(read_tensor(copy, name), value)
    finally:
        shutil.rmtree(out, ignore_errors=True)
