"""All that a report says, before it is HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import vkdsurgeon
from vkdsurgeon.report.attacks import Attack, arrange, tone_of
from vkdsurgeon.report.changes import Alteration, contradictions, describe
from vkdsurgeon.report.evidence import Case
from vkdsurgeon.report.limits import Limit, limits_of
from vkdsurgeon.report.methods_table import Field, line_up
from vkdsurgeon.report.metrics_table import Comparison, Row, compare
from vkdsurgeon.report.provenance import Origins, trace
from vkdsurgeon.report.text import Wording, names_in, percent, points, short
from vkdsurgeon.report.verdict import Verdict, attack_title, judge
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.evaluation import EvalResult

_TITLE = "visual unlearning report"
# A page is read by people; the document holds the rest.
_EXAMPLES_PER_SET = 60


@dataclass(frozen=True)
class Highlight:
    """One number that a reader should leave with."""

    label: str
    value: str
    unit: str
    context: str
    tone: str = ""


@dataclass(frozen=True)
class ExampleRow:
    """One question and what each model said."""

    subject: str
    question: str
    answer: str
    said: dict[str, str]


@dataclass(frozen=True)
class ExampleTable:
    """Questions of one set; `left_out` is how many more there are."""

    set_name: str
    columns: tuple[str, ...]
    rows: tuple[ExampleRow, ...]
    left_out: int


@dataclass(frozen=True)
class SignOff:
    """The sign-off block; what is not given is left to be filled in by hand.

    Attributes:
        product: What the model is released as.
        date: The date of the report: given, so that equal documents make equal reports.
        request: What the unlearning was asked for by, such as the number of a ticket.
        approver: Who signs.
    """

    product: str = ""
    date: str = ""
    request: str = ""
    approver: str = ""


@dataclass(frozen=True)
class Page:
    """Everything that the report's templates show."""

    title: str
    subtitle: str
    verdict: Verdict
    highlights: tuple[Highlight, ...]
    warnings: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    attacks: tuple[Attack, ...]
    field: Field | None
    alteration: Alteration | None
    examples: tuple[ExampleTable, ...]
    origins: Origins
    limits: tuple[Limit, ...]
    signing: tuple[tuple[str, str], ...]
    version: str


def compose(
    case: Case, *, title: str | None = None, sign_off: SignOff | None = None, include_examples: bool = False
) -> Page:
    """Say what the documents of a case amount to.

    Args:
        case: The documents.
        title: Heading of the report; otherwise made of the product, or of the kind of model.
        sign_off: What the block at the end says.
        include_examples: Show names, questions and answers where the documents hold them. Otherwise no text of a
            record is shown, and subjects that the documents name are taken out of names of tasks as well.
    """
    wording = Wording(None if include_examples else names_in(case.evaluations))
    comparisons = tuple(compare(result, wording, by_name=include_examples) for result in case.evaluations)
    attacks = tuple(arrange(part, wording) for document in case.attacks for part in document.parts)
    signing = sign_off or SignOff()
    return Page(
        title=wording(title or f"{signing.product or _kind(case)}: {_TITLE}"),
        subtitle=_subtitle(case, wording),
        verdict=judge(case, wording),
        highlights=tuple(_highlights(comparisons, attacks)),
        warnings=tuple(_warnings_of(case, wording)),
        comparisons=comparisons,
        attacks=attacks,
        field=line_up(case, wording),
        alteration=describe(case, wording),
        examples=tuple(_examples(case.evaluations, wording)) if include_examples else (),
        origins=trace(case, wording),
        limits=limits_of(case),
        signing=tuple(_signing(case, signing, wording)),
        version=vkdsurgeon.__version__,
    )


def _signing(case: Case, signing: SignOff, wording: Wording) -> list[tuple[str, str]]:
    weights = {"model": "Model, SHA-256 of its weights", "reference": "Base, SHA-256 of its weights"}
    rows = [("Model", signing.product or _kind(case))]
    rows += [(name, case.weights[role]) for role, name in weights.items() if role in case.weights]
    rows += [("Date", signing.date), ("Request", signing.request), ("Approved by", signing.approver)]
    return [(name, wording(value)) for name, value in [*rows, ("Signature", "")]]


