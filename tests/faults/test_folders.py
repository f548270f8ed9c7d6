"""Directories of our own are told by a mark inside them: what only bears such a name is somebody's, and stays."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.checkpoint.conftest import files_of
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.output import output_claimed
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.errors import UserError
from vkdsurgeon.files import directories
from vkdsurgeon.files.directories import claimed, clear_up, scratch, staged

KILLED = """
import os, signal, sys
from pathlib import Path
from vkdsurgeon.files.directories import scratch, staged
def at(event, arguments):
    if event == sys.argv[2] and isinstance(arguments[0], (str, os.PathLike)) and sys.argv[3] in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2:]:
    sys.addaudithook(at)
with (scratch() if sys.argv[1] == "scratch" else staged(Path(sys.argv[1]))) as folder:
    (folder / "secret").write_text("x")
    if not sys.argv[2:]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def _killed(what: str, place: Path, *at: str) -> None:
    """Let a process die in a directory of its own, or at the act on a file that an event and part of a path name."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, what, *at],
        env={**os.environ, "TMPDIR": str(place)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("filled", [True, False])
def test_a_scratch_name_alone_makes_nothing_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: bool) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    theirs = tmp_path / "vkdsurgeon-0123abcd"
    theirs.mkdir()
    theirs.chmod(0o700 if filled else 0o755)
    if filled:
        (theirs / "model.safetensors").write_text("an output of weeks")
    before = files_of(tmp_path)
    with scratch() as folder:
        assert list(folder.iterdir()) == []
    assert files_of(tmp_path) == before
    assert theirs.is_dir()


def test_a_staging_name_alone_makes_nothing_ours(llava: Path, tmp_path: Path) -> None:
    theirs = tmp_path / ".out.staging-0123abcd"
    theirs.mkdir()
    (theirs / "precious").write_text("x")
    write_patched(take_inventory(llava), {}, tmp_path / "out")
    assert (theirs / "precious").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [theirs.name, "out"]


def test_a_copy_of_our_directory_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever rescues what a killed run left may give it any name."""
    _killed("scratch", tmp_path)
    (left,) = tmp_path.iterdir()
    rescued = Path(shutil.copytree(left, tmp_path / "vkdsurgeon-fedcba98"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch():
        pass
    assert [path.name for path in tmp_path.iterdir()] == [rescued.name]


@pytest.mark.parametrize("what", ["scratch", "staged"])
def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "out"
    _killed("scratch" if what == "scratch" else str(out), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with scratch() if what == "scratch" else staged(out):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ([] if what == "scratch" else ["out"])


@pytest.mark.parametrize("at", [("open", "vkdsurgeon-owned"), ("os.rmdir", ".staging-")], ids=["before", "after"])
def test_what_is_left_without_a_mark_is_empty_and_goes(tmp_path: Path, at: tuple[str, str]) -> None:
    """A kill before the mark is written, or after it was removed."""
    out = tmp_path / "out"
    _killed(str(out), tmp_path, *at)
    (left,) = tmp_path.glob(".out.staging-*")
    assert os.listdir(left) == []
    clear_up(out)
    assert not left.exists()


def test_a_directory_that_another_run_takes_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened, taken = os.open, []

    def late(path: Path, *arguments: int, dir_fd: int | None = None) -> int:
        if not taken and Path(path).parent == tmp_path:
            taken.append(path)
            with scratch():
                pass
            assert not Path(path).exists()
        return opened(path, *arguments, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", late)
    with scratch() as folder:
        (folder / "file").touch()
    assert taken
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["o" * 255, "ö" * 127], ids=["ascii", "two bytes each"])
def test_names_as_long_as_the_file_system_allows(llava: Path, tmp_path: Path, name: str) -> None:
    """Staging puts something before and behind the name of the output."""
    out = tmp_path / name
    write_patched(take_inventory(llava), {}, out)
    assert files_of(out) == files_of(llava)
    assert os.listdir(tmp_path) == [name]


def test_a_checkpoint_that_is_read_only_is_staged_and_moved(tmp_path: Path) -> None:
    """Moving a directory to another parent needs the right to write into it, which a copy of such rights lacks."""
    out = tmp_path / "out"
    with staged(out) as folder:
        (folder / "file").touch()
        folder.chmod(0o555)
    assert out.stat().st_mode & 0o777 == 0o555
    assert os.listdir(tmp_path) == ["out"]


def test_an_output_that_is_there_is_told_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems cannot sync a directory."""

    def fail(place: Path) -> None:
        raise OSError(errno.EINVAL, "no sync here")

    monkeypatch.setattr(directories, "sync", fail)
    with staged(tmp_path / "out") as folder:
        (folder / "file").touch()
    assert (tmp_path / "out" / "file").exists()
    assert os.listdir(tmp_path) == ["out"]


CLAIM_AND_DIE = """
import os, signal, sys
from pathlib import Path
from vkdsurgeon.files.directories import claimed
with claimed(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_output_is_one_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "there", target_is_directory=True)
    out, same = tmp_path / "there" / "out", tmp_path / "other" / "out"
    refused = pytest.raises(UserError, match="another run is making this output")
    with claimed(out), claimed(out.with_name("another")), refused, claimed(same):
        pytest.fail("two made one output")
    with claimed(same):
        pass
    assert os.listdir(tmp_path / "there") == []


def test_the_claim_of_a_killed_run_goes_to_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CLAIM_AND_DIE, str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    with claimed(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_living_runs_claim_and_staging_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claimed(out), staged(out):
        before = sorted(tmp_path.rglob("*"))
        clear_up(out)
        assert sorted(tmp_path.rglob("*")) == before
    assert os.listdir(tmp_path) == ["out"]


def test_an_output_that_is_in_the_way_is_cleared_of_what_its_killed_run_left(llava: Path, tmp_path: Path) -> None:
    inventory, out = take_inventory(llava), tmp_path / "out"
    write_patched(inventory, {}, out)
    (tmp_path / ".out.running").mkdir(mode=0o700)
    (tmp_path / ".out.staging-0123abcd").mkdir(mode=0o700)
    with pytest.raises(UserError, match="not empty"), output_claimed(inventory, out):
        pytest.fail("an output was overwritten")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("what", ["file", "full directory", "dangling link", "long name"])
def test_what_only_bears_the_name_of_a_claim_stays(tmp_path: Path, what: str) -> None:
    name = "o" * 255 if what == "long name" else "out"
    theirs = tmp_path / ".out.running"
    if what == "file":
        theirs.write_text("precious")
    elif what == "full directory":
        theirs.mkdir()
        (theirs / "precious").touch()
    elif what == "dangling link":
        theirs.symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with claimed(tmp_path / name):
        pass
    clear_up(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before
