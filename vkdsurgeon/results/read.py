"""Documents of vkdsurgeon, read back: recognised by what they say they are, never by their name."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import first_problem
from vkdsurgeon.results.comparison import ComparisonResult
from vkdsurgeon.results.evaluation import SCHEMA_VERSION, EvalResult, GateOutcome, Metric, ModelFacts, SetFacts
from vkdsurgeon.results.relearn import CurvePoint, Recovery, RelearnCase, RelearnSettings

# Results hold no images; what is larger than this is no result.
_MOST_BYTES = 64 << 20


class _Outside(BaseModel):
    # What a report does not show may change without notice.
    model_config = ConfigDict(extra="ignore", frozen=True)


class SetRecord(_Outside):
    """A set of images, by numbers and salted digest."""

    pictures: int
    subjects: int
    digest: str


class LayerRecord(_Outside):
    """How many elements of a layer the saliency mask selected."""

    layer: str
    elements: int
    selected: int


class StopRecord(_Outside):
    """One verdict of the stop rule."""

    forget_ratio: float
    retain_drift: float
    met: bool
    pictures: tuple[int, int]
    held_out: tuple[bool, bool]
    # Runs before 0.2 did not read identities.
    own: int | None = None
    base_own: int | None = None
    own_allowed: int | None = None
    agree: int | None = None
    agree_needed: int | None = None


class WrittenState(_Outside):
    """Which verdict the written weights belong to, by its place in the list."""

    index: int = Field(ge=0)
    reason: str


class DecoderGate(_Outside):
    """Whether a decoder pass kept its bounds."""

    met: bool
    missed: tuple[str, ...] = ()


class DecoderRecord(_Outside):
    """A decoder pass, which edits the language model knowingly."""

    selected_elements: int | None = None
    gate: DecoderGate | None = None


class LanguageRecord(_Outside):
    """The weights of the language model that a method other than VKD was allowed to change."""

    selected_elements: int


class PlanRecord(_Outside):
    """The part of a plan that the report tells."""

    model_type: str
    device: str
    dtype: str
    tower_parameters: int
    projector_parameters: int


class WriteRecord(_Outside):
    """The files and elements that were written."""

    tensors_changed: int
    elements_changed: int
    bytes_changed: int
    weights_digest: str


class UnlearnDocument(_Outside):
    """The document of `vkdsurgeon unlearn --json`."""

    schema_: Literal["vkdsurgeon/unlearn/1"] = Field(alias="schema")
    dry_run: Literal[False]
    seed: int
    versions: dict[str, str]
    sets: dict[str, SetRecord]
    salt: str
    plan: PlanRecord
    recipe: dict[str, Any]
    layers: list[LayerRecord]
    stop_rule: list[StopRecord]
    stop_rule_written: WrittenState | None = None
    decoder: DecoderRecord | None = None
    written: WriteRecord
    seconds: dict[str, float]


class RequestRecord(_Outside):
    """What asked for a run; None where nobody said."""

    id: str | None = None
    date: str | None = None


class HubRecord(_Outside):
    """Which model of the hub a base was, by its name and the commit."""

    id: str
    revision: str

    @property
    def package_url(self) -> str:
        """The same as a purl, the form that bills of materials name packages in."""
        return f"pkg:huggingface/{self.id}@{self.revision}"


class BaseRecord(_Outside):
    """What a run started from: the digest of its weights, and of every file that was copied."""

    weights_digest: str
    files: dict[str, str]
    # None for a base that did not lie in the local cache of the hub.
    hub: HubRecord | None = None


class ReplayRecord(_Outside):
    """What earlier requests kept of images that this run forgot again."""

    pictures: int
    subjects: int
    digest: str


class EarlierRun(_Outside):
    """A run before this one, by its record in the base and that file's SHA-256."""

    record: str
    digest: str
    weights_digest: str | None = None
    request: RequestRecord | None = None


class ProvenanceDocument(_Outside):
    """`vkdsurgeon.json` beside patched weights."""

    schema_: Literal["vkdsurgeon/provenance/1"] = Field(alias="schema")
    weights_digest: str
    method: str
    model_type: str
    # Records before 0.2 are all of images.
    modality: Literal["image", "audio"] = "image"
    recipe: dict[str, Any]
    seed: int
    device: str
    dtype: str
    sets: dict[str, SetRecord]
    salt: str
    layers: list[LayerRecord]
    stop_rule: list[StopRecord]
    stop_rule_written: WrittenState | None = None
    decoder: DecoderRecord | None = None
    language: LanguageRecord | None = None
    versions: dict[str, str]
    # Records before 0.2 name neither base nor request.
    base: BaseRecord | None = None
    changed_files: dict[str, str] = {}
    earlier_runs: list[EarlierRun] = []
    request: RequestRecord = RequestRecord()
    environment: dict[str, Any] = {}
    tensors_with_selected_elements: list[str] = []
    selected_elements: int | None = None
    left_out: list[str] = []
    linked_files: list[str] = []
    replay: ReplayRecord | None = None


class TensorRecord(_Outside):
    """One tensor that differs."""

    part: str
    elements: int
    changed: int


class DiffDocument(_Outside):
    """The document of `vkdsurgeon diff --json`."""

    schema_: Literal["vkdsurgeon/diff/1"] = Field(alias="schema")
    base_weights_digest: str
    patched_weights_digest: str
    identical: bool
    language_identical: bool | None
    tensors_compared: int
    tensors_changed: int
    elements_compared: int
    elements_changed: int
    changed: list[TensorRecord]
    tensors_missing: list[str]
    tensors_added: list[str]
    files: dict[str, str]
    undeclared: list[str] | None = None


