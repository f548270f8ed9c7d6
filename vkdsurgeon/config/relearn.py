"""Settings of the relearning attack. They can be saved as a protocol file, which repeats the same attack."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vkdsurgeon.config.yaml import read_mapping
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import check_folder, write_whole
from vkdsurgeon.files.problems import did_you_mean, first_problem

RelearnProtocol: TypeAlias = Literal["people", "pairs", "views", "benign", "unrelated"]
RelearnScope: TypeAlias = Literal["visual", "llm", "llm_full", "all"]


def _several(kind: Callable[[str], Any]) -> BeforeValidator:
    """Accept one value, a list of values, or a string of values separated by commas."""

    def listed(value: object) -> object:
        given = value.split(",") if isinstance(value, str) else value
        items = given if isinstance(given, (list, tuple)) else [given]
        return tuple(kind(item.strip()) if isinstance(item, str) else item for item in items)

    return BeforeValidator(listed)


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    # YAML takes 3e-4 for a word.
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Case:
    """One attack of a plan.

    Attributes:
        id: The part of metric ids that names this attack, such as `pairs.50`.
        protocol: What the attacker trains on; see `split_records`.
        fraction: Share of it that the attacker gets, from 0 to 1; see `split_records`.
        scope: The weights that the attacker may train.
        lr: Peak learning rate.
    """

    id: str
    protocol: RelearnProtocol
    fraction: float
    scope: RelearnScope
    lr: float


class RelearnPlan(BaseModel):
    """All settings of relearning attacks except models and data. Lists make one attack per combination of values.

    Raises:
        ValidationError: An unknown key, or a value out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    attack: Literal["relearn"] = Field(default="relearn", description="The attack that these settings belong to.")
    protocol: Annotated[tuple[RelearnProtocol, ...], _several(str)] = Field(
        default=("people",),
        min_length=1,
        description="What the attacker trains on: people, pairs, views, benign, unrelated.",
    )
    fraction: Annotated[tuple[Share, ...], _several(_number)] = Field(
        default=(0.5,),
        min_length=1,
        description="Share of it that the attacker gets: from 0 (a single one) to 1 (all).",
    )
    scope: Annotated[tuple[RelearnScope, ...], _several(str)] = Field(
        default=("visual",), min_length=1, description="What the attacker trains: visual, llm (LoRA), llm_full, all."
    )
    steps: Count = Field(default=15, description="Optimiser steps.")
    lr: Annotated[tuple[Rate, ...], _several(_number)] = Field(
        default=(3e-4,),
        min_length=1,
        description="Peak learning rate of AdamW, above 0 and at most 1. It decays linearly to zero.",
    )
    batch_size: Count = Field(default=32, description="Records per step.")
    rank: Count = Field(default=8, description="Rank of the LoRA matrices of scope llm.")
    seeds: Annotated[tuple[Seed, ...], _several(_whole_number)] = Field(
        default=(0,),
        min_length=1,
        description="Seeds for the split, the order and LoRA. Every attack runs once per seed.",
    )
    curve_every: Count | None = Field(default=None, description="Measure after every N-th step.")
    curve_steps: Annotated[tuple[Count, ...], _several(_whole_number)] | None = Field(
        default=None, description="Measure after these steps."
    )
    recover: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="Share of the knowledge above chance that counts as recovered."
    )
    limit: Count | None = Field(default=500, description="Largest number of questions that utility is measured on.")
    length_normalised: bool = Field(
        default=False, description="Divide an option's log-likelihood by its number of tokens."
    )
    max_new_tokens: Count = Field(default=64, description="Largest number of tokens of a generated answer.")
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32", description="Precision of weights and updates."
    )

    @model_validator(mode="before")
    @classmethod
    def _absent_steps(cls, value: Any) -> Any:
        # An absent list of steps would be read as a list of nothing.
        if isinstance(value, dict) and value.get("curve_steps", 0) is None:
            return {key: item for key, item in value.items() if key != "curve_steps"}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> RelearnPlan:
        for name in ("protocol", "fraction", "scope", "lr", "seeds"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} contains the same value twice")
        if self.curve_every is not None and self.curve_steps is not None:
            raise ValueError("curve_every and curve_steps cannot be combined; remove one of them")
        if self.curve_steps and max(self.curve_steps) > self.steps:
            raise ValueError(
                f"curve_steps contains step {max(self.curve_steps)}, but the attack has only {self.steps} steps"
            )
        ids = [case.id for case in self.cases]
        if len(set(ids)) != len(ids):
            raise ValueError("two values of fraction or lr are so close that their metric ids would be equal")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the settings in canonical JSON, in hex: equal for equal settings, however they were written."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def measured_steps(self) -> tuple[int, ...]:
        """Steps after which the curve is measured; the last one is always among them."""
        if self.curve_steps is not None:
            chosen = set(self.curve_steps)
        elif self.curve_every is not None:
            chosen = set(range(self.curve_every, self.steps, self.curve_every))
        else:
            chosen = {self.steps // 2} - {0}
        return tuple(sorted(chosen | {self.steps}))

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every combination; scope and step size stand in the ids only where there are several."""
        scopes, rates = len(self.scope) > 1, len(self.lr) > 1
        return tuple(
            Case(
                ".".join(
                    [
                        protocol,
                        _plain(f"{100 * fraction:g}"),
                        *([scope] if scopes else []),
                        *([f"lr{_plain(_scientific(lr))}"] if rates else []),
                    ]
                ),
                protocol,
                fraction,
                scope,
                lr,
            )
            for protocol, fraction, scope, lr in itertools.product(self.protocol, self.fraction, self.scope, self.lr)
        )


def make_plan(path: Path | None, overrides: dict[str, object]) -> RelearnPlan:
    """Read a protocol file, with single settings on top.

    Args:
        path: YAML or JSON; None for the defaults.
        overrides: Settings that override the file, by key.

    Raises:
        UserError: The file cannot be read, has an unknown key, or a value is out of range.
    """
    settings = {**(read_mapping(path, "attack protocol") if path else {}), **overrides}
    if "curve_every" in overrides or "curve_steps" in overrides:
        # The file may use the other of the two keys, and they cannot be combined.
        settings = {key: value for key, value in settings.items() if not key.startswith("curve_") or key in overrides}
    try:
        return RelearnPlan.model_validate(settings)
    except ValidationError as error:
        problem = first_problem(error)
        key = str(problem.path[0]) if problem.path else ""
        # Where the value came from: a flag wins over the file.
        place = "--" + key.replace("_", "-") if key in overrides else str(path) if path else "attack settings"
        if problem.unknown_key:
            raise UserError(
                f"unknown key {key!r} in the attack protocol",
                where=place,
                expected="one of " + ", ".join(RelearnPlan.model_fields),
                remedy=did_you_mean(key, RelearnPlan.model_fields),
            ) from None
        if not key:
            raise UserError(f"the settings contradict each other: {problem.message}", where=place) from None
        field = RelearnPlan.model_fields.get(key)
        raise UserError(
            problem.message if key in overrides else f"{key}: {problem.message}",
            where=place,
            value=problem.value,
            expected=field.description if field else None,
        ) from None


def check_saving(plan: RelearnPlan, path: Path) -> None:
    """Check, before the attack, that `save_plan` can write to a path.

    Raises:
        UserError: The file exists with other content, or cannot be written.
    """
    check_folder(path)
    if path.exists() and not (path.is_file() and path.read_bytes() == _written(plan, path).encode()):
        raise UserError(
            "the protocol file already exists with other content",
            where=path,
            remedy="choose another name, or remove the file; it is not overwritten",
        )


def save_plan(plan: RelearnPlan, path: Path) -> None:
    """Write the settings to a file that `make_plan` reads: JSON if its name ends in .json, else YAML.

    Raises:
        UserError: See `check_saving`.
    """
    check_saving(plan, path)
    if not path.exists():
        write_whole(path, _written(plan, path))


def _written(plan: RelearnPlan, path: Path) -> str:
    settings = plan.model_dump(mode="json")
    return (
        json.dumps(settings, indent=2) + "\n" if path.suffix == ".json" else yaml.safe_dump(settings, sort_keys=False)
    )


def _plain(text: str) -> str:
    return text.replace(".", "_").replace("+", "")


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.6e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
