"""Digests and settings of everything that decides what a run computes."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.decoder_pass.run import DecoderJob
from vkdsurgeon.vision_pass.job import Prepared
from vkdsurgeon.vision_pass.teacher import visual_digest

# What says when to stop: a run may go on under other bounds, which hold from there on.
FREE_KEYS = ("extensions", "forget_reading", "retain_reading", "retain_drift")
# Configs, tokenizers and templates; weights are told by their values, and documentation decides nothing.
_SETTINGS = (".json", ".jinja", ".txt", ".model")
_MOST_BYTES = 64 << 20


def inputs_of(prepared: Prepared, decoder: DecoderJob | None, salt: bytes) -> dict[str, Any]:
    """Everything that determines a run, as JSON; of the sets it holds salted digests alone.

    Args:
        prepared: The visual pass.
        decoder: The decoder pass, if there is one.
        salt: Salt of the journal.
    """
    job, stack = prepared.job, prepared.stack
    device = job.device
    facts: dict[str, Any] = {
        "checkpoint": _checkpoint_digest(stack.inventory, visual_digest(stack)),
        "split": hashlib.sha256("\n".join((*stack.visual_parameters(), *stack.layers)).encode()).hexdigest(),
        "forget": _samples_digest(job.forget, salt),
        "retain": _samples_digest(job.retain, salt),
        "generic": _samples_digest(job.generic, salt),
        "teachers": dict(prepared.plan.other_teachers),
        "recipe": _binding(job.recipe),
        "seed": job.seed,
        "dtype": prepared.plan.dtype,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": versions(),
    }
    if job.replay is not None:
        facts["replay"] = job.replay.digest
    if decoder is not None:
        digests = {sample.path: sample.digest for sample in (*job.forget, *job.retain, *job.generic)}
        questions = [question for trained, held_out in decoder.questions.values() for question in (*trained, *held_out)]
        rows = ([question.text, None if question.media is None else digests[question.media]] for question in questions)
        facts["questions"] = _salted((json.dumps(row) for row in rows if row[1] is not None), salt)
        facts["text"] = _salted((json.dumps(part) for part in (decoder.text.train, decoder.text.held_out)), salt)
        facts["language_model"] = weights_digest(stack.inventory.root, stack.inventory.shards)
    # As it comes back from a file, so that it can be compared.
    result: dict[str, Any] = json.loads(json.dumps(facts))
    return result


def _binding(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key not in FREE_KEYS}


def _checkpoint_digest(inventory: Inventory, visual: str) -> str:
    hasher = hashlib.sha256(visual.encode())
    for name, entry in sorted(inventory.tensors.items()):
        hasher.update(f"{name} {entry.dtype} {list(entry.shape)}\n".encode())
    for file in inventory.files:
        if file.path.endswith(_SETTINGS) and file.size <= _MOST_BYTES:
            content = (inventory.root / file.path).read_bytes()
            # A file's name may be no UTF-8.
            hasher.update(os.fsencode(f"{file.path} {hashlib.sha256(content).hexdigest()}\n"))
    return hasher.hexdigest()


def _samples_digest(samples: Sequence[Sample], salt: bytes) -> str:
    return _salted((json.dumps([sample.digest, sample.subject]) for sample in samples), salt)


def _salted(rows: Iterable[str], salt: bytes) -> str:
    return hmac.new(salt, "\n".join(rows).encode(), hashlib.sha256).hexdigest()