class AttackDocument(_Outside):
    """The document of any `vkdsurgeon attack`: metrics before and after, beside gold where there is one."""

    schema_version: int
    kind: str
    models: list[ModelFacts]
    sets: list[SetFacts]
    settings: dict[str, Any]
    metrics: list[Metric]
    curve: list[CurvePoint] = []
    recovery: list[Recovery] = []
    cases: list[RelearnCase] = []
    diverged: bool = False
    plan_digest: str | None = None
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float

    @model_validator(mode="after")
    def _relearning_says_how(self) -> AttackDocument:
        if self.attack == "relearn" and not self.cases:
            RelearnSettings.model_validate(self.settings)
        return self

    @property
    def attack(self) -> str:
        """Name of the attack, which starts its metric ids."""
        return self.kind.removeprefix("attack.")

    @property
    def parts(self) -> list[AttackDocument]:
        """The attacks that the document tells of, each as if it were told alone."""
        if not self.cases:
            return [self]
        parts = []
        for case in self.cases:
            own, plain = f"{self.attack}.{case.id}.", f"{self.attack}."
            metrics = [
                metric.model_copy(update={"id": metric.id.replace(own, plain, 1)})
                for metric in self.metrics
                if metric.id.startswith(own) or metric.id.partition(".")[2].startswith(own)
            ]
            alone = {
                "settings": case.settings.model_dump(),
                "metrics": metrics,
                "curve": case.curve,
                "recovery": case.recovery,
                "diverged": case.diverged,
                "cases": [],
            }
            parts.append(self.model_copy(update=alone))
        return parts


Document: TypeAlias = (
    EvalResult | AttackDocument | ComparisonResult | UnlearnDocument | ProvenanceDocument | DiffDocument
)

_BY_SCHEMA: dict[str, type[BaseModel]] = {
    "vkdsurgeon/unlearn/1": UnlearnDocument,
    "vkdsurgeon/provenance/1": ProvenanceDocument,
    "vkdsurgeon/diff/1": DiffDocument,
}
_BY_KIND: dict[str, type[BaseModel]] = {"evaluation": EvalResult, "comparison": ComparisonResult}
_EXPECTED = (
    "what `unlearn --json`, `eval`, `attack`, `compare` or `diff --json` wrote, or the vkdsurgeon.json of a patched "
    "model"
)


@dataclass(frozen=True)
class Source:
    """One file and what it says.

    Attributes:
        path: Where it was read from; for messages to the user only, never for the report.
        digest: SHA-256 of its bytes, in hex.
        document: What it says.
    """

    path: Path
    digest: str
    document: Document


def read_source(path: Path) -> Source:
    """Read one document.

    Raises:
        UserError: It cannot be read, is not JSON, is nothing of ours, of another version, or broken.
    """
    return parse_source(_read(path), path)


def parse_source(content: bytes, path: Path) -> Source:
    """Recognise one document.

    Args:
        content: Its bytes.
        path: Where it comes from, for messages.

    Raises:
        UserError: As `read_source`.
    """
    try:
        found = json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        remedy = "run the command again: what it printed was cut or mixed with something else"
        raise UserError(f"not a JSON document: {error}", where=path, expected=_EXPECTED, remedy=remedy) from error
    kind = _kind_of(found, path)
    try:
        document = kind.model_validate(found)
    except ValidationError as error:
        raise _broken(path, found, error) from error
    assert isinstance(document, Document)
    return Source(path, hashlib.sha256(content).hexdigest(), document)


def _read(path: Path) -> bytes:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is no regular file"
        raise UserError(f"the document {problem}", where=path, expected=_EXPECTED)
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise UserError("too large for a result", where=path, expected=f"at most {_MOST_BYTES >> 20} MiB")
    return content


def _kind_of(found: object, path: Path) -> type[BaseModel]:
    if not isinstance(found, dict):
        raise UserError("not a document of vkdsurgeon", where=path, value=type(found).__name__, expected=_EXPECTED)
    if isinstance(found.get("error"), dict):
        told = str(found["error"].get("what", "it does not say why"))
        raise UserError(
            f"this is the output of a command that failed: {told}", where=path, remedy="run that command again"
        )
    schema, kind = found.get("schema"), found.get("kind")
    if isinstance(schema, str) and "schema_version" not in found:
        if schema in _BY_SCHEMA:
            if found.get("dry_run") is True:
                raise UserError("a dry run has nothing to report", where=path, remedy="unlearn without --dry-run")
            return _BY_SCHEMA[schema]
        raise UserError("a report cannot contain this kind of result", where=path, value=schema, expected=_EXPECTED)
    if isinstance(kind, str) and (kind in _BY_KIND or kind.startswith("attack.")):
        if found.get("schema_version") != SCHEMA_VERSION:
            raise UserError(
                "the document is of another version",
                where=path,
                value=found.get("schema_version"),
                expected=f"schema_version {SCHEMA_VERSION}",
                remedy="measure again with this version of vkdsurgeon",
            )
        return _BY_KIND.get(kind, AttackDocument)
    ours = isinstance(schema, str) and schema.startswith("vkdsurgeon/")
    problem = "this document is not read here" if ours else "not a document of vkdsurgeon"
    raise UserError(problem, where=path, value=schema or kind, expected=_EXPECTED)


def _broken(path: Path, found: Mapping[str, Any], error: ValidationError) -> UserError:
    return UserError(
        f"broken {found.get('schema') or found.get('kind')} document: {first_problem(error)}",
        where=path,
        expected=_EXPECTED,
        remedy="run the command again with this version of vkdsurgeon",
    )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value
