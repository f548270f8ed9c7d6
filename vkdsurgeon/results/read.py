"""Documents of vkdsurgeon, read back: recognised by what they say they are, never by their name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from pydantic import BaseModel, ValidationError

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import first_problem
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.comparison import ComparisonResult
from vkdsurgeon.results.diff_document import DiffDocument
from vkdsurgeon.results.evaluation import SCHEMA_VERSION, EvalResult
from vkdsurgeon.results.run_record import ProvenanceDocument, UnlearnDocument

# Results hold no images; what is larger than this is no result.
_MOST_BYTES = 64 << 20

Document: TypeAlias = (
    EvalResult | AttackDocument | ComparisonResult | UnlearnDocument | ProvenanceDocument | DiffDocument
)

_BY_SCHEMA: dict[str, type[BaseModel]] = {
    "vkdsurgeon/unlearn/1": UnlearnDocument,
    "vkdsurgeon/provenance/1": ProvenanceDocument,
    "vkdsurgeon/diff/1": DiffDocument,
}
_BY_KIND: dict[str, type[BaseModel]] = {"evaluation": EvalResult, "comparison": ComparisonResult}
_EXPECTED = (
    "what `unlearn --json`, `eval`, `attack`, `compare` or `diff --json` wrote, or the vkdsurgeon.json of a patched "
    "model"
)


@dataclass(frozen=True)
class Source:
    """One file and what it says.

    Attributes:
        path: Where it was read from; for messages to the user only, never for the report.
        digest: SHA-256 of its bytes, in hex.
        document: What it says.
    """

    path: Path
    digest: str
    document: Document


def read_source(path: Path) -> Source:
    """Read one document.

    Raises:
        UserError: It cannot be read, is not JSON, is nothing of ours, of another version, or broken.
    """
    return parse_source(_read(path), path)


def parse_source(content: bytes, path: Path) -> Source:
    """Recognise one document.

    Args:
        content: Its bytes.
        path: Where it comes from, for messages.

    Raises:
        UserError: As `read_source`.
    """
    try:
        found = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        remedy = "run the command again: what it printed was cut or mixed with something else"
        raise UserError(f"not a JSON document: {error}", where=path, expected=_EXPECTED, remedy=remedy) from error
    kind = _kind_of(found, path)
    try:
        document = kind.model_validate(found)
    except ValidationError as error:
        raise _broken(path, found, error) from error
    assert isinstance(document, Document)
    return Source(path, hashlib.sha256(content).hexdigest(), document)


def _read(path: Path) -> bytes:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is no regular file"
        raise UserError(f"the document {problem}", where=path, expected=_EXPECTED)
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UserError("too large for a result", where=path, expected=f"at most {_MOST_BYTES >> 20} MiB")
    return content


def _kind_of(found: object, path: Path) -> type[BaseModel]:
    if not isinstance(found, dict):
        raise UserError("not a document of vkdsurgeon", where=path, value=type(found).__name__, expected=_EXPECTED)
    if isinstance(found.get("error"), dict):
        told = str(found["error"].get("what", "it does not say why"))
        raise UserError(
            f"this is the output of a command that failed: {told}", where=path, remedy="run that command again"
        )
    schema, kind = found.get("schema"), found.get("kind")
    if isinstance(schema, str) and "schema_version" not in found:
        if schema in _BY_SCHEMA:
            if found.get("dry_run") is True:
                raise UserError("a dry run has nothing to report", where=path, remedy="unlearn without --dry-run")
            return _BY_SCHEMA[schema]
        raise UserError("a report cannot contain this kind of result", where=path, value=schema, expected=_EXPECTED)
    if isinstance(kind, str) and (kind in _BY_KIND or kind.startswith("attack.")):
        if found.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                "the document is of another version",
                where=path,
                value=found.get("schema_version"),
                expected=f"schema_version {SCHEMA_VERSION}",
                remedy="measure again with this version of vkdsurgeon",
            )
        return _BY_KIND.get(kind, AttackDocument)
    ours = isinstance(schema, str) and schema.startswith("vkdsurgeon/")
    problem = "this document is not read here" if ours else "not a document of vkdsurgeon"
    raise UserError(problem, where=path, value=schema or kind, expected=_EXPECTED)


def _broken(path: Path, found: Mapping[str, Any], error: ValidationError) -> UserError:
    return UserError(
        f"broken {found.get('schema') or found.get('kind')} document: {first_problem(error)}",
        where=path,
        expected=_EXPECTED,
        remedy="run the command again with this version of vkdsurgeon",
    )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value
