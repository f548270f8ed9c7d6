"""A release from its plan: unlearn, prove, measure, attack, report, attest, sign and pack; each stage once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkdsurgeon.checkpoint.digest import weights_digest_of
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.provenance import free_record_name, versions
from vkdsurgeon.config.release import EDITED_TEXT_GATE, ReleasePlan
from vkdsurgeon.data.read import records_given
from vkdsurgeon.data.record import Record
from vkdsurgeon.decoder_pass.text_set import read_text_retain_set
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.copy import digest
from vkdsurgeon.files.directories import alone_in
from vkdsurgeon.model.device_map import device_map_of
from vkdsurgeon.patch.export import export_patch
from vkdsurgeon.release.attest import attest, base_name_of
from vkdsurgeon.release.card import CARD, write_card
from vkdsurgeon.release.sign import sign_checkpoint
from vkdsurgeon.release.stages import Stage, Stages
from vkdsurgeon.release.summary import attack_facts, judged, summary_page
from vkdsurgeon.release.verify import verify_checkpoint
from vkdsurgeon.results.evaluation import write_document
from vkdsurgeon.results.release import ReleaseResult
from vkdsurgeon.training.events import Event, Listener

_SETS = ("forget", "retain", "forget_heldout", "retain_heldout", "text", "generic")


@dataclass(frozen=True)
class Tools:
    """The parts of the public API that a release is made with."""

    unlearn: Callable[..., Any]
    diff: Callable[..., Any]
    evaluate: Callable[..., Any]
    attack: Callable[..., Any]
    write_report: Callable[..., Any]


def run_release(plan: ReleasePlan, tools: Tools, listener: Listener) -> ReleaseResult:
    """Do all stages, keeping those that an earlier run did from the same inputs.

    Args:
        plan: What to do.
        tools: What to do it with.
        listener: Called with progress events.

    Returns:
        The verdict, with what every stage wrote. After a missed bound all other stages are done, too, so that the
        evidence is complete.

    Raises:
        UserError: The plan is wrong, or its directory holds a release of another one.
        SurgeryError: A stage failed; the same call goes on there.
        KeyboardInterrupt: The work was interrupted; the same call continues it.
    """
    _check(plan, listener)
    for folder in (plan.out, plan.out / "state", plan.out / "results"):
        folder.mkdir(exist_ok=True)
    with alone_in(plan.out, "release"):
        stages = Stages(plan.out, listener)
        try:
            return _run(plan, tools, listener, stages)
        except KeyboardInterrupt:
            done = ", ".join(each.name for each in stages.done) or "nothing"
            raise KeyboardInterrupt(f"done so far: {done}; the same command goes on") from None


def _check(plan: ReleasePlan, listener: Listener) -> None:
    """Find what would end hours of work, and a directory that is somebody's."""
    take_inventory(plan.model)
    device_map_of(plan.device_map, plan.max_memory, plan.device)
    records = {role: records_given(path, role=role) for role in _SETS if (path := getattr(plan, role)) is not None}
    if plan.text_retain is not None:
        _check_text(plan, plan.text_retain, records["text"])
    if plan.out.exists() and not (plan.out / "state").is_dir() and (not plan.out.is_dir() or any(plan.out.iterdir())):
        raise UserError(
            "the directory already exists and is not from a release", where=plan.out, remedy="name a new one"
        )
    if not plan.out.parent.is_dir():
        raise UserError("the output's parent directory does not exist", where=plan.out.parent, remedy="create it")
    unjudged = not plan.relearn_gates or not (plan.restore_gates or plan.restore_out_of_scope)
    if unjudged and not plan.accept_unjudged:
        listener(
            Event.warning(
                "without gold or bounds of yours on both attacks this ends with status 3, unless accept_unjudged is set"
            )
        )


