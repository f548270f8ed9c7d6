"""The result of an unlearning run as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from vkdsurgeon.data.modality import NOUNS
from vkdsurgeon.pipeline.words import describe_decoder, describe_targets, describe_teacher, describe_verdict
from vkdsurgeon_cli.progress import duration

if TYPE_CHECKING:
    from vkdsurgeon.pipeline.result import UnlearnResult


def result_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    """Names and values, for people."""
    before = [] if result.image_pass is None else [*_tower_rows(result.image_pass), ("", "")]
    return [*before, *_tower_rows(result)]


def _tower_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    plan = result.plan
    sets = {"forget": plan.forget_pictures, "retain": plan.retain_pictures, "generic": plan.generic_pictures}
    rows: list[tuple[str, Any]] = [
        ("model type", plan.model_type),
        ("weights", f"{plan.tower_parameters:,} tower + {plan.projector_parameters:,} projector"),
        ("may change", f"{plan.selected_parameters:,} of these weights"),
        (f"{NOUNS[plan.modality]}s", ", ".join(f"{count} {role}" for role, count in sets.items())),
        *(
            [("replayed", f"{plan.replayed_pictures} of {plan.replayed_subjects} subjects")]
            if plan.replayed_pictures
            else []
        ),
        ("precision", plan.dtype),
        ("teacher", describe_teacher(plan.teacher)),
        *((f"targets at {layer}", describe_targets(reading)) for layer, reading in plan.targets.items()),
        ("steps", plan.steps),
        ("memory, estimated", f"{plan.memory.total:,.0f} MiB on {plan.device}"),
    ]
    if result.write is None:
        rows += [*_forecast_rows(result), *_decoder_rows(result), ("written", "nothing (dry run)")]
        return rows
    rows += [
        *_stop_rows(result),
        *_decoder_rows(result),
        ("changed", f"{result.write.elements_changed:,} elements in {result.write.tensors_changed} tensors"),
        ("everything else", "verified identical, byte for byte"),
        ("seconds", f"{sum(result.seconds.values()):.1f}"),
        ("written", str(result.out)),
    ]
    return rows


def _forecast_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    found = result.forecast
    if found is None:
        return []
    disk = f"{decimal(found.output_bytes)} for the output, up to {decimal(found.journal_bytes)} for the journal"
    if found.replay_bytes:
        disk += f", {decimal(found.replay_bytes)} for the replay file"
    longest = (
        "" if found.most_seconds == found.seconds else f", up to {duration(found.most_seconds)} with all extensions"
    )
    return [
        ("time, estimated", f"{duration(found.seconds)}{longest}; writing comes on top"),
        ("one step", f"{found.step_seconds:.2f} s, measured"),
        ("disk", disk),
    ]


def _stop_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    if result.verdict is None or result.choice is None:
        return []
    rows: list[tuple[str, Any]] = [("stop rule", describe_verdict(result.verdict))]
    if not result.verdict.met:
        rows.append(
            (
                "weights written",
                f"those of check {result.choice.index + 1} of {len(result.verdicts)}: {result.choice.reason}",
            )
        )
    return rows


def how_to_go_on(result: UnlearnResult) -> str:
    """What to do where the budget ended before the stop rule was met."""
    return (
        f"the last state is in {result.journal}: to train on from there, move {result.out} away and give the same "
        f"command with --resume and a larger --set extensions=N (this run had {result.recipe.extensions}) or other "
        "bounds (--set forget_reading=..., --set retain_drift=...); remove the journal if this output is good enough"
    )


def _decoder_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    plan = result.decoder_plan
    if plan is None:
        return []
    rows: list[tuple[str, Any]] = [
        ("decoder weights", f"{plan.selected_elements:,} of {plan.eligible_elements:,} may move"),
        ("memory for W, estimated", f"{plan.memory_mib['peak']:,.0f} MiB, {plan.dtype}"),
    ]
    if result.decoder_verdict is not None:
        rows.append(("decoder pass", describe_decoder(result.decoder_verdict)))
    return rows
