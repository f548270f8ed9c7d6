"""What the record in the output says of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from vkdsurgeon.checkpoint.environment import environment
from vkdsurgeon.checkpoint.write_provenance import salt_of, set_facts
from vkdsurgeon.data.request import RequestTag
from vkdsurgeon.training.saliency import layer_shares
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.run import Outcome


def facts_of(
    prepared: Prepared, outcome: Outcome, changes: Mapping[str, torch.Tensor], tag: RequestTag
) -> dict[str, Any]:
    """Facts of a finished vision pass.

    Args:
        prepared: What was to be done.
        outcome: What came of it.
        changes: The tensors on disk that change.
        tag: What the caller calls the request.
    """
    job, plan = prepared.job, prepared.plan
    salt = salt_of(job.seed, changes)
    replay = (
        None
        if job.replay is None
        else {
            "pictures": plan.replayed_pictures,
            "subjects": plan.replayed_subjects,
            "digest": job.replay.digest,
        }
    )
    sizes = {name: value.numel() for name, value in prepared.stack.visual_parameters().items()}
    return {
        "request": asdict(tag),
        "method": "visual knowledge distillation, feature mode (reconstruction of arXiv 2512.11325)",
        "model_type": plan.model_type,
        "modality": job.modality,
        "recipe": job.recipe.model_dump(),
        "seed": job.seed,
        "device": plan.device,
        "dtype": plan.dtype,
        "environment": environment(job.device, plan.tower_parameters + plan.projector_parameters, job.processes.count),
        "sets": set_facts({"forget": job.forget, "retain": job.retain, "generic": job.generic}, salt),
        "salt": salt.hex(),
        "teacher": asdict(plan.teacher),
        "other_teachers": plan.other_teachers,
        "visual_elements": plan.tower_parameters + plan.projector_parameters,
        "selected_elements": outcome.mask.count,
        "layers": [asdict(share) for share in layer_shares(outcome.mask, sizes, prepared.stack.layer_of)],
        "tensors_with_selected_elements": sorted(outcome.changes),
        "stop_rule": [asdict(verdict) for verdict in outcome.verdicts],
        "stop_rule_written": asdict(outcome.choice),
        "targets": {layer: asdict(reading) for layer, reading in outcome.readings.items()},
        **({} if replay is None else {"replay": replay}),
        "step_size": None if outcome.step_size is None else asdict(outcome.step_size),
    }
