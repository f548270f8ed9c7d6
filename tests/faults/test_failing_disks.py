"""A disk that is full or fails is nobody's wrong input: status 1 wherever it is met, and 2 for a wrong path."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vkdsurgeon.attacks.templates import read_templates
from vkdsurgeon.config.files import load_recipe
from vkdsurgeon.data.images import open_image
from vkdsurgeon.data.paths import media_path
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import file_digest
from vkdsurgeon.decoder_pass.text_set import read_text_retain_set
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.evaluation.cache import AnswerCache
from vkdsurgeon.files.atomic import check_folder
from vkdsurgeon.files.directories import staged
from vkdsurgeon.pipeline.read_result import read_result
from vkdsurgeon.training.resume.files import Folder

# A real file whose bytes cannot be read: the pages at address 0 belong to nobody.
UNREADABLE = Path("/proc/self/mem")
MACHINE = [errno.ENOSPC, errno.EDQUOT, errno.EIO]
USER = [errno.EACCES, errno.EROFS, errno.ENOENT]

READERS: dict[str, Callable[[Path], object]] = {
    "recipe": lambda path: load_recipe(path, {}),
    "templates": read_templates,
    "records": lambda path: read_records(path, role="forget"),
    "text": lambda path: read_text_retain_set(path, 0),
    "digest": lambda path: file_digest(path, "forget.jsonl:1"),
    "image": lambda path: open_image(path, where="forget.jsonl:1"),
    "result": read_result,
}


@pytest.mark.skipif(not UNREADABLE.exists(), reason="no /proc here")
@pytest.mark.parametrize("what", READERS)
def test_a_file_that_the_disk_does_not_give_is_no_wrong_input(what: str) -> None:
    with pytest.raises(SurgeryError, match=r"Input/output error"):
        READERS[what](UNREADABLE)


PLACES: dict[str, Callable[[Path], object]] = {
    "staging": lambda folder: staged(folder / "out").__enter__(),
    "cache": lambda folder: AnswerCache(folder / "cache", print),
    "output": lambda folder: check_folder(folder / "result.json"),
    "image": lambda folder: media_path("a.png", folder, "forget.jsonl:1"),
    "journal": lambda folder: Folder(folder).read(),
}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("number", [*MACHINE, *USER])
def test_a_full_or_failing_disk_is_told_from_a_wrong_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    def fail(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as patched:
        for act in ("mkdir", "lstat", "stat", "read_text"):
            patched.setattr(Path, act, fail)
        expected = SurgeryError if number in MACHINE else UserError
        if number == errno.ENOENT and what == "output":
            # No such file is what an output should be.
            patched.undo()
            expected = UserError
            tmp_path = tmp_path / "nowhere"
        with pytest.raises(expected, match="full|output error" if expected is SurgeryError else None):
            PLACES[what](tmp_path)
