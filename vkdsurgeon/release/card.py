"""The model card inside the output: front matter for the hub, and a section of ours between markers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole

CARD = "README.md"
BEGIN = "<!-- vkdsurgeon: begin; written by `vkdsurgeon attest`, which replaces it -->"
END = "<!-- vkdsurgeon: end -->"
# With the line that parts it from what stands before.
_SECTION = re.compile("\n?" + re.escape(BEGIN) + ".*?" + re.escape(END) + "\n?", re.DOTALL)
_FRONT = re.compile(r"\A(---\r?\n)(.*?)^(---\r?\n)", re.DOTALL | re.MULTILINE)
_TAGS = ("machine-unlearning", "vkdsurgeon")


def write_card(model: Path, base_model: str | None, section: str) -> Path:
    """Write our part of the card; what others wrote stays as it is, byte for byte.

    In the front matter `base_model` is set where it was told and our tags are added; every other key is kept, such as
    `license`.

    Args:
        model: The patched checkpoint.
        base_model: What the hub calls the base, such as `org/name`; None where it has no name there.
        section: Markdown, without markers.

    Returns:
        The card.

    Raises:
        UserError: The card that is there is no UTF-8, or its front matter is not YAML.
    """
    path = model / CARD
    try:
        there = path.read_bytes().decode() if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise UserError("the card is not UTF-8", where=path, value=str(error), remedy="save it as UTF-8") from None
    write_whole(path, with_section(there, base_model, section, where=path).encode())
    return path


def with_section(card: str, base_model: str | None, section: str, *, where: Path | str = CARD) -> str:
    """A card with our part of it.

    Args:
        card: As it is.
        base_model: As in `write_card`.
        section: As in `write_card`.
        where: For messages.

    Raises:
        UserError: As `write_card`.
    """
    found = _FRONT.match(card)
    begin, front, end = found.groups() if found else ("---\n", "", "---\n")
    body = without_section(card[found.end() :] if found else card)
    ours = f"{BEGIN}\n{section.strip()}\n{END}\n"
    parting = "\n" if body else ""
    return f"{begin}{_front(front, base_model, where)}{end}{body}{parting}{ours}"


def without_section(card: str) -> str:
    """What others wrote, byte for byte."""
    return _SECTION.sub("", card)


def has_section(root: Path) -> bool:
    """Whether the card of a checkpoint has a section of ours."""
    path = root / CARD
    return path.is_file() and BEGIN in path.read_text(encoding="utf-8", errors="replace")


def _front(front: str, base_model: str | None, where: Path | str) -> str:
    try:
        known = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        raise UserError(f"the front matter of the card is not YAML: {error}", where=where) from error
    if not isinstance(known, dict):
        raise UserError("the front matter of the card is no mapping", where=where, value=type(known).__name__)
    tags = known.get("tags") or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    ours: dict[str, Any] = {"tags": [*tags, *(tag for tag in _TAGS if tag not in tags)]}
    if base_model is not None:
        ours |= {"base_model": base_model, "base_model_relation": "finetune"}
    return _without_keys(front, ours) + yaml.safe_dump(ours, sort_keys=False, allow_unicode=True)


def _without_keys(front: str, keys: Mapping[str, Any]) -> str:
    """YAML text without some keys of its first level; all other lines stay as they are."""
    kept, dropping = [], False
    for line in front.splitlines(keepends=True):
        if re.match(r"[^\s#-]", line):
            dropping = line.partition(":")[0].strip("\"'") in keys
        if not dropping:
            kept.append(line)
    text = "".join(kept)
    return text if not text or text.endswith("\n") else text + "\n"


def license_of(path: Path) -> str | None:
    """The license that a card names; None where there is no card, or it names none."""
    found = _FRONT.match(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    try:
        front = yaml.safe_load(found[2]) if found else None
    except yaml.YAMLError:
        return None
    told = front.get("license") if isinstance(front, dict) else None
    return told if isinstance(told, str) else None