def _check_text(plan: ReleasePlan, path: Path, measured: Sequence[Record]) -> None:
    if not _has_decoder(plan):
        raise UserError(
            "only a decoder pass is trained with text",
            where="release key 'text_retain'",
            value=path,
            remedy="remove it, or set preset: decoder",
        )
    text = read_text_retain_set(path, plan.seed)
    shared = {*text.train, *text.held_out} & {record.question for record in measured}
    if shared:
        raise UserError(
            "questions that are measured must not be trained with",
            where="release keys 'text_retain' and 'text'",
            value=f"{len(shared)} questions in both",
            remedy="divide them",
        )


class _Release:
    """What the stages of one release share."""

    def __init__(self, plan: ReleasePlan, tools: Tools, listener: Listener) -> None:
        self.plan, self.tools, self.listener = plan, tools, listener
        self.patched, self.results = plan.out / "patched", plan.out / "results"
        self.sets = {role: _set_digest(getattr(plan, role), role) for role in _SETS if getattr(plan, role) is not None}
        self.base = weights_digest_of(plan.model)
        self.gold = None if plan.gold is None else weights_digest_of(plan.gold)
        self.versions = versions()

    @property
    def documents(self) -> list[Path]:
        """What the report is made of, in the order of the stages."""
        names = ["unlearn", "diff", "eval", "restore", *(f"relearn-{name}" for name in self.plan.protocols)]
        return [*(self.results / f"{name}.json" for name in names), self.record]

    @property
    def record(self) -> Path:
        """The record of this run."""
        return self.patched / free_record_name(take_inventory(self.plan.model))

    @property
    def measured_from(self) -> dict[str, Any]:
        """What every measurement depends on."""
        return {
            "patched": weights_digest_of(self.patched),
            "base": self.base,
            "gold": self.gold,
            "device": self.plan.device,
            "versions": self.versions,
        }

    def keep(self, name: str, result: Any) -> list[str]:
        """Write a result; its missed bounds."""
        write_document(self.results / f"{name}.json", result)
        return [f"{name}: {each}" for each in result.failures] if hasattr(result, "failures") else []


def _run(plan: ReleasePlan, tools: Tools, listener: Listener, stages: Stages) -> ReleaseResult:
    release = _Release(plan, tools, listener)
    stages.do(_unlearn_stage(release))
    inputs = release.measured_from
    stages.do(_diff_stage(release, inputs))
    edited = json.loads((release.results / "diff.json").read_text(encoding="utf-8"))["language_identical"] is False
    for stage in (
        _verify_stage(release, inputs),
        _eval_stage(release, inputs, _eval_gates(plan, edited)),
        _restore_stage(release, inputs),
        *(_relearn_stage(release, inputs, protocol) for protocol in plan.protocols),
    ):
        stages.do(stage)
    report = _report(release)
    attacks = attack_facts(release.results, plan)
    verdict, headline, unjudged = judged(plan, report, stages.done, attacks, edited=edited)
    evidence = {
        "documents": {path.name: digest(path) for path in release.documents},
        "plan": plan.model_dump(mode="json"),
    }
    stages.do(_card_stage(release, evidence))
    stages.do(_attest_stage(release, evidence, verdict))
    stages.do(_patch_stage(release, evidence))
    if plan.sign is not None:
        stages.do(_sign_stage(release, evidence))
    missed = [each for stage in stages.done for each in stage.missed]
    result = ReleaseResult(
        out=str(plan.out),
        verdict=verdict,
        headline=headline,
        stages=stages.done,
        attacks=attacks,
        missed=missed or list(report.failed),
        unjudged=unjudged,
        patched=str(release.patched),
        patch=str(plan.out / "fix.safetensors"),
        report=str(plan.out / "report.html"),
        attestations=sorted(path.name for path in (plan.out / "attestations").iterdir()),
    )
    write_document(plan.out / "release.json", result)
    write_whole(plan.out / "summary.md", summary_page(result))
    return result


