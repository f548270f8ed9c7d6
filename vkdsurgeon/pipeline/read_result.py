"""Documents read back as the classes that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel, ValidationError

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.pipeline.run_baseline import MethodResult
from vkdsurgeon.results import attacks, relearn
from vkdsurgeon.results.comparison import ComparisonResult
from vkdsurgeon.results.difference import DiffResult
from vkdsurgeon.results.evaluation import EvalResult
from vkdsurgeon.results.inspection import InspectResult
from vkdsurgeon.results.tuning import TuneDocument

AnyResult: TypeAlias = (
    UnlearnResult | MethodResult | EvalResult | attacks.AttackResult | relearn.RelearnResult | relearn.RestoreResult
    | ComparisonResult | TuneDocument | DiffResult | InspectResult
)  # fmt: skip

RESULTS: dict[str, type[BaseModel]] = {
    "unlearn": UnlearnResult,
    "unlearn-method": MethodResult,
    "evaluation": EvalResult,
    "comparison": ComparisonResult,
    "tune": TuneDocument,
    "diff": DiffResult,
    "inspect": InspectResult,
    "attack.relearn": relearn.RelearnResult,
    "attack.restore": relearn.RestoreResult,
    "attack.probe": attacks.ProbeResult,
    "attack.quantize": attacks.QuantizeResult,
    "attack.perturb": attacks.PerturbResult,
    "attack.prompt": attacks.PromptResult,
    "attack.typography": attacks.TypographyResult,
    "attack.membership": attacks.MembershipResult,
}


def read_result(path: Path) -> AnyResult:
    """Read a document that a command or `model_dump_json` wrote.

    Raises:
        UserError: It cannot be read, or is no such document.
    """
    expected = "a document that vkdsurgeon wrote: " + ", ".join(RESULTS)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise machine_or(
            UserError("cannot be read", where=path, value=error.strerror, expected=expected), error
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a JSON document: {error}", where=path, expected=expected) from error
    schema = found.get("schema") if isinstance(found, dict) else None
    name = schema.split("/")[1] if isinstance(schema, str) and schema.count("/") == 2 else None
    if name not in RESULTS:
        raise UserError("not a result of vkdsurgeon", where=path, value=schema, expected=expected)
    try:
        result = RESULTS[name].model_validate(found)
    except (ValidationError, KeyError, TypeError) as error:
        raise UserError(f"a broken {name} document: {error}", where=path, expected=expected) from error
    assert isinstance(result, AnyResult)
    return result
