"""In place: a kill at any moment is mended by the same command, and nobody takes the half for a whole meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.conftest import files_of
from tests.families import build_checkpoint
from tests.patch.conftest import Case
from vkdsurgeon.checkpoint.inventory import IN_PLACE_JOURNAL, take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.patch import in_place
from vkdsurgeon.patch.export import export_patch
from vkdsurgeon.patch.in_place import apply_in_place
from vkdsurgeon.patch.read import open_patch
from vkdsurgeon.patch.state import verify_patches

# Dies like under SIGKILL at the N-th call that changes something on the disk.
DIES = """
import os, sys
from pathlib import Path
from vkdsurgeon.patch import in_place
left = int(sys.argv[1])
def dying(honest, torn=None):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            if torn is not None:
                torn(*arguments)
            os.kill(os.getpid(), 9)
        return honest(*arguments, **options)
    return call
def half(descriptor, data, offset):
    os.pwrite(descriptor, bytes(data)[: len(data) // 2], offset)
in_place.write_at = dying(in_place.write_at, half)
os.replace = dying(os.replace)
os.fsync = dying(os.fsync)
Path.unlink = dying(Path.unlink)
for count, model in enumerate(sys.argv[3].split(":")):
    if os.fork() == 0:
        left = int(sys.argv[1]) + count
        in_place.apply_in_place(Path(model), [Path(each) for each in sys.argv[2].split(":")])
        os._exit(0)
for _ in sys.argv[3].split(":"):
    print(os.wait()[1], flush=True)
"""


def test_it_is_bit_identical(case: Case, copy: Path) -> None:
    result = apply_in_place(copy, [case.patch, case.second])
    assert files_of(copy) == files_of(case.again)
    assert result.state == "result"
    again = apply_in_place(copy, [case.patch, case.second])
    assert "nothing to do" in again.warnings[0]


def test_a_kill_at_any_moment_is_mended_by_the_same_call(tmp_path: Path) -> None:
    """One process dies at each call that writes, syncs, renames or removes, in the middle of what it writes."""
    base, patched, fix = tmp_path / "base", tmp_path / "patched", tmp_path / "fix.safetensors"
    build_checkpoint("llava", base, dtype=torch.bfloat16, shards=2)
    (base / "old.bin").write_bytes(b"x" * 10)
    inventory = take_inventory(base)
    # Few tensors, so that every moment can be tried: one of each shard at least.
    names = [next(name for name, entry in inventory.tensors.items() if entry.file == file) for file in inventory.shards]
    changes = {name: read_tensor(inventory, name) + 1 for name in names}
    write_patched(inventory, changes, patched, extra_files={"vkdsurgeon.json": b"{}", "assets/card.md": b"# Card"})
    (patched / "old.bin").unlink()
    export_patch(base, patched, fix)
    wanted, before = files_of(patched), files_of(base)
    models = [Path(shutil.copytree(base, tmp_path / f"m{count}")) for count in range(24)]
    command = [sys.executable, "-c", DIES, "0", str(fix), ":".join(map(str, models))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    statuses = [int(line) for line in done.stdout.split()]
    assert statuses.count(signal.SIGKILL) >= 15, done.stderr
    assert 0 in statuses, "the last ones come through"
    begun = 0
    for model in models:
        there = files_of(model)
        if (model / IN_PLACE_JOURNAL).exists():
            begun += 1
            with pytest.raises(UserError, match="was interrupted here"):
                take_inventory(model)
        else:
            there.pop(f".{IN_PLACE_JOURNAL}.vkdsurgeon-part", None)
            assert there in (before, wanted), "without a journal nothing was touched, or all of it"
        apply_in_place(model, [fix])
        assert files_of(model) == wanted
    assert begun >= 10


def test_what_was_begun_is_finished_with_the_same_patches_alone(
    case: Case, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(in_place, "write_at", full)
        with pytest.raises(SurgeryError, match="run the same command again"):
            apply_in_place(copy, [case.patch])
    assert verify_patches(copy, [case.patch]).state == "begun"
    with pytest.raises(UserError, match="these are not its patches"):
        apply_in_place(copy, [case.patch, case.second])
    result = apply_in_place(copy, [case.patch])
    assert "finished" in result.warnings[0]
    assert files_of(copy) == files_of(case.patched)


@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_shared_files_are_not_written_to(case: Case, copy: Path, tmp_path: Path, kind: str) -> None:
    shard = copy / next(iter(open_patch(case.patch).facts.tensors.values())).file
    other = tmp_path / "shared"
    os.rename(shard, other)
    if kind == "symlink":
        shard.symlink_to(other)
    else:
        os.link(other, shard)
    before = files_of(copy)
    with pytest.raises(UserError, match="shared with another directory"):
        apply_in_place(copy, [case.patch])
    assert files_of(copy) == before