def _eval_gates(plan: ReleasePlan, edited: bool) -> list[str]:
    """Where the language model was edited knowingly, its answers to text may differ as far as the pass allows."""
    if not edited or plan.gates.eval is not None:
        return plan.eval_gates
    return [EDITED_TEXT_GATE[1] if gate == EDITED_TEXT_GATE[0] else gate for gate in plan.eval_gates]


def _unlearn_stage(release: _Release) -> Stage:
    plan = release.plan
    recipe = digest(plan.recipe) if isinstance(plan.recipe, Path) else plan.recipe
    places = plan.places if _has_decoder(plan) else {"device": plan.device}
    result = release.results / "unlearn.json"

    def run() -> list[str]:
        done = release.tools.unlearn(
            plan.model, plan.forget, release.patched, retain=plan.retain, generic=plan.generic,
            text=plan.text_retain, recipe=plan.recipe, preset=plan.preset, seed=plan.seed,
            drop_stale=plan.drop_stale, **places, resume=True, request_id=plan.request.id,
            request_date=plan.request.date, on_event=release.listener,
        )  # fmt: skip
        return release.keep("unlearn", done)

    inputs = {
        "base": release.base,
        "sets": {name: release.sets[name] for name in ("forget", "retain", "generic") if name in release.sets},
        "text_retain": None if plan.text_retain is None else digest(plan.text_retain),
        "recipe": recipe,
        "preset": plan.preset,
        "seed": plan.seed,
        "device": plan.device,
        "drop_stale": plan.drop_stale,
        "request": plan.request.model_dump(),
        "versions": release.versions,
    }
    # The card is written into the checkpoint later on.
    journal = release.patched.with_name(release.patched.name + ".journal")
    made = [release.patched, result]
    return Stage("unlearn", inputs, made, run, ignored=[CARD], begun=[journal], replaces=False)


def _has_decoder(plan: ReleasePlan) -> bool:
    from vkdsurgeon.config.files import load_recipe

    path = plan.recipe if isinstance(plan.recipe, Path) else None
    keys = plan.recipe if isinstance(plan.recipe, dict) else {}
    return load_recipe(path, dict(keys), plan.preset).decoder is not None


def _diff_stage(release: _Release, inputs: dict[str, Any]) -> Stage:
    def run() -> list[str]:
        found = release.tools.diff(release.plan.model, release.patched)
        release.keep("diff", found)
        names = found.undeclared
        return (
            [f"diff: {len(names)} tensors differ beyond what the record declares, such as {names[0]}"] if names else []
        )

    return Stage("diff", inputs, [release.results / "diff.json"], run)


def _verify_stage(release: _Release, inputs: dict[str, Any]) -> Stage:
    def run() -> list[str]:
        found = verify_checkpoint(release.patched, base=release.plan.model, forget=release.plan.forget)
        return release.keep("verify", found)

    record = digest(release.record)
    asked = {**inputs, "record": record, "forget": release.sets["forget"]}
    return Stage("verify", asked, [release.results / "verify.json"], run)


def _eval_stage(release: _Release, inputs: dict[str, Any], gates: list[str]) -> Stage:
    plan = release.plan
    sets = {"forget": plan.forget_heldout, "retain": plan.retain_heldout, "text": plan.text}

    def run() -> list[str]:
        found = release.tools.evaluate(
            release.patched, sets, base=plan.model, gold=plan.gold, gates=gates, **plan.places, seed=plan.seed,
            on_event=release.listener,
        )  # fmt: skip
        return release.keep("eval", found)

    digests = {name: release.sets[name] for name in ("forget_heldout", "retain_heldout", "text")}
    asked = {**inputs, "sets": digests, "gates": gates, "seed": plan.seed}
    return Stage("eval", asked, [release.results / "eval.json"], run)


