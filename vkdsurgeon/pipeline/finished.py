"""Is an existing output already the result of the requested run? If so, there is nothing left to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vkdsurgeon.checkpoint.diff import CheckpointDiff, diff_checkpoints
from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.checkpoint.provenance import SCHEMA, free_record_name, versions
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES
from vkdsurgeon.checkpoint.stage import WriteReport
from vkdsurgeon.checkpoint.write_provenance import set_facts
from vkdsurgeon.data.request import UNTAGGED, RequestTag
from vkdsurgeon.decoder_pass.run import DecoderJob
from vkdsurgeon.errors import UserError
from vkdsurgeon.pipeline.result import UnlearnResult
from vkdsurgeon.results.envelope import FIELDS
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.target_readings import TargetReading

# What a record holds beside the facts of the run.
_ADDED = {*FIELDS, "versions", "weights_digest", "base", "changed_files", "earlier_runs"}


def record_of(inventory: Inventory, out: Path) -> dict[str, Any] | None:
    """The record that a run on a checkpoint left in an output, if there is one.

    Args:
        inventory: Inventory of the checkpoint.
        out: The directory.
    """
    try:
        record = read_json(out / free_record_name(inventory))
    except (UserError, OSError):
        return None
    return record if record.get("schema") == SCHEMA else None


def finished(
    record: Mapping[str, Any],
    out: Path,
    prepared: Prepared,
    decoder: DecoderJob | None,
    dropped: Sequence[str] = (),
    tag: RequestTag = UNTAGGED,
) -> UnlearnResult | None:
    """The result that an earlier run wrote, if it was the very same run and nothing was altered since.

    Args:
        record: From `record_of`.
        out: The directory.
        prepared: The visual pass as it is asked for now.
        decoder: The decoder pass, likewise.
        dropped: Files of the checkpoint that are left out.
        tag: The request behind the run.
    """
    try:
        if record["request"] != asdict(tag) or not _same_run(record, prepared, decoder):
            return None
        inventory = prepared.stack.inventory
        report = _written(record, inventory, out, free_record_name(inventory), dropped)
        return None if report is None else _result(record, out, prepared, decoder, report)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        # A record that was edited, or a checkpoint that is none, is no output of this run.
        return None


def _same_run(record: Mapping[str, Any], prepared: Prepared, decoder: DecoderJob | None) -> bool:
    job, plan = prepared.job, prepared.plan
    sets = set_facts(
        {"forget": job.forget, "retain": job.retain, "generic": job.generic}, bytes.fromhex(record["salt"])
    )
    asked = {
        "recipe": job.recipe.model_dump(),
        "seed": job.seed,
        "device": plan.device,
        "dtype": plan.dtype,
        "sets": sets,
        "other_teachers": plan.other_teachers,
        "versions": versions(),
    }
    replayed = (record.get("replay") or {}).get("digest")
    if replayed != (None if job.replay is None else job.replay.digest):
        return False
    return (decoder is None) == ("decoder" not in record) and all(
        record[key] == json.loads(json.dumps(value)) for key, value in asked.items()
    )


def _written(
    record: Mapping[str, Any], inventory: Inventory, out: Path, name: str, dropped: Sequence[str]
) -> WriteReport | None:
    """What an earlier run wrote, after comparing every byte with the original; None where it differs."""
    copy = take_inventory(out)
    found = diff_checkpoints(inventory.root, out)
    declared = {*record["tensors_with_selected_elements"], *record.get("decoder", {}).get("tensors", ())}
    digest = weights_digest(out, copy.shards)
    if (
        digest != record["weights_digest"]
        or found.missing
        or found.added
        or not found.headers_identical
        or not declared.issuperset(tensor.name for tensor in found.tensors)
        or found.files_that_are("extra") != (name,)
        or found.files_that_are("missing") != tuple(sorted(dropped))
        or not set(inventory.shards).issuperset(found.files_that_are("changed"))
    ):
        return None
    return _report(found, inventory, digest, len(copy.files))


def _report(found: CheckpointDiff, inventory: Inventory, digest: str, files: int) -> WriteReport:
    widths = {tensor.name: TORCH_DTYPES[inventory.tensors[tensor.name].dtype].itemsize for tensor in found.tensors}
    return WriteReport(
        tensors_changed=len(found.tensors),
        elements_changed=found.elements_changed,
        bytes_changed=sum(tensor.changed * widths[tensor.name] for tensor in found.tensors),
        weights_digest=digest,
        files=files,
        seconds=0.0,
        shards_changed=found.files_that_are("changed"),
        by_tensor={tensor.name: tensor.changed for tensor in found.tensors},
    )


def _result(
    record: Mapping[str, Any], out: Path, prepared: Prepared, decoder: DecoderJob | None, report: WriteReport
) -> UnlearnResult:
    verdicts, choice = record["stop_rule"], record["stop_rule_written"]
    if not 0 <= choice["index"] < len(verdicts):
        raise IndexError(choice["index"])
    gate = None if decoder is None else {key: each for key, each in record["decoder"]["gate"].items() if key != "met"}
    targets = {layer: TargetReading(**facts) for layer, facts in record["targets"].items()}
    return UnlearnResult.model_validate(
        {
            "plan": replace(prepared.plan, targets=targets),
            "recipe": prepared.job.recipe,
            "seed": prepared.job.seed,
            "out": out,
            "selected_elements": record["selected_elements"],
            "verdicts": verdicts,
            "choice": choice,
            "decoder_plan": None if decoder is None else decoder.plan,
            "decoder_selected_elements": 0 if decoder is None else record["decoder"]["selected_elements"],
            "decoder_verdict": gate,
            "write": report,
            "provenance": {key: value for key, value in record.items() if key not in _ADDED},
        }
    )
