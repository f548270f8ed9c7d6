"""The documents about one model, and the refusal to mix several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vkdsurgeon.errors import UserError
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.comparison import ComparisonResult
from vkdsurgeon.results.comparison_columns import BASE, GOLD
from vkdsurgeon.results.diff_document import DiffDocument
from vkdsurgeon.results.evaluation import EvalResult
from vkdsurgeon.results.read import Document, Source
from vkdsurgeon.results.run_record import ProvenanceDocument, UnlearnDocument

Kind = TypeVar("Kind", bound=Document)
_ROLES = {"model": "the model", "reference": "the base", "gold": "gold"}


@dataclass(frozen=True)
class Case:
    """Everything that is known about one patched model.

    Attributes:
        evaluations: What `eval` measured, in the order given.
        attacks: What `attack` measured, in the order given.
        unlearn: The run that made it.
        provenance: The record beside its weights.
        diff: How it differs from the base.
        comparison: How other methods do on the same case.
        weights: Role (`model`, `reference`, `gold`) -> digest of its weights.
        digests: Kind and SHA-256 of each document, in the order given.
    """

    evaluations: tuple[EvalResult, ...]
    attacks: tuple[AttackDocument, ...]
    unlearn: UnlearnDocument | None
    provenance: ProvenanceDocument | None
    diff: DiffDocument | None
    comparison: ComparisonResult | None
    weights: dict[str, str]
    digests: tuple[tuple[str, str], ...]

    @property
    def decoder_pass(self) -> bool:
        """Whether a decoder pass edited the language model."""
        return any(each is not None and each.decoder is not None for each in (self.unlearn, self.provenance))

    @property
    def other_method(self) -> bool:
        """Whether a method other than VKD edited the language model."""
        return self.provenance is not None and self.provenance.language is not None


def gather(sources: Sequence[Source]) -> Case:
    """Sort the documents into one case and check that they are about the same model.

    Args:
        sources: Read documents; the same bytes twice count once.

    Raises:
        UserError: There are no documents, they are about different models, bases or golds, or two are about the same
            thing.
    """
    if not sources:
        raise UserError("no documents to report on", expected="one or more JSON documents")
    distinct = list({source.digest: source for source in sources}.values())
    return Case(
        evaluations=tuple(_of(distinct, EvalResult)),
        attacks=tuple(_of(distinct, AttackDocument)),
        unlearn=_single(distinct, UnlearnDocument),
        provenance=_single(distinct, ProvenanceDocument),
        diff=_single(distinct, DiffDocument),
        comparison=_single(distinct, ComparisonResult),
        weights=_one_model(distinct),
        digests=tuple((_kind(source.document), source.digest) for source in distinct),
    )


def weights_of(document: Document) -> dict[str, str]:
    """Role -> digest of the weights that a document is about."""
    if isinstance(document, (EvalResult, AttackDocument)):
        return {facts.role: facts.weights_digest for facts in document.models}
    if isinstance(document, ComparisonResult):
        roles = {BASE: "reference", GOLD: "gold"}
        return {roles[cell.name]: cell.weights_digest for cell in document.cells if cell.name in roles}
    if isinstance(document, UnlearnDocument):
        return {"model": document.written.weights_digest}
    if isinstance(document, DiffDocument):
        return {"model": document.patched_weights_digest, "reference": document.base_weights_digest}
    return {"model": document.weights_digest}


def _one_model(sources: Iterable[Source]) -> dict[str, str]:
    first: dict[str, tuple[str, Source]] = {}
    for source in sources:
        for role, digest in weights_of(source.document).items():
            known, origin = first.setdefault(role, (digest, source))
            if known != digest:
                raise UserError(
                    f"these results are about different models: {_ROLES[role]} has other weights than in {origin.path}",
                    where=source.path,
                    value=f"weights {digest[:12]}",
                    expected=f"weights {known[:12]}",
                    remedy="make one report per model, each against one base and one gold",
                )
    return {role: digest for role, (digest, _) in first.items()}


def _of(sources: Iterable[Source], kind: type[Kind]) -> list[Kind]:
    return [source.document for source in sources if isinstance(source.document, kind)]


def _single(sources: Iterable[Source], kind: type[Kind]) -> Kind | None:
    found = [source for source in sources if isinstance(source.document, kind)]
    if len(found) > 1:
        raise UserError(
            f"two results contradict each other: this one and {found[0].path}",
            where=found[1].path,
            remedy="give only the one that belongs to this model",
        )
    return found[0].document if found else None  # type: ignore[return-value]


def _kind(document: Document) -> str:
    if isinstance(document, (EvalResult, AttackDocument, ComparisonResult)):
        return document.kind
    return document.schema_.split("/")[1]