def _subtitle(case: Case, wording: Wording) -> str:
    kind = wording(_kind(case))
    if "model" not in case.weights:
        return f"{kind}, methods compared"
    weights = f"{kind}, weights {short(case.weights['model'])}"
    return f"{weights}, unlearned with a decoder pass" if case.decoder_pass else weights


def _kind(case: Case) -> str:
    measured: list[EvalResult | AttackDocument] = [*case.evaluations, *case.attacks]
    kinds = [facts.model_type for document in measured for facts in document.models]
    kinds += [case.provenance.model_type] if case.provenance else []
    kinds += [case.unlearn.plan.model_type] if case.unlearn else []
    kinds += [case.comparison.model_type] if case.comparison else []
    return kinds[0] if kinds else "checkpoint"


def _highlights(comparisons: Sequence[Comparison], attacks: Sequence[Attack]) -> list[Highlight]:
    found = []
    tables = {table.name: table for comparison in reversed(comparisons) for table in comparison.tables}
    for name, label, direction in (
        ("forget", "Forget", "lower"),
        ("retain", "Retain", "higher"),
        ("text", "Text", "higher"),
    ):
        rows = tables[name].rows if name in tables else ()
        whole = (row for row in rows if row.depth == 0 and "model" in row.cells)
        row = next((row for row in whole if row.direction == direction), None)
        if row is not None:
            found.append(_highlight(label, row))
    # The attack that brought back most: the mildest one tells nothing about safety.
    risen = [(attack.rise, attack.title) for attack in attacks if attack.rise]
    if risen:
        rise, title = max(risen, key=lambda each: each[0].after - each[0].before)
        context = [f"before {percent(rise.before)}", *([] if rise.gold is None else [f"gold {percent(rise.gold)}"])]
        found.append(Highlight(f"{title}: {rise.name}", percent(rise.after), "%", ", ".join(context), rise.tone))
    gains = [(attack.gain[0], attack.gain[1], attack.title) for attack in attacks if attack.gain]
    known = [(mine, gold, title) for mine, gold, title in gains if mine is not None]
    if known:
        mine, gold, title = max(known, key=lambda each: each[0])
        context_of_gold, over = ("", None) if gold is None else (f"gold {points(gold)}", (mine - gold) / 100)
        found.append(Highlight(f"{title}, AG", points(mine), "points", context_of_gold, tone_of(mine / 100, over)))
    return found


def _highlight(label: str, row: Row) -> Highlight:
    cell = row.cells["model"]
    others = (("reference", "base"), ("gold", "gold"))
    context = [f"{name} {row.cells[role].text}" for role, name in others if role in row.cells]
    return Highlight(
        label if row.name.lower() == label.lower() else f"{label}: {row.name}",
        cell.text,
        "" if cell.value is None else "%",
        ", ".join(context),
    )


def _warnings_of(case: Case, wording: Wording) -> list[str]:
    found = contradictions(case)
    run = case.unlearn or case.provenance
    if run is not None and "retain" in run.sets and not run.sets["retain"].pictures:
        found.append("The run had no retain set; it kept what generic images show, which costs a few points.")
    told = [("Evaluation", text) for result in case.evaluations for text in result.warnings]
    told += [(attack_title(result), text) for result in case.attacks for text in result.warnings]
    told += [("Comparison", text) for text in (case.comparison.warnings if case.comparison else [])]
    found += [wording(f"{origin}: {text}.".replace("..", ".")) for origin, text in told]
    return list(dict.fromkeys(found))


def _examples(evaluations: Sequence[EvalResult], wording: Wording) -> list[ExampleTable]:
    tables = []
    for result in evaluations:
        for name in dict.fromkeys(example.set for example in result.examples):
            asked = {
                role: [example for example in result.examples if example.set == name and example.model == role]
                for role in ("reference", "model", "gold")
            }
            columns = tuple(role for role, examples in asked.items() if examples)
            count = min(len(asked[role]) for role in columns)
            rows = []
            for index in range(min(count, _EXAMPLES_PER_SET)):
                one = asked[columns[0]][index]
                said = {role: wording(asked[role][index].said) for role in columns}
                rows.append(ExampleRow(wording(one.subject or ""), wording(one.question), wording(one.answer), said))
            tables.append(ExampleTable(wording(name), columns, tuple(rows), count - len(rows)))
    return tables
