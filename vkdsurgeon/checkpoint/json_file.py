"""A JSON object from a file of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: The file is missing, is not UTF-8 JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", where=path, remedy="download or export the checkpoint again") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=path, remedy="download or export the file again") from error
    if not isinstance(value, dict):
        raise UserError("not a JSON object", where=path, value=type(value).__name__, expected="an object")
    return value
