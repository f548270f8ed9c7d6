"""A patched checkpoint held against its record, its base, a candidate set and a signature."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.digest import Digests, checkpoint_digests
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.provenance import declared_language_changes, earlier_runs, record_names, set_digest
from vkdsurgeon.data.modality import NOUNS
from vkdsurgeon.data.read import Given, records_given
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.release.card import CARD, has_section
from vkdsurgeon.results.read import read_source
from vkdsurgeon.results.run_record import ProvenanceDocument
from vkdsurgeon.results.verification import VerifiedFact, VerifyResult
from vkdsurgeon.vision_pass.replay_format import replay_digest

Check = Literal["record", "files", "weights", "chain", "base", "unselected", "set", "replay", "signature"]


@dataclass(frozen=True)
class Signed:
    """A signature and what it is checked with.

    Attributes:
        signature: The file of `vkdsurgeon attest --sign`, or of any tool for OpenSSF model signing.
        public_key: The signer's, as PEM.
    """

    signature: Path
    public_key: Path


def verify_checkpoint(
    model: Path,
    *,
    base: Path | None = None,
    forget: Given | None = None,
    replay: Sequence[Path] = (),
    record: Path | None = None,
    signed: Signed | None = None,
) -> VerifyResult:
    """Check everything that can be checked with what is given.

    Every file is read once, with a base the weights a second time. A record is text: whoever can change the weights can
    change it, too. That it is the one that was released is told by `record`, kept elsewhere, or by a signature.

    Args:
        model: The patched checkpoint.
        base: What the run started from; or what an earlier run of the chain started from.
        forget: A set that may be the one that was forgotten.
        replay: Replay files that may be those of the run.
        record: The record of the release as it was kept; None for the newest one in the checkpoint.
        signed: A signature over the checkpoint.

    Raises:
        UserError: There is no record, it is none, or it is older than what it would have to say; the base is no
            checkpoint; or the set or the key cannot be read.
    """
    inventory = take_inventory(model)
    inside = _newest(inventory)
    path = record or inside
    if path is None:
        raise UserError(
            "this checkpoint has no record of a run",
            where=model,
            expected="vkdsurgeon.json, which every output of `unlearn` holds",
            remedy="give the record of the release with --record; without any there is nothing to verify against",
        )
    told = _read(path)
    found = checkpoint_digests(inventory)
    base_inventory = None if base is None else take_inventory(base)
    original = None if base_inventory is None else checkpoint_digests(base_inventory)
    runs = [told] if original is None else _runs_since(original, inventory, told)
    checks = [
        _same_record(inside, path),
        _files(inventory, found, told, inside or path),
        _weights(found, told),
        _chain(inventory, told, inside),
        _base(original, runs),
        _unselected(base_inventory, inventory, runs),
        _set(forget, told),
        *_replay(replay, told),
        _signature(model, signed),
    ]
    failed = any(each.outcome == "failed" for each in checks)
    return VerifyResult(
        model=str(model),
        record=str(path),
        verdict="failed" if failed else "passed",
        checks=checks,
        weights_digest=found.weights,
        base_weights_digest=None if told.base is None else told.base.weights_digest,
        request={"id": told.request.id, "date": told.request.date},
    )


def _newest(inventory: Inventory) -> Path | None:
    names = record_names(inventory)
    return inventory.root / names[-1] if names else None


def _read(path: Path) -> ProvenanceDocument:
    document = read_source(path).document
    if not isinstance(document, ProvenanceDocument):
        raise UserError("not the record of a run", where=path, expected="a vkdsurgeon.json")
    if document.base is None:
        raise UserError(
            "the record is from an earlier version, which did not store the base and the files",
            where=path,
            remedy="compare weights_digest and `diff` by hand, as its version documented",
        )
    return document


def _fact(check: Check, good: bool, told: str, otherwise: str, names: list[str] | tuple[str, ...] = ()) -> VerifiedFact:
    return VerifiedFact(
        check=check, outcome="passed" if good else "failed", told=told if good else otherwise, names=list(names)
    )


def _skipped(check: Check, why: str) -> VerifiedFact:
    return VerifiedFact(check=check, outcome="skipped", told=why)


def _same_record(inside: Path | None, path: Path) -> VerifiedFact:
    if path == inside:
        return VerifiedFact(
            check="record",
            outcome="passed",
            told="well-formed, but it lies beside the weights: whether it is the released one, only --record or "
            "--signature can show",
        )
    same = inside is not None and digest(inside) == digest(path)
    names = [] if same else [inside.name if inside else "vkdsurgeon.json"]
    otherwise = f"{', '.join(names)} in the checkpoint is not the record that was given"
    return _fact("record", same, "the checkpoint holds the given record", otherwise, names)


def _files(inventory: Inventory, found: Digests, told: ProvenanceDocument, own: Path) -> VerifiedFact:
    """Every file is the base's, or the changed one that the record names; the card that `attest` writes is free."""
    assert told.base is not None
    wanted: dict[str, str] = {**told.base.files, **told.changed_files}
    free = {own.name, CARD} if has_section(inventory.root) else {own.name}
    names = []
    for name in sorted((wanted.keys() | found.files.keys()) - free):
        if name not in found.files:
            names.append(f"{name} (missing)")
        elif name not in wanted:
            names.append(f"{name} (added)")
        elif wanted[name] != found.files[name]:
            names.append(f"{name} (changed)")
    return _fact(
        "files",
        not names,
        f"{len(wanted)} files are as the record names them" + (f"; {CARD} is a card, not compared" * (CARD in free)),
        f"{len(names)} file(s) are not as the record names them: {', '.join(names[:5])}",
        names,
    )


