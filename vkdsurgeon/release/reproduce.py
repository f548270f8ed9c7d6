"""A run made again from its record, and compared with what was released."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vkdsurgeon.checkpoint.digest import checkpoint_digests
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.provenance import declared_language_changes, record_names, set_digest
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.modality import NOUNS
from vkdsurgeon.data.read import Given, records_given
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import scratch
from vkdsurgeon.release.card import CARD, has_section
from vkdsurgeon.results.read import read_source
from vkdsurgeon.results.reproduction import ReproduceResult
from vkdsurgeon.results.run_record import ProvenanceDocument
from vkdsurgeon.vision_pass.replay_format import replay_digest

# Another processor sums in another order; what it does to weights stays far below these.
_CLOSE, _SAME = 0.05, 0.95


@dataclass(frozen=True)
class Compared:
    """Two changes of one base, over all tensors."""

    differing: int
    relative: float
    cosine: float
    same: float


def reproduce_run(
    patched: Path,
    base: Path,
    sets: Mapping[str, Given | None],
    unlearn: Callable[..., Any],
    *,
    text: Path | None = None,
    replay: Sequence[Path] = (),
    replay_key: Path | None = None,
) -> ReproduceResult:
    """Unlearn again as the record says, in scratch, and compare.

    Args:
        patched: The release.
        base: What it was made from.
        sets: `forget`, `retain` and `generic` as they were given then.
        unlearn: The public function.
        text: The text retain set of a decoder pass.
        replay: The replay files of the run.
        replay_key: What they are encrypted with.

    Raises:
        UserError: The record, the base or a set is another one; found before the run.
        SurgeryError: The run failed.
    """
    inventory = take_inventory(patched)
    names = record_names(inventory)
    if not names:
        raise UserError("this checkpoint has no record of a run", where=patched, expected="an output of `unlearn`")
    path = patched / names[-1]
    record, raw = _read(path)
    _check(record, raw, path, base, sets)
    _check_replay(record, path, replay)
    started = time.perf_counter()
    with scratch() as folder:
        again = folder / "again"
        unlearn(
            base, sets["forget"], again, retain=sets["retain"], generic=sets["generic"], text=text,
            recipe=Recipe.model_validate(record.recipe), seed=record.seed, device=record.device, dtype=record.dtype,
            request_id=record.request.id, request_date=record.request.date, journal=folder / "journal",
            drop_stale=bool(record.left_out), modality=record.modality, replay=replay or None, replay_key=replay_key,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        made = take_inventory(again)
        mine, theirs = checkpoint_digests(made), checkpoint_digests(inventory)
        odd = [
            name for name in mine.files.keys() | theirs.files.keys() if mine.files.get(name) != theirs.files.get(name)
        ]
        odd = sorted(name for name in odd if not (name == CARD and has_section(patched)))
        compared = _compare(take_inventory(base), inventory, made, record)
        _, now = _read(again / names[-1])
        if names[-1] in odd and _without_place(raw) == _without_place(now):
            odd.remove(names[-1])
    grade: Literal["bytes", "close", "different"] = "different"
    if not odd:
        grade = "bytes"
    elif compared.relative <= _CLOSE and compared.same >= _SAME:
        grade = "close"
    return ReproduceResult(
        patched=str(patched),
        base=str(base),
        grade=grade,
        environment=_environment(raw, now),
        tensors_differing=compared.differing,
        relative_difference=compared.relative,
        cosine=compared.cosine,
        same_elements=compared.same,
        files_differing=odd,
        seconds=round(seconds, 3),
    )


def _read(path: Path) -> tuple[ProvenanceDocument, dict[str, Any]]:
    document = read_source(path).document
    if not isinstance(document, ProvenanceDocument) or document.base is None:
        raise UserError("this record does not name the base of its run", where=path, remedy="repeat the run by hand")
    return document, json.loads(path.read_text(encoding="utf-8"))


def _without_place(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the name that the hub has for its base: the same base may lie elsewhere now."""
    return {**record, "base": {name: told for name, told in record["base"].items() if name != "hub"}}


