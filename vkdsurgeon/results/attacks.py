"""What the attacks on features, weights, images, prompts and likelihoods found, as documents."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from vkdsurgeon.results.document import Document
from vkdsurgeon.results.evaluation import SCHEMA_VERSION, GateOutcome, Measured, Metric, ModelFacts, SetFacts

ProbeKind: TypeAlias = Literal["logistic", "ridge"]
Pooling: TypeAlias = Literal["mean", "tokens"]
WeightScope: TypeAlias = Literal["visual", "all"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AttackResult(Measured, Document):
    """The part that all attack results share.

    Metric ids are `[reference.|gold.]ATTACK.[retain.]ROW.GROUP.METRIC`: ROW is what was tried (`before` is the model as
    given), `retain.` marks utility.
    """

    schema_version: int = SCHEMA_VERSION
    kind: str
    models: list[ModelFacts]
    sets: list[SetFacts]
    metrics: list[Metric]
    gates: list[GateOutcome]
    warnings: list[str]
    versions: dict[str, str]
    seconds: float


class _Asking(_Document):
    """How questions were asked."""

    device: str
    seed: int
    limit: int | None
    batch_size: int
    length_normalised: bool
    max_new_tokens: int


class ProbeSettings(_Document):
    """The probe and what it was trained on."""

    probe: ProbeKind
    regularisation: float
    pooling: Pooling
    layers: list[str]
    splits: int
    tested_on: Literal["folds", "heldout"]
    forget_subjects: int
    forget_pictures: int
    retain_subjects: int
    retain_pictures: int
    limit: int | None
    device: str
    seed: int


class ProbeResult(AttackResult):
    """The result of `vkdsurgeon attack probe`, per tapped layer."""

    kind: Literal["attack.probe"] = "attack.probe"
    settings: ProbeSettings


class RoundTrip(_Document):
    """One number format.

    Attributes:
        format: `int8`, `int4` or `nf4`.
        group_size: Weights that share a scale; 0 for a whole output channel.
        weights: Number of weights that were quantised.
        scope_weights: Number of weights in the scope.
        relative_error: Sum of squared changes of the model's quantised weights over their sum of squares.
        vanished: Share of the visual weights that differ from the base's, but are rounded to the same value. None
            without a base of the same shapes, or if no weight differs.
    """

    format: str
    group_size: int
    weights: int
    scope_weights: int
    relative_error: float
    vanished: float | None


class QuantizeSettings(_Asking):
    """Which weights were quantised, and to which formats."""

    scope: WeightScope
    formats: list[RoundTrip]


class QuantizeResult(AttackResult):
    """The result of `vkdsurgeon attack quantize`, per number format."""

    kind: Literal["attack.quantize"] = "attack.quantize"
    settings: QuantizeSettings


class UniversalSettings(_Document):
    """Settings for training one perturbation of all images.

    Attributes:
        eps: Bound of the perturbation per channel and pixel, in 1/255 of the range from black to white.
        step_size: Size of one step, in the same unit.
        losses: Cross-entropy in nats per answer token over the steps, by model.
    """

    eps: float
    step_size: float
    steps: int
    batch_size: int
    records: int
    losses: dict[str, list[float]]


class PerturbSettings(_Asking):
    """How images were perturbed."""

    perturbations: list[str]
    universal: UniversalSettings | None
    measured_on: Literal["forget", "heldout"]


class PerturbResult(AttackResult):
    """The result of `vkdsurgeon attack perturb`, per perturbation."""

    kind: Literal["attack.perturb"] = "attack.perturb"
    settings: PerturbSettings


class TemplateFacts(_Document):
    """One template, without its text, which may contain a name.

    Attributes:
        name: Name of the template in metric ids.
        digest: Digest of its text and prefix; salted for a user's own.
        builtin: Whether it ships with the package.
        prefixed: Whether it makes the answer begin with given words.
        unknown: Share of its own tokens that the tokenizer does not know.
        asked: Whether it was used.
    """

    name: str
    digest: str
    builtin: bool
    prefixed: bool
    unknown: float
    asked: bool


class PromptSettings(_Asking):
    """The prompts that were tried."""

    templates: list[TemplateFacts]


class PromptResult(AttackResult):
    """The result of `vkdsurgeon attack prompt`, per template."""

    kind: Literal["attack.prompt"] = "attack.prompt"
    settings: PromptSettings


class TypographySettings(_Asking):
    """What was written into images.

    Attributes:
        percent: Height of the band that was written on, in percent of the image's shorter side.
        font: `Pillow` for the one that comes with it, `own` for a file of the user's.
        written: The rows.
    """

    percent: int
    font: Literal["Pillow", "own"]
    written: list[str]


class TypographyResult(AttackResult):
    """The result of `vkdsurgeon attack typography`, per text that was written."""

    kind: Literal["attack.typography"] = "attack.typography"
    settings: TypographySettings


class MembershipSettings(_Asking):
    """How membership was scored."""

    k_percent: float
    gradient: bool = False
    members: int
    nonmembers: int


class MembershipResult(AttackResult):
    """The result of `vkdsurgeon attack membership`, per score."""

    kind: Literal["attack.membership"] = "attack.membership"
    settings: MembershipSettings
