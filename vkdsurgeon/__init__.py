"""Surgery on the visual knowledge of multimodal checkpoints.

    from vkdsurgeon import evaluate, unlearn

The names below are looked up in `vkdsurgeon.api` when they are first used; importing this package imports neither torch
nor transformers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vkdsurgeon.api import (
        AttackResult,
        ComparisonResult,
        DiffResult,
        EvalResult,
        Event,
        ForgetTargets,
        GateFailed,
        InspectResult,
        MethodResult,
        PatchResult,
        Recipe,
        Record,
        RelearnResult,
        ReleaseResult,
        ReportResult,
        ReproduceResult,
        RestoreResult,
        SuiteSplit,
        SurgeryError,
        TargetContext,
        TuneDocument,
        TuneResult,
        UnlearnResult,
        UserError,
        VerifyResult,
        apply_patch,
        attack,
        attest,
        compare,
        diff,
        evaluate,
        export_patch,
        inspect,
        load_recipe,
        make_release,
        patch_checkpoint,
        read_result,
        register_forget_target,
        register_mask,
        reproduce,
        run_method,
        tune,
        unlearn,
        verify,
        write_report,
    )

__version__ = "0.1.0"

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
    "SuiteSplit",
    "SurgeryError",
    "TargetContext",
    "TuneDocument",
    "TuneResult",
    "UnlearnResult",
    "UserError",
    "VerifyResult",
    "__version__",
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
    "tune",
    "unlearn",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module("vkdsurgeon.api"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