def _check(
    record: ProvenanceDocument, raw: Mapping[str, Any], path: Path, base: Path, sets: Mapping[str, Given | None]
) -> None:
    assert record.base is not None
    if "feature mode" not in record.method:
        raise UserError("only runs in feature mode can be reproduced", where=path, value=record.method)
    if raw.get("other_teachers"):
        raise UserError(
            "the run also used other checkpoints as teachers", where=path, value=list(raw["other_teachers"])
        )
    found = checkpoint_digests(take_inventory(base), shards_only=True)
    if found.weights != record.base.weights_digest:
        raise UserError(
            "not the base of this run", where=base, value=found.weights, expected=record.base.weights_digest
        )
    salt, noun = bytes.fromhex(record.salt), NOUNS[record.modality]
    for role, given in sets.items():
        known = record.sets.get(role)
        samples = (
            [] if given is None else samples_of(records_given(given, role=role), role=role, modality=record.modality)
        )
        if known is None or (given is None and role == "generic"):
            # Without a retain set drawn strangers stand in, which the tool brings itself.
            continue
        if not hmac.compare_digest(set_digest((each.digest for each in samples), salt), known.digest):
            raise UserError(
                f"not the {role} set of this run",
                where=f"--{role}",
                value=f"{len(samples)} {noun}(s)",
                expected=f"the set of {known.pictures} {noun}(s) with the digest {known.digest}",
            )


def _check_replay(record: ProvenanceDocument, path: Path, given: Sequence[Path]) -> None:
    if record.replay is None:
        if given:
            raise UserError("the run used no replay file", where="`replay`", value=str(given[0]))
        return
    whom = f"the files of {record.replay.pictures} image(s) of {record.replay.subjects} subject(s)"
    if not given:
        raise UserError("the run also used replay files of earlier requests", where=path, expected=f"`replay`, {whom}")
    if not hmac.compare_digest(replay_digest(given), record.replay.digest):
        raise UserError("not the replay files of this run", where="`replay`", value=str(given[0]), expected=whom)


def _compare(base: Inventory, left: Inventory, right: Inventory, record: ProvenanceDocument) -> Compared:
    """Both changes tensor by tensor, in float64."""
    differing = changed = both = 0
    difference = norm = other = product = 0.0
    names = [*record.tensors_with_selected_elements, *declared_language_changes(base, left)]
    for name in names:
        start = read_tensor(base, name).double()
        one, two = read_tensor(left, name).double() - start, read_tensor(right, name).double() - start
        differing += int(not bool((one == two).all()))
        difference += float(((one - two) ** 2).sum())
        norm, other, product = (
            norm + float((one**2).sum()),
            other + float((two**2).sum()),
            product + float((one * two).sum()),
        )
        moved, moved_too = one != 0, two != 0
        both += int((moved & moved_too).sum())
        changed += int((moved | moved_too).sum())
    if norm == 0 or other == 0:
        return Compared(differing, float(norm != other), float(norm == other), float(norm == other))
    return Compared(differing, (difference / norm) ** 0.5, product / (norm * other) ** 0.5, both / max(changed, 1))


def _environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[str]]:
    def flat(record: Mapping[str, Any]) -> dict[str, str]:
        environment = record.get("environment") or {}
        kernels = {f"kernel {name}": told for name, told in (environment.get("kernels") or {}).items()}
        rest = {name: told for name, told in environment.items() if name != "kernels"}
        return {name: str(told) for name, told in {**rest, **kernels, **record.get("versions", {})}.items()}

    then, here = flat(before), flat(now)
    return {
        name: [then.get(name, "not told"), here.get(name, "not told")]
        for name in {**then, **here}
        if then.get(name) != here.get(name)
    }
