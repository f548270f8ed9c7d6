"""The public Python API. All names here can also be imported from `vkdsurgeon` itself.

    from vkdsurgeon import evaluate, unlearn

    run = unlearn("model/", "forget.jsonl", "patched/", retain="retain.jsonl")
    result = evaluate("patched/", {"forget": "heldout.jsonl"}, base="model/", gates=["forget.vqa.accuracy<=0.1"])
    result.raise_if_failed()

A set is a file or a folder, as on the command line, or a sequence of `Record`. Results are pydantic models;
`model_dump_json()` gives what the commands print with `--json`. Wrong input raises `UserError`; any other failure
raises `SurgeryError`. In both cases no partial output is left behind. A failed gate raises no exception by itself: look
at `passed` and `failures` of the result, or call `raise_if_failed()`.

Importing this package loads neither torch nor pydantic. They are loaded by the first call of a function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vkdsurgeon.api.checkpoints import diff, inspect
from vkdsurgeon.api.measurement import attack, evaluate
from vkdsurgeon.api.patches import apply_patch, export_patch, patch_checkpoint
from vkdsurgeon.api.recipes import load_recipe, register_forget_target, register_mask
from vkdsurgeon.api.releases import attest, make_release, reproduce, verify
from vkdsurgeon.api.reports import read_result, write_report
from vkdsurgeon.api.sampling import sample_images
from vkdsurgeon.api.searching import compare, tune
from vkdsurgeon.api.unlearning import run_method, unlearn
from vkdsurgeon.errors import GateFailed, SurgeryError, UserError
from vkdsurgeon.training.events import Event

if TYPE_CHECKING:
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.data.record import Record
    from vkdsurgeon.data.suites.split import SuiteSplit
    from vkdsurgeon.pipeline.result import UnlearnResult
    from vkdsurgeon.pipeline.run_baseline import MethodResult
    from vkdsurgeon.report.write import ReportResult
    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon.results.comparison import ComparisonResult
    from vkdsurgeon.results.difference import DiffResult
    from vkdsurgeon.results.evaluation import EvalResult
    from vkdsurgeon.results.inspection import InspectResult
    from vkdsurgeon.results.patch import PatchResult
    from vkdsurgeon.results.relearn import RelearnResult, RestoreResult
    from vkdsurgeon.results.release import ReleaseResult
    from vkdsurgeon.results.reproduction import ReproduceResult
    from vkdsurgeon.results.sampling import SampleResult
    from vkdsurgeon.results.tuning import TuneDocument
    from vkdsurgeon.results.verification import VerifyResult
    from vkdsurgeon.tuning.result import TuneResult
    from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext

_HOMES = {
    "AttackResult": "vkdsurgeon.results.attacks",
    "ComparisonResult": "vkdsurgeon.results.comparison",
    "DiffResult": "vkdsurgeon.results.difference",
    "EvalResult": "vkdsurgeon.results.evaluation",
    "ForgetTargets": "vkdsurgeon.vision_pass.targets.context",
    "InspectResult": "vkdsurgeon.results.inspection",
    "MethodResult": "vkdsurgeon.pipeline.run_baseline",
    "PatchResult": "vkdsurgeon.results.patch",
    "Recipe": "vkdsurgeon.config.recipe",
    "Record": "vkdsurgeon.data.record",
    "RelearnResult": "vkdsurgeon.results.relearn",
    "ReleaseResult": "vkdsurgeon.results.release",
    "ReportResult": "vkdsurgeon.report.write",
    "ReproduceResult": "vkdsurgeon.results.reproduction",
    "RestoreResult": "vkdsurgeon.results.relearn",
    "SampleResult": "vkdsurgeon.results.sampling",
    "SuiteSplit": "vkdsurgeon.data.suites.split",
    "TargetContext": "vkdsurgeon.vision_pass.targets.context",
    "TuneDocument": "vkdsurgeon.results.tuning",
    "TuneResult": "vkdsurgeon.tuning.result",
    "UnlearnResult": "vkdsurgeon.pipeline.result",
    "VerifyResult": "vkdsurgeon.results.verification",
}

__all__ = [
    "AttackResult",
    "ComparisonResult",
    "DiffResult",
    "EvalResult",
    "Event",
    "ForgetTargets",
    "GateFailed",
    "InspectResult",
    "MethodResult",
    "PatchResult",
    "Recipe",
    "Record",
    "RelearnResult",
    "ReleaseResult",
    "ReportResult",
    "ReproduceResult",
    "RestoreResult",
    "SampleResult",
    "SuiteSplit",
    "SurgeryError",
    "TargetContext",
    "TuneDocument",
    "TuneResult",
    "UnlearnResult",
    "UserError",
    "VerifyResult",
    "apply_patch",
    "attack",
    "attest",
    "compare",
    "diff",
    "evaluate",
    "export_patch",
    "inspect",
    "load_recipe",
    "make_release",
    "patch_checkpoint",
    "read_result",
    "register_forget_target",
    "register_mask",
    "reproduce",
    "run_method",
    "sample_images",
    "tune",
    "unlearn",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
