"""A process that is killed while it writes leaves a whole output or none."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoint.conftest import files_of, leftovers
from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.files import directories as folders

SLOW_WRITER = """
import sys, time
from pathlib import Path
from vkdsurgeon.checkpoint import stage
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor

honest, wait_in = getattr(stage, sys.argv[3]), float(sys.argv[4])
def slow(*arguments):
    result = honest(*arguments)
    print("reached", flush=True)
    time.sleep(wait_in)
    return result
setattr(stage, sys.argv[3], slow)
inventory = take_inventory(Path(sys.argv[1]))
name = next(iter(inventory.tensors))
stage.write_patched(inventory, {name: read_tensor(inventory, name) + 1}, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("where", ["copy_bytes", "_patch", "_settle", "_verify"])
def test_a_kill_leaves_no_output(single: Path, tmp_path: Path, where: str) -> None:
    command = [sys.executable, "-c", SLOW_WRITER, str(single), str(tmp_path / "out"), where, "60"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        assert any(name.startswith(".out.staging-") for name in leftovers(tmp_path))
        # Another run for the same output must not take a living writer's directory away.
        folders._remove_abandoned(tmp_path, ".out.staging-")
        assert any(name.startswith(".out.staging-") for name in leftovers(tmp_path))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "out" not in leftovers(tmp_path)
    write_patched(take_inventory(single), {}, tmp_path / "out")
    assert leftovers(tmp_path) == ["llava", "out"]
    assert files_of(tmp_path / "out") == files_of(single)


def test_a_kill_at_any_moment_leaves_a_whole_output_or_none(tmp_path: Path) -> None:
    root = build_checkpoint("llava", tmp_path / "big", shards=2, text={"vocab_size": 120_000, "hidden_size": 128})
    inventory = take_inventory(root)
    assert inventory.size > 100_000_000
    outcomes = set()
    for delay in (0.0, 0.03, 0.1, 0.3):
        command = [sys.executable, "-c", SLOW_WRITER, str(root), str(tmp_path / "out"), "check_output", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        there = (tmp_path / "out").exists()
        outcomes.add(there)
        if there:
            assert take_inventory(tmp_path / "out").tensors == inventory.tensors
            shutil.rmtree(tmp_path / "out")
    assert False in outcomes
