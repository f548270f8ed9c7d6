"""What the record beside the patched weights says of a decoder pass."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import asdict
from typing import Any

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.decoder_pass.run import DecoderJob, DecoderOutcome


def decoder_facts(job: DecoderJob, outcome: DecoderOutcome, salt: bytes) -> dict[str, Any]:
    """Facts for `provenance_record`: which tensors of W may differ and by how many elements, never what about.

    Args:
        job: What was asked.
        outcome: What was done.
        salt: For the digest of the text retain set.
    """
    prompts = "\n".join(sorted((*job.text.train, *job.text.held_out)))
    return {
        "method": "decoder pass: self-distillation of the language model (docs/studies/method.md)",
        "dtype": job.plan.dtype,
        "eligible_elements": job.plan.eligible_elements,
        "selected_elements": outcome.mask.count,
        "density": outcome.mask.density,
        "mask_digest": _mask_digest(outcome),
        "tensors": dict(sorted(outcome.selected.items())),
        "text": {
            "built_in": job.text.built_in,
            "prompts": len(job.text.train),
            "held_out": len(job.text.held_out),
            "digest": hmac.new(salt, prompts.encode(), hashlib.sha256).hexdigest(),
        },
        "gate": {**asdict(outcome.verdict), "met": outcome.verdict.met},
    }


def _mask_digest(outcome: DecoderOutcome) -> str:
    """SHA-256 over the names of the masked parameters and their masks, a bit per element (`BitMask.words`)."""
    hasher = hashlib.sha256()
    for name in sorted(outcome.mask.selected):
        hasher.update(name.encode() + b"\0")
        hasher.update(raw_bytes(outcome.mask.selected[name].words))
    return hasher.hexdigest()
