"""What a person looks like (constant) and how one image shows them (varies), as small integers and offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

# How many values each factor of a look has, in the order of the fields of `Look`.
LOOK_CHOICES: dict[str, int] = {
    "skin": 8,
    "face": 5,
    "hair_style": 11,
    "hair_colour": 9,
    "eye_colour": 5,
    "eye_size": 3,
    "eye_gap": 3,
    "brows": 4,
    "nose": 4,
    "lips": 4,
    "beard": 5,
    "ears": 3,
    "marks": 4,
    "clothes": 9,
    "fabric": 4,
}

# What a stranger notices first weighs more when two people are told apart.
_PROMINENCE = np.array([2.0, 1.0, 2.5, 2.5, 0.5, 0.5, 0.5, 0.7, 0.7, 0.7, 1.5, 0.5, 0.7, 2.0, 1.0])

BACKGROUNDS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "stripes", "dots")


@dataclass(frozen=True)
class Look:
    """One person's appearance: an index into each factor's values, see `LOOK_CHOICES`."""

    skin: int
    face: int
    hair_style: int
    hair_colour: int
    eye_colour: int
    eye_size: int
    eye_gap: int
    brows: int
    nose: int
    lips: int
    beard: int
    ears: int
    marks: int
    clothes: int
    fabric: int

    def codes(self) -> tuple[int, ...]:
        """The indices in field order."""
        return astuple(self)


@dataclass(frozen=True)
class View:
    """One image of someone: everything that is not the person.

    Attributes:
        shift: Where the head is, in pixels of the 48-pixel image, right and down.
        scale: Size of the head, 1 is usual.
        tilt: Rotation of the head in degrees.
        turn: How far the features slide sideways on the face, in pixels.
        light: Brightness factor.
        light_from: Side the light falls from, -1 (left) to 1 (right).
        background: Index into `BACKGROUNDS`.
        pattern: Index into `PATTERNS`.
        phase: Offset of the pattern, in pixels.
        glasses: Whether glasses are worn.
        glasses_colour: 0 to 2.
        mouth_open: Whether the mouth is open.
        smile: Curve of the mouth, -1 (sad) to 1 (glad).
    """

    shift: tuple[float, float]
    scale: float
    tilt: float
    turn: float
    light: float
    light_from: float
    background: int
    pattern: int
    phase: float
    glasses: bool
    glasses_colour: int
    mouth_open: bool
    smile: float


def draw_look(rng: np.random.Generator) -> Look:
    """A look with every factor drawn on its own."""
    values = {name: int(rng.integers(count)) for name, count in LOOK_CHOICES.items()}
    # Half of all people have no beard; otherwise everybody would.
    if rng.random() < 0.5:
        values["beard"] = 0
    return Look(**values)


def draw_view(rng: np.random.Generator) -> View:
    """A view with everything drawn on its own, independently of who is to be seen."""
    return View(
        shift=(float(rng.uniform(-2.5, 2.5)), float(rng.uniform(-1.5, 2.0))),
        scale=float(rng.uniform(0.9, 1.1)),
        tilt=float(rng.uniform(-11.0, 11.0)),
        turn=float(rng.uniform(-1.5, 1.5)),
        light=float(rng.uniform(0.82, 1.12)),
        light_from=float(rng.uniform(-1.0, 1.0)),
        background=int(rng.integers(len(BACKGROUNDS))),
        pattern=int(rng.integers(len(PATTERNS))),
        phase=float(rng.uniform(0.0, 12.0)),
        glasses=bool(rng.random() < 0.5),
        glasses_colour=int(rng.integers(3)),
        mouth_open=bool(rng.random() < 0.5),
        smile=float(rng.uniform(-0.6, 1.0)),
    )


def look_distance(one: Look, other: Look) -> float:
    """Weighted number of factors in which two looks differ (0 to about 18)."""
    differs = np.not_equal(one.codes(), other.codes())
    return float((differs * _PROMINENCE).sum())


def draw_distinct_looks(
    count: int, rng: np.random.Generator, *, apart: float = 8.5, avoid: Sequence[Look] = ()
) -> list[Look]:
    """Looks that keep at least `apart` (see `look_distance`) from each other and from those in `avoid`."""
    chosen: list[Look] = []
    taken = np.array([look.codes() for look in avoid]).reshape(len(avoid), len(LOOK_CHOICES))
    attempts = 0
    while len(chosen) < count:
        attempts += 1
        if attempts > 1000 * count:
            raise ValueError(f"{count} looks do not fit {apart} apart")
        look = draw_look(rng)
        if ((taken != look.codes()) @ _PROMINENCE >= apart).all():
            chosen.append(look)
            taken = np.vstack([taken, look.codes()])
    return chosen


assert tuple(LOOK_CHOICES) == tuple(field.name for field in fields(Look))