def _restore_stage(release: _Release, inputs: dict[str, Any]) -> Stage:
    plan = release.plan

    def run() -> list[str]:
        found = release.tools.attack(
            "restore", release.patched, plan.forget_heldout, retain=plan.retain_heldout, base=plan.model,
            gold=plan.gold, gates=plan.restore_gates, **plan.places, on_event=release.listener,
        )  # fmt: skip
        return release.keep("restore", found)

    digests = {name: release.sets[name] for name in ("forget_heldout", "retain_heldout")}
    asked = {**inputs, "sets": digests, "gates": plan.restore_gates}
    return Stage("restore", asked, [release.results / "restore.json"], run)


def _relearn_stage(release: _Release, inputs: dict[str, Any], protocol: str) -> Stage:
    plan, name = release.plan, f"relearn-{protocol}"

    def run() -> list[str]:
        found = release.tools.attack(
            "relearn", release.patched, plan.forget, retain=plan.retain_heldout, base=plan.model, gold=plan.gold,
            settings={**plan.relearn, "protocol": protocol, "heldout": plan.forget_heldout},
            gates=plan.relearn_gates, **plan.places, on_event=release.listener,
        )  # fmt: skip
        return release.keep(name, found)

    digests = {each: release.sets[each] for each in ("forget", "forget_heldout", "retain_heldout")}
    asked = {**inputs, "sets": digests, "gates": plan.relearn_gates, "settings": plan.relearn, "protocol": protocol}
    return Stage(name, asked, [release.results / f"{name}.json"], run)


def _report(release: _Release) -> Any:
    """Always anew: it costs seconds, and says what all the others found."""
    plan = release.plan
    signed = {**plan.sign_off.model_dump(), "request": plan.request.id or ""}
    for name in ("report.html", "card.md"):
        report = release.tools.write_report(release.documents, plan.out / name, sign_off=signed)
    write_document(release.results / "report.json", report)
    return report


def _card_stage(release: _Release, evidence: dict[str, Any]) -> Stage:
    card = release.patched / CARD
    base = release.plan.model / CARD
    original = base.read_text(encoding="utf-8") if base.is_file() else None

    def run() -> list[str]:
        # The stage cleared it: begin from the base's card, as the copy had it.
        if original is not None:
            write_whole(card, original)
        base_model = release.plan.base_model or base_name_of(release.patched)
        write_card(release.patched, base_model, (release.plan.out / "card.md").read_text(encoding="utf-8"))
        return []

    return Stage("card", evidence, [card], run)


def _attest_stage(release: _Release, evidence: dict[str, Any], verdict: str) -> Stage:
    place = release.plan.out / "attestations"

    def run() -> list[str]:
        attest(release.patched, release.documents, place, base_name=release.plan.base_model)
        return []

    asked = {**evidence, "verdict": verdict, "card": digest(release.patched / CARD)}
    return Stage("attest", asked, [place], run)


def _patch_stage(release: _Release, evidence: dict[str, Any]) -> Stage:
    plan = release.plan
    fix = plan.out / "fix.safetensors"

    def run() -> list[str]:
        export_patch(plan.model, release.patched, fix, compression="zstd" if plan.compression == "zstd" else "none")
        return []

    asked = {**evidence, "card": digest(release.patched / CARD), "compression": plan.compression}
    return Stage("patch", asked, [fix], run)


def _sign_stage(release: _Release, evidence: dict[str, Any]) -> Stage:
    plan = release.plan
    assert plan.sign is not None
    key, signature = plan.sign.private_key, plan.out / "model.sig"

    def run() -> list[str]:
        sign_checkpoint(release.patched, key, signature)
        return []

    return Stage("sign", {**evidence, "card": digest(release.patched / CARD)}, [signature], run)


def _set_digest(path: Path, role: str) -> dict[str, Any]:
    """The file and every image that its records show, as digests."""
    images = {record.media for record in records_given(path, role=role) if record.media is not None}
    found: dict[str, Any] = {"images": sorted(digest(image) for image in images)}
    if path.is_file():
        found["file"] = digest(path)
    return found
