"""Every file of a checkpoint directory, as it was when it was listed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.files.library_errors import machine_or

_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024
# What is read here or by transformers; an image in the documentation may well be a pointer.
_TEXTS = (".json", ".model", ".txt", ".jinja", ".tiktoken")
_READ_HERE = (".safetensors", *_TEXTS)
# A tokenizer has up to about 40 MB.
_LARGEST_TEXT = 64 << 20


@dataclass(frozen=True)
class FileEntry:
    """One file.

    Attributes:
        path: Its path relative to the checkpoint (POSIX).
        size: Its length in bytes.
        mode: Its permission bits.
        modified: When it was written last, in nanoseconds.
        number: Its number in the file system, which another file of the same name does not have.
        digest: SHA-256 of its content, in hex, where it is a text that models are loaded by; empty for others.
    """

    path: str
    size: int
    mode: int
    modified: int
    number: int
    digest: str = ""


def list_files(root: Path) -> tuple[tuple[FileEntry, ...], tuple[tuple[str, int], ...]]:
    """Every file, sorted by path, and every directory below the root with its permission bits, parents first.

    Raises:
        UserError: Something cannot be read, or is neither a file, a directory nor a link to a file.
    """
    files: list[FileEntry] = []
    directories: list[tuple[str, int]] = []
    pending = [root]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as listing:
            children = sorted(listing, key=lambda child: child.name)
        for child in children:
            path = Path(child.path)
            relative = path.relative_to(root).as_posix()
            try:
                facts = child.stat(follow_symlinks=True)
            except OSError as error:
                problem = "a symbolic link that leads nowhere" if child.is_symlink() else "cannot be read"
                raise machine_or(
                    UserError(problem, where=path, value=error.strerror, remedy="restore the file"), error
                ) from error
            mode = stat.S_IMODE(facts.st_mode)
            if stat.S_ISREG(facts.st_mode):
                found = digest(path) if relative.endswith(_TEXTS) and facts.st_size <= _LARGEST_TEXT else ""
                files.append(FileEntry(relative, facts.st_size, mode, facts.st_mtime_ns, facts.st_ino, found))
            elif stat.S_ISDIR(facts.st_mode) and not child.is_symlink():
                directories.append((relative, mode))
                pending.append(path)
            else:
                linked = child.is_symlink() and stat.S_ISDIR(facts.st_mode)
                raise UserError(
                    "a symbolic link to a directory, which is not followed"
                    if linked
                    else "neither a file nor a directory",
                    where=path,
                    value=str(path.resolve()) if linked else None,
                    expected="regular files, directories, and symbolic links to files",
                    remedy="remove it or put a copy in its place",
                )
    return tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(directories))


def links_outside(root: Path, files: tuple[FileEntry, ...]) -> Iterator[str]:
    """Yield the files that are links to places outside of the directory, but for the store of a download cache."""
    base = root.resolve()
    for file in files:
        path = root / file.path
        # Directories are never followed, so that a file leaves by a link of its own alone.
        if path.is_symlink():
            target = path.resolve()
            # A snapshot of huggingface_hub consists of such links.
            cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
            if base not in target.parents and not cached:
                yield file.path


def refuse_pointers(root: Path, files: tuple[FileEntry, ...]) -> None:
    """Git LFS leaves a few lines of text where a file was not fetched.

    Raises:
        UserError: A file that models are loaded from is such a text.
    """
    for file in files:
        if file.size <= _LARGEST_POINTER and file.path.endswith(_READ_HERE):
            with (root / file.path).open("rb") as stream:
                found = stream.read(len(_POINTER)) == _POINTER
            if found:
                raise UserError(
                    "this is a Git LFS pointer, not the file itself",
                    where=root / file.path,
                    value=f"{file.size} bytes of text",
                    expected="the content that the pointer stands for",
                    remedy="fetch it: git lfs pull, in the directory of the checkpoint",
                )
