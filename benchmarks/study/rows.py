"""Rows of one file or of several, as one set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import provenance
from vkdsurgeon.errors import UserError

_KEYS = ("case", "role", "recipe", "seed", "values", "attacks")


def read_rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The latest row of every case, recipe and seed of each file; rows of one in several files are joined.

    Args:
        files: JSON lines, as `run` writes them.

    Raises:
        UserError: A file holds none, or other lines; or two files tell of other models by one name.
    """
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for file in files:
        for key, row in _latest(file).items():
            earlier = found.get(key)
            # Cases that were minted anew keep their names, and answers of one model must not be paired with another's.
            if earlier is not None and earlier["values"] != row["values"]:
                raise UserError(
                    "another file has other answers of that case, recipe and seed",
                    where=file,
                    value=" ".join(map(str, key)),
                    expected="files that were measured on the same checkpoints",
                    remedy="give files with other checkpoints in calls of their own",
                )
            attacks = {**earlier["attacks"], **row["attacks"]} if earlier else row["attacks"]
            found[key] = row | {"attacks": attacks}
    return list(found.values())


def _latest(file: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    try:
        rows = provenance.read(file)
    except (OSError, ValueError) as error:
        raise UserError(f"this is no file of JSON lines: {error}", where=file, expected="what `run` writes") from error
    if not rows:
        raise UserError("there are no results", where=file, remedy="measure first: python -m benchmarks.study run")
    for index, row in enumerate(rows, 1):
        missing = [key for key in _KEYS if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(
                f"this is no row of the study: it lacks {', '.join(missing)}",
                where=f"{file}:{index}",
                expected="what `python -m benchmarks.study run` writes",
            )
    return {(row["case"], row["recipe"], row["seed"]): row for row in rows}
