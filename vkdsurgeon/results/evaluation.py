"""The result of a measurement as a document; version it when a field changes its meaning."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import check_folder, write_whole
from vkdsurgeon.results.document import Document
from vkdsurgeon.results.judged import Judged

SCHEMA_VERSION = 1
Direction = Literal["lower", "higher", "none"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Document):
    """One measured number.

    Attributes:
        id: What gates refer to: `[model.]set.group.metric`.
        value: The mean over `n` records; None where it could not be measured.
        n: Number of records.
        direction: Which values are better: `lower`, `higher`, or `none`.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of the 95 % confidence interval.
        interval: Method of the interval.
        chance: Expected value for guessing among the options; None without options.
        unit: Unit that was resampled as a whole for the interval, because records of one unit are not independent.
        clusters: Number of these units.
    """

    id: str
    value: float | None
    n: int
    direction: Direction
    low: float | None = None
    high: float | None = None
    # Earlier versions wrote "paired normal", over single questions.
    interval: Literal["wilson", "bootstrap", "paired bootstrap", "paired normal", "hierarchical bootstrap"] | None = (
        None
    )
    chance: float | None = None
    unit: Literal["subject", "picture", "question"] | None = None
    clusters: int | None = None


class SubjectResult(_Document):
    """Results of one subject, under a number instead of a name unless examples were asked for."""

    set: str
    subject: str
    n: int
    values: dict[str, float | None]


class Example(_Document):
    """One question and the answers to it; written only when asked for."""

    set: str
    model: str
    subject: str | None
    task: str
    question: str
    answer: str
    said: str
    values: dict[str, float | None]


class SetFacts(_Document):
    """A set as a result describes it: never names of people, never its path."""

    name: str
    records: int
    asked: int
    pictures: int
    subjects: int
    digest: str


class ModelFacts(_Document):
    """The model that was measured."""

    role: Literal["model", "reference", "gold"]
    model_type: str
    weights_digest: str
    dtype: str


class Settings(_Document):
    """All settings that the numbers depend on, besides models and data.

    `suite` is the benchmark and its split; `few_shot` counts demonstrations before a question.
    """

    device: str
    batch_size: int
    length_normalised: bool
    max_new_tokens: int
    limit: int | None
    seed: int
    prompt_format: str
    suite: str = "jsonl"
    few_shot: int = 0


class GateOutcome(_Document):
    """One gate: the bound, the value and the outcome."""

    gate: str
    metric: str
    value: float | None
    bound: float | None
    passed: bool

    @property
    def failure(self) -> str:
        """Why the gate failed, in words."""
        measured = "could not be measured" if self.value is None else f"is {self.value:.4f}"
        bound = "" if self.bound is None else f" (bound {self.bound:.4f})"
        return f"{self.gate}: {self.metric} {measured}{bound}"


class Gated(Judged):
    """A result with the outcome of its gates in `gates`."""

    if TYPE_CHECKING:

        @property
        def gates(self) -> Sequence[GateOutcome]:
            """The outcome of each gate, in the order they were given."""

    @property
    def failures(self) -> list[str]:
        """One sentence per gate that failed."""
        return [gate.failure for gate in self.gates if not gate.passed]


class Measured(Gated):
    """A result with `metrics`, which are found by their ids."""

    if TYPE_CHECKING:

        @property
        def metrics(self) -> Sequence[Metric]:
            """All measured metrics."""

    def metric(self, name: str) -> Metric:
        """One metric with its interval, chance level and number of records.

        Args:
            name: Its id, such as `forget.vqa.accuracy` or `gold.relearn.ag`.

        Raises:
            UserError: The metric was not measured.
        """
        found = {metric.id: metric for metric in self.metrics}
        if name not in found:
            near = difflib.get_close_matches(name, found, n=3)
            raise UserError(
                "this metric was not measured",
                where="metric",
                value=name,
                expected=f"one of {', '.join(near or list(found)[:3])}" + ("" if near else " ..."),
            )
        return found[name]

    def value(self, name: str) -> float | None:
        """The value of one metric; None where it could not be measured.

        Raises:
            UserError: As `metric`.
        """
        return self.metric(name).value


class EvalResult(Measured, Document):
    """The result of `vkdsurgeon eval`."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["evaluation"] = "evaluation"
    models: list[ModelFacts]
    sets: list[SetFacts]
    settings: Settings
    metrics: list[Metric]
    subjects: list[SubjectResult]
    gates: list[GateOutcome]
    warnings: list[str]
    examples: list[Example] = Field(default_factory=list)
    versions: dict[str, str]
    seconds: float


_KINDS = re.compile(
    r"evaluation|aggregate|attack\.(relearn|restore|probe|quantize|perturb|prompt|typography|membership)"
)


def check_writable(path: Path) -> None:
    """Refuse, before hours of work, a place where a result cannot or must not be written.

    Raises:
        UserError: The folder does not exist or is not writable, or something is there that is no earlier result.
    """
    check_folder(_behind_links(path))
    if path.exists() and not _is_result(path):
        raise UserError(
            "the output file exists and is not an earlier result",
            where=path,
            expected="a new file, or a result that may be replaced",
            remedy="choose another file; only results are overwritten",
        )


def _is_result(path: Path) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return (
        isinstance(document, dict)
        and type(document.get("schema_version")) is int
        and isinstance(document.get("kind"), str)
        and _KINDS.fullmatch(document["kind"]) is not None
        and all(isinstance(document.get(key), list) for key in ("models", "metrics"))
    )


def write_document(path: Path, document: BaseModel) -> None:
    """Write a result whole or not at all; a link stays a link, and what it leads to is replaced."""
    text = json.dumps(document.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(_behind_links(path), text + "\n")


def _behind_links(path: Path) -> Path:
    if not path.is_symlink():
        return path
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise UserError("the output is a link that leads to itself", where=path, remedy="name another file")
    return place
