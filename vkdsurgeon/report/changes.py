"""What may move, what moved, and what is proved identical."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.report.evidence import Case
from vkdsurgeon.report.figures import Density, draw_density
from vkdsurgeon.report.text import Wording, count, percent
from vkdsurgeon.results.diff_document import DiffDocument

_PARTS = {
    "tower": "vision tower",
    "projector": "projector",
    "language": "language model",
    "other": "outside the model",
    "unknown": "not told apart",
}


@dataclass(frozen=True)
class PartRow:
    """Differing tensors of one part of the model."""

    part: str
    tensors: int
    changed: int
    elements: int

    @property
    def share(self) -> str:
        """Changed share of the elements of these tensors, in percent."""
        return percent(self.changed / max(self.elements, 1))


@dataclass(frozen=True)
class Alteration:
    """What unlearning changed in the checkpoint.

    Attributes:
        sentences: In words.
        parts: Per part of the model; empty without a diff.
        mask: Density per layer; None where it is not told.
        mask_rule: How the mask was chosen.
    """

    sentences: tuple[str, ...]
    parts: tuple[PartRow, ...]
    mask: Density | None
    mask_rule: str


def describe(case: Case, wording: Wording) -> Alteration | None:
    """Tell what changed; None where no document does."""
    run = case.unlearn or case.provenance
    if run is None and case.diff is None:
        return None
    layers = run.layers if run else []
    return Alteration(
        sentences=tuple(_sentences(case)),
        parts=tuple(_parts(case.diff, wording)) if case.diff else (),
        mask=draw_density([(wording(each.layer), each.elements, each.selected) for each in layers]) if layers else None,
        mask_rule=_rule(case, wording) if layers else "",
    )


def contradictions(case: Case) -> list[str]:
    """Sentences about documents that contradict each other."""
    found = []
    if case.diff is not None:
        if case.diff.language_identical is False and not case.decoder_pass and not case.other_method:
            found.append("The language model differs from the base, and no decoder pass is on record.")
        if case.diff.undeclared and (case.decoder_pass or case.other_method):
            tensors = count(len(case.diff.undeclared), "tensor")
            whose = "decoder pass’s" if case.decoder_pass else "method’s"
            found.append(f"{tensors} outside tower and projector differ beyond what the {whose} record says.")
        if case.unlearn is not None and case.diff.elements_changed != case.unlearn.written.elements_changed:
            found.append(
                f"The run says it changed {case.unlearn.written.elements_changed:,} elements; "
                f"{case.diff.elements_changed:,} differ from this base: another one, or several runs."
            )
    if case.unlearn is not None and case.provenance is not None and case.unlearn.salt != case.provenance.salt:
        found.append("The run and the record beside the weights are of different runs.")
    return found


def _sentences(case: Case) -> list[str]:
    found = []
    if case.diff is not None:
        diff = case.diff
        found.append(
            f"{diff.elements_changed:,} of {diff.elements_compared:,} elements differ from the base, in "
            f"{diff.tensors_changed:,} of {count(diff.tensors_compared, 'tensor')}; every other element is identical."
        )
        found += _outside(diff, "decoder pass" if case.decoder_pass else "method" if case.other_method else None)
        if diff.tensors_missing or diff.tensors_added:
            missing, added = count(len(diff.tensors_missing), "tensor"), f"{len(diff.tensors_added):,}"
            found.append(f"{missing} of the base are missing, {added} were added.")
        found.append(_files(diff))
    elif case.unlearn is not None:
        written = case.unlearn.written
        found.append(
            f"{count(written.elements_changed, 'element')} in {count(written.tensors_changed, 'tensor')} changed "
            f"({count(written.bytes_changed, 'byte')}). The writer compared the rest with the original and found it "
            "identical, byte for byte."
        )
    if case.decoder_pass:
        run = next(each for each in (case.unlearn, case.provenance) if each is not None and each.decoder is not None)
        selected = run.decoder.selected_elements if run.decoder else None
        several = "Elements" if selected is None else count(selected, "element")
        found.append(f"{several} of the language model were allowed to move as well, by a decoder pass.")
    if case.provenance is not None and case.provenance.language is not None:
        several = count(case.provenance.language.selected_elements, "element")
        found.append(f"{several} of the language model were allowed to move, by the method on record.")
    return found


def _outside(diff: DiffDocument, declared_by: str | None) -> list[str]:
    if diff.language_identical is None:
        return ["Which of them belong to the language model could not be told for this architecture."]
    if diff.language_identical:
        return [
            "Everything outside vision tower and projector is identical, byte for byte: text is read as before, "
            "because nothing that reads it changed."
        ]
    if declared_by is not None and diff.undeclared == []:
        return [f"What differs in the language model is what the record of the {declared_by} names, and no more."]
    return ["Tensors outside vision tower and projector differ."]


def _files(diff: DiffDocument) -> str:
    states = list(diff.files.values())
    same, changed, extra, missing = (states.count(state) for state in ("identical", "changed", "extra", "missing"))
    text = f"Files: {same:,} identical, {changed:,} changed"
    text += f", {extra:,} added" if extra else ""
    text += f", {missing:,} missing" if missing else ""
    return text + "."


def _parts(diff: DiffDocument, wording: Wording) -> list[PartRow]:
    rows: dict[str, PartRow] = {}
    for tensor in diff.changed:
        part = _PARTS.get(tensor.part, wording(tensor.part))
        before = rows.get(part, PartRow(part, 0, 0, 0))
        rows[part] = PartRow(
            part, before.tensors + 1, before.changed + tensor.changed, before.elements + tensor.elements
        )
    return list(rows.values())


def _rule(case: Case, wording: Wording) -> str:
    run = case.unlearn or case.provenance
    assert run is not None
    rule = {
        "forget_gradient": "by the size of the forget loss’s gradient",
        "random": "at random (the control)",
    }.get(str(run.recipe.get("saliency")))
    unit = {"element": "single weights", "row": "whole rows", "tensor": "whole tensors", "layer": "whole layers"}.get(
        str(run.recipe.get("granularity"))
    )
    selected, total = sum(each.selected for each in run.layers), sum(each.elements for each in run.layers)
    told = f"The saliency mask let {selected:,} of {total:,} visual weights move"
    told += f": {unit}, chosen {rule}" if rule and unit else ""
    return wording(told) + "."