def _weights(found: Digests, told: ProvenanceDocument) -> VerifiedFact:
    same = hmac.compare_digest(found.weights, told.weights_digest)
    return _fact(
        "weights",
        same,
        "the digest of the weights is the record's",
        f"the weights have the digest {found.weights}, the record says {told.weights_digest}",
    )


def _chain(inventory: Inventory, told: ProvenanceDocument, inside: Path | None) -> VerifiedFact:
    """The records of earlier runs are there as they were, and each run began where the one before it ended."""
    assert told.base is not None
    own = inside.name if inside else None
    there = {each["record"]: each for each in earlier_runs(inventory) if each["record"] != own}
    names = []
    for run in told.earlier_runs:
        found = there.pop(run.record, None)
        if found is None or found["digest"] != run.digest:
            names.append(run.record)
    names += list(there)
    weights = told.earlier_runs[-1].weights_digest if told.earlier_runs else None
    broken = weights is not None and weights != told.base.weights_digest
    count = len(told.earlier_runs)
    otherwise = f"records of earlier runs are missing, added or changed: {', '.join(names)}"
    if not names:
        otherwise = "the last earlier run ended with other weights than this one began with"
    return _fact(
        "chain",
        not names and not broken,
        "no run came before this one" if not count else f"{count} earlier run(s), records unchanged and in a row",
        otherwise,
        names,
    )


def _runs_since(original: Digests, inventory: Inventory, told: ProvenanceDocument) -> list[ProvenanceDocument]:
    """The runs from the one that began with a base, oldest first; the last run alone where none did."""
    runs, first = [told], told
    for earlier in reversed(told.earlier_runs):
        try:
            found = read_source(inventory.root / earlier.record).document
        except UserError:
            break
        if not isinstance(found, ProvenanceDocument):
            break
        runs.insert(0, found)
        # The oldest that fits: a run may have left all weights as they were.
        if found.base is not None and found.base.weights_digest == original.weights:
            first = found
    return runs[runs.index(first) :]


def _base(found: Digests | None, runs: Sequence[ProvenanceDocument]) -> VerifiedFact:
    if found is None:
        return _skipped("base", "no --base given")
    base = runs[0].base
    assert base is not None
    names = [name for name, digest_ in base.files.items() if found.files.get(name) != digest_]
    good = not names and found.weights == base.weights_digest
    return _fact(
        "base",
        good,
        "it is the base that the record names"
        if len(runs) == 1
        else f"it is the base that the first of {len(runs)} runs began with",
        f"not the base that the record names: {', '.join(names[:5]) or 'the weights differ'}",
        names,
    )


def _unselected(base: Inventory | None, inventory: Inventory, runs: Sequence[ProvenanceDocument]) -> VerifiedFact:
    if base is None:
        return _skipped("unselected", "no --base given")
    found = diff_checkpoints(base.root, inventory.root)
    language = declared_language_changes(base, inventory)
    declared = {*(name for told in runs for name in told.tensors_with_selected_elements), *language}
    names = [each.name for each in found.tensors if each.name not in declared]
    names += [each.name for each in found.tensors if each.name in language and each.changed > language[each.name]]
    names += [*found.missing, *found.added]
    visual = sum(each.changed for each in found.tensors if each.name not in language)
    counts = [told.selected_elements for told in runs]
    # The baselines' records count no selected values.
    allowed = None if None in counts else sum(count or 0 for count in counts)
    over = allowed is not None and visual > allowed
    if not names and not over:
        of = "" if allowed is None else f" of the {allowed:,} selected"
        return _fact("unselected", True, f"{visual:,}{of} visual values differ; nothing else", "")
    problem = f"tensors differ beyond the record: {', '.join(names[:5])}"
    if not names:
        problem = f"{visual:,} visual values differ, and only {allowed or 0:,} were selected"
    return _fact("unselected", False, "", problem, names)


def _set(forget: Given | None, told: ProvenanceDocument) -> VerifiedFact:
    if forget is None:
        return _skipped("set", "no --forget given")
    samples = samples_of(records_given(forget, role="forget"), role="forget", modality=told.modality)
    seen = set_digest((sample.digest for sample in samples), bytes.fromhex(told.salt))
    known, noun = told.sets["forget"], NOUNS[told.modality]
    return _fact(
        "set",
        hmac.compare_digest(seen, known.digest),
        f"it is the set that was forgotten{' by the last run' * bool(told.earlier_runs)}: {len(samples)} {noun}(s)",
        f"not the set that was forgotten, which had {known.pictures} {noun}(s); this one has {len(samples)}",
    )


def _replay(given: Sequence[Path], told: ProvenanceDocument) -> list[VerifiedFact]:
    """Only runs with replay files have this check."""
    if told.replay is None and not given:
        return []
    if told.replay is None:
        return [_fact("replay", False, "", "the record names no replay file")]
    whom = f"{told.replay.pictures} image(s) of {told.replay.subjects} subject(s) of earlier requests"
    if not given:
        return [_skipped("replay", f"no --replay given; the files of the run stand for {whom}")]
    same = hmac.compare_digest(replay_digest(given), told.replay.digest)
    return [
        _fact(
            "replay", same, f"these are the replay files of the run: {whom}", f"not the replay files of the run: {whom}"
        )
    ]


def _signature(model: Path, signed: Signed | None) -> VerifiedFact:
    if signed is None:
        return _skipped("signature", "no --signature given")
    from vkdsurgeon.release.sign import check_signature

    problem = check_signature(model, signed.signature, signed.public_key)
    return _fact("signature", problem is None, "the signature is good for these files", f"not signed so: {problem}")
