"""The teachers' part of a vision pass: features, forget targets, and what these read as."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import torch

from vkdsurgeon.vision_pass.job import Prepared, Taught
from vkdsurgeon.vision_pass.objective import make_terms


def teach(prepared: Prepared) -> Prepared:
    """Run the teachers, make the forget targets and read them. Changes nothing.

    Raises:
        UserError: The sets do not suffice for the recipe, or the targets still read as those who are to be forgotten.
    """
    job, started = prepared.job, time.monotonic()
    generator = torch.Generator().manual_seed(job.seed)
    terms = make_terms(
        prepared.stack,
        prepared.forget,
        prepared.keep,
        job.recipe,
        generator,
        forget_teacher=job.teacher("forget"),
        retain_teacher=job.teacher("retain"),
        look=prepared.look,
    )
    prepared.stack.processes.agree(
        "forget targets", lambda: [list(map(asdict, terms.readings.values())), terms.targets.stand_ins]
    )
    return replace(
        prepared,
        plan=replace(prepared.plan, targets=dict(terms.readings)),
        taught=Taught(terms, generator, time.monotonic() - started),
    )
