"""Settings that several sections of a recipe have: bounds and meaning; each section has a default of its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Warmup = Annotated[
    float,
    Field(
        ge=0, le=1, description="Share of the steps, at the start, in which the step size grows linearly to its peak."
    ),
]
Decay = Annotated[
    float,
    Field(ge=0, le=1, description="Share of the steps, at the end, in which the step size falls linearly to zero."),
]
WeightDecay = Annotated[float, Field(ge=0, description="Decoupled weight decay of the selected weights.")]
Clip = Annotated[
    float,
    Field(
        gt=0,
        description="Maximum global norm of the gradient of the selected weights; larger gradients are scaled down to "
        "it.",
    ),
]
SequencesAtOnce = Annotated[
    int, Field(ge=1, description="Largest number of sequences in one forward pass; lower it to save memory.")
]
Checkpointing = Annotated[
    Literal["auto", "on", "off"],
    Field(
        description="Recompute the activations of decoder layers to save memory: on, off, or auto, which is on for a "
        "GPU.",
    ),
]
