"""What a run says of itself: its document, and the record that it leaves beside the weights.

Of both, the part that is read back; what else they hold may change without notice.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class SetRecord(BaseModel, frozen=True):
    """A set of images, by numbers and salted digest."""

    pictures: int
    subjects: int
    digest: str


class LayerRecord(BaseModel, frozen=True):
    """How many elements of a layer the saliency mask selected."""

    layer: str
    elements: int
    selected: int


class StopRecord(BaseModel, frozen=True):
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


class WrittenState(BaseModel, frozen=True):
    """Which verdict the written weights belong to, by its place in the list."""

    index: int = Field(ge=0)
    reason: str


class DecoderGate(BaseModel, frozen=True):
    """Whether a decoder pass kept its bounds."""

    met: bool
    missed: tuple[str, ...] = ()


class DecoderRecord(BaseModel, frozen=True):
    """A decoder pass, which edits the language model knowingly."""

    selected_elements: int | None = None
    gate: DecoderGate | None = None


class LanguageRecord(BaseModel, frozen=True):
    """The weights of the language model that a method other than VKD was allowed to change."""

    selected_elements: int


class PlanRecord(BaseModel, frozen=True):
    """The part of a plan that the report tells."""

    model_type: str
    device: str
    dtype: str
    tower_parameters: int
    projector_parameters: int


class WriteRecord(BaseModel, frozen=True):
    """The files and elements that were written."""

    tensors_changed: int
    elements_changed: int
    bytes_changed: int
    weights_digest: str


class TowerDocument(BaseModel, frozen=True):
    """What `vkdsurgeon unlearn --json` says of one tower."""

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


class UnlearnDocument(TowerDocument, frozen=True):
    """The document of `vkdsurgeon unlearn --json`."""

    # Of the vision tower, where this document is of the audio tower in the same run.
    image_pass: TowerDocument | None = None


class RequestRecord(BaseModel, frozen=True):
    """What asked for a run; None where nobody said."""

    id: str | None = None
    date: str | None = None


class HubRecord(BaseModel, frozen=True):
    """Which model of the hub a base was, by its name and the commit."""

    id: str
    revision: str

    @property
    def package_url(self) -> str:
        """The same as a purl, the form that bills of materials name packages in."""
        return f"pkg:huggingface/{self.id}@{self.revision}"


class BaseRecord(BaseModel, frozen=True):
    """What a run started from: the digest of its weights, and of every file that was copied."""

    weights_digest: str
    files: dict[str, str]
    # None for a base that did not lie in the local cache of the hub.
    hub: HubRecord | None = None


class ReplayRecord(SetRecord, frozen=True):
    """What earlier requests kept of images that this run forgot again."""


class EarlierRun(BaseModel, frozen=True):
    """A run before this one, by its record in the base and that file's SHA-256."""

    record: str
    digest: str
    weights_digest: str | None = None
    request: RequestRecord | None = None


class ProvenanceDocument(BaseModel, frozen=True):
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
