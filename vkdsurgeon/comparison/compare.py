"""Several methods and seeds on one case: unlearn, measure, attack, and keep every finished cell."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from vkdsurgeon.attacks.findings import AG
from vkdsurgeon.attacks.plan import RelearnPlan, RelearnProtocol
from vkdsurgeon.attacks.relearn import Relearning, relearn
from vkdsurgeon.attacks.split import split_records
from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.comparison.contestants import BASE, GOLD, Contestant
from vkdsurgeon.comparison.errands import send
from vkdsurgeon.comparison.headline import (
    CPU_SECONDS,
    FLOPS,
    FORGET,
    MEMORY,
    SCORE,
    SECONDS,
    ag_of,
    headline,
    score,
    values_of,
)
from vkdsurgeon.comparison.schema import AttackSettings, Cell, ComparisonResult, Row
from vkdsurgeon.comparison.table import markdown
from vkdsurgeon.comparison.worker import Errand
from vkdsurgeon.data.pictures import records_digest
from vkdsurgeon.data.read import read_records, require_answers
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import Gate, check_gates, judge
from vkdsurgeon.evaluation.schema import SetFacts, write_document
from vkdsurgeon.evaluation.sets import NamedSet, read_set, set_facts
from vkdsurgeon.evaluation.suite import Evaluation, evaluate
from vkdsurgeon.methods.names import BASELINES
from vkdsurgeon.recipe import BaselineRecipe, Recipe
from vkdsurgeon.whole_file import write_whole

RESULT, TABLE = "comparison.json", "comparison.md"
# Below this distance of base and gold a forget metric says nothing.
_TOO_NEAR = 0.1
Listener = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Comparison:
    """One case.

    Attributes:
        model: The checkpoint that is to forget.
        contestants: Methods, in the order of the table.
        forget: The forget set's file.
        retain: The retain set's file.
        out: Directory for results and finished cells.
        gold: A model that never saw the forget set.
        heldout: Other views of the forget set's subjects, to measure on.
        retain_heldout: Other views of the retain set's subjects, to measure on.
        text: Questions without pictures; measured, and given to methods whose masks spare text.
        recipe: Settings for all methods.
        seeds: Every method runs once with each.
        protocols: Relearning protocols behind AG.
        attack_steps: Steps of the attack.
        limit: At most so many questions per measured set.
        gates: Bounds on `NAME.METRIC`; they do not stop anything here.
        device: Where.
        dtype: What weights are held in while unlearning.
        tower: Module path of the tower, where the split rule gets it wrong.
        projector: Module paths of the projector, likewise.
        keep_models: Leave the patched checkpoints in `out`.
    """

    model: Path
    contestants: Sequence[Contestant]
    forget: Path
    retain: Path
    out: Path
    recipe: Recipe
    gold: Path | None = None
    heldout: Path | None = None
    retain_heldout: Path | None = None
    text: Path | None = None
    seeds: Sequence[int] = (0,)
    protocols: Sequence[RelearnProtocol] = ("people", "pairs")
    attack_steps: int = 15
    limit: int | None = 800
    gates: Sequence[Gate] = ()
    device: str = "auto"
    dtype: str = "float32"
    tower: str | None = None
    projector: Sequence[str] | None = None
    keep_models: bool = False


@dataclass
class _Case:
    """A comparison whose sets were read."""

    asked: Comparison
    forget: NamedSet
    heldout: NamedSet | None
    measured: list[NamedSet]
    digests: dict[str, str]
    protocols: list[RelearnProtocol]
    warnings: list[str] = field(default_factory=list)

    @property
    def cells(self) -> Path:
        """Where finished cells lie."""
        return self.asked.out / "cells"

    def attack(self, model: Path, protocol: RelearnProtocol, seed: int) -> Relearning:
        """The relearning attack of one protocol."""
        return Relearning(
            model=model,
            forget=self.forget,
            heldout=self.heldout,
            plan=RelearnPlan(protocol=(protocol,), steps=self.asked.attack_steps, seeds=(seed,)),
            device=self.asked.device,
            tower=self.asked.tower,
            projector=self.asked.projector,
        )


def compare(asked: Comparison, listener: Listener) -> ComparisonResult:
    """Fill every missing cell, and make the table.

    Args:
        asked: What.
        listener: Gets progress events.

    Returns:
        The result; it was also written to `out`, as JSON and as Markdown.

    Raises:
        UserError: Sets, gates, models or settings are wrong, or a method refuses them.
        SurgeryError: A run failed. Finished cells stay, and the next run goes on from them.
    """
    started = time.perf_counter()
    _check_place(asked.out)
    case = _read(asked)
    names = [BASE, *([GOLD] if asked.gold else []), *(each.name for each in asked.contestants)]
    check_gates(asked.gates, _known(case, names))
    case.cells.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for seed in asked.seeds:
        if asked.gold:
            cells.append(_reference(case, GOLD, asked.gold, seed, listener))
        if seed == asked.seeds[0]:
            cells.append(_reference(case, BASE, asked.model, seed, listener))
        for each in asked.contestants:
            cells.append(_contestant(case, each, seed, listener))
    cells = _scored(cells, case.protocols)
    rows = [_row(name, [cell for cell in cells if cell.name == name], asked) for name in names]
    base = next(cell for cell in cells if cell.name == BASE)
    gold = next((cell for cell in cells if cell.name == GOLD), None)
    result = ComparisonResult(
        model_type=_model_type(asked.model),
        device=asked.device,
        dtype=asked.dtype,
        threads=torch.get_num_threads(),
        sets=[_facts(named) for named in (case.forget, *case.measured)],
        measured_on={
            "forget": "held-out views" if case.heldout else "the forget set itself",
            "retain": "held-out views" if asked.retain_heldout else "the retain set itself",
        },
        limit=asked.limit,
        attack=_attack_settings(case),
        rows=rows,
        cells=cells,
        gates=judge(asked.gates, {f"{row.name}.{key}": value for row in rows for key, value in row.values.items()}),
        warnings=[*case.warnings, *_told(base, gold)],
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )
    write_document(asked.out / RESULT, result)
    write_whole(asked.out / TABLE, markdown(result))
    return result


def _check_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError("the output exists and is no directory", where=out, remedy="name a directory")
    if not out.absolute().parent.is_dir():
        raise UserError("the output's parent directory does not exist", where=out.absolute().parent)
    if out.is_dir() and any(out.iterdir()) and not (out / "cells").is_dir():
        raise UserError(
            "the directory holds something else than an earlier comparison",
            where=out,
            expected="a directory that is empty, not there, or of an earlier `compare`",
            remedy="name another one",
        )


def _read(asked: Comparison) -> _Case:
    forget = read_set("forget", asked.forget)
    retain = read_records(asked.retain, role="retain")
    require_answers(retain, role="retain")
    heldout = read_set("forget", asked.heldout) if asked.heldout else None
    kept = read_set("retain", asked.retain_heldout) if asked.retain_heldout else NamedSet("retain", tuple(retain))
    measured = [heldout or forget, kept]
    if asked.text:
        measured.append(read_set("text", asked.text))
    digests = {"forget": records_digest(forget.records), "retain": records_digest(retain)}
    digests |= {f"measured {named.name}": records_digest(named.records) for named in measured}
    case = _Case(asked, forget, heldout, measured, digests, list(asked.protocols))
    for protocol in asked.protocols:
        try:
            split_records(forget.records, heldout.records if heldout else None, protocol=protocol, fraction=0.5, seed=0)
        except UserError as error:
            case.protocols.remove(protocol)
            case.warnings.append(f"no AG by protocol {protocol}: {error.what}")
    if heldout is None:
        case.warnings.append("forgetting is measured on the forget set's own pictures; give --heldout for other views")
    if asked.gold is None:
        case.warnings.append("no gold model (--gold): nothing says how much forgetting is right, and there is no score")
    return case


def _reference(case: _Case, name: str, root: Path, seed: int, listener: Listener) -> Cell:
    digest = weights_digest(root, take_inventory(root).shards)
    known = {"weights": digest, "seed": seed}

    def fill(key: str) -> Cell:
        # What the base model knows cannot come back.
        values = _measure(case, root, seed, case.protocols if name == GOLD else [], listener)
        return Cell(
            key=key, name=name, seed=seed, recipe={}, values=values, steps=0, elements_changed=0, weights_digest=digest,
            met=None,
        )  # fmt: skip

    return _cached(case, name, seed, known, fill, listener)


def _contestant(case: _Case, each: Contestant, seed: int, listener: Listener) -> Cell:
    asked = case.asked
    recipe = _recipe_of(each, asked.recipe)
    text = str(asked.text) if each.reads_text and asked.text else None
    known = {
        "weights": weights_digest(asked.model, take_inventory(asked.model).shards),
        "method": each.method,
        "recipe": recipe,
        # Defaults decide as well, and may change between versions.
        "effective": _effective(each, recipe),
        "reads_text": text is not None,
        "dtype": asked.dtype,
        "seed": seed,
    }

    def fill(key: str) -> Cell:
        out = asked.out / "models" / f"{each.name}-{seed}-{key[:16]}"
        effort = _unlearned(case, each, recipe, seed, text, out, listener)
        values = _measure(case, out, seed, case.protocols, listener)
        values |= {
            SECONDS: effort["seconds"],
            CPU_SECONDS: effort["cpu_seconds"],
            MEMORY: effort["peak_memory_mib"],
            FLOPS: None if effort["flops"] is None else effort["flops"] / 1e12,
        }
        cell = Cell(
            key=key,
            name=each.name,
            seed=seed,
            recipe=recipe,
            values=values,
            **{name: effort[name] for name in ("steps", "elements_changed", "weights_digest", "met")},
        )
        if not asked.keep_models:
            shutil.rmtree(out)
            _beside(out).unlink()
        return cell

    return _cached(case, each.name, seed, known, fill, listener)


def _unlearned(
    case: _Case,
    each: Contestant,
    recipe: dict[str, Any],
    seed: int,
    text: str | None,
    out: Path,
    listener: Listener,
) -> dict[str, Any]:
    """Unlearn into a directory, or find it done by a run that was interrupted while it measured."""
    asked, told = case.asked, _beside(out)
    if out.is_dir() and told.is_file():
        done: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
        if done["weights_digest"] == weights_digest(out, take_inventory(out).shards):
            return done
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(exist_ok=True)
    listener({"event": "unlearn", "method": each.name, "seed": seed, "text": f"{each.name}, seed {seed}: unlearning"})

    def heard(event: Mapping[str, Any]) -> None:
        text = f"{each.name}, seed {seed}: " + (
            f"step {event['step']}/{event['steps']}" if "step" in event else str(event.get("stage", event.get("text")))
        )
        listener({**event, "method": each.name, "seed": seed, "text": text})

    effort = send(
        Errand(
            model=str(asked.model.absolute()),
            forget=str(asked.forget.absolute()),
            retain=str(asked.retain.absolute()),
            text=text,
            out=str(out.absolute()),
            method=each.method,
            recipe=recipe,
            scope=None,
            seed=seed,
            device=asked.device,
            dtype=asked.dtype,
            tower=asked.tower,
            projector=None if asked.projector is None else list(asked.projector),
            threads=torch.get_num_threads(),
        ),
        heard,
    )
    write_whole(told, json.dumps(effort) + "\n")
    return effort


def _beside(model: Path) -> Path:
    """Where it is noted what a patched model took."""
    return model.with_name(f"{model.name}.json")


def _measure(
    case: _Case, root: Path, seed: int, protocols: Sequence[RelearnProtocol], listener: Listener
) -> dict[str, float | None]:
    """Evaluate a model and attack it."""
    asked = case.asked
    found = evaluate(
        Evaluation(model=root, sets=case.measured, device=asked.device, limit=asked.limit, seed=0), listener
    )
    values = headline(found.metrics)
    for protocol in protocols:
        gc.collect()
        attacked = relearn(case.attack(root, protocol, seed), listener)
        values[ag_of(protocol)] = next(metric.value for metric in attacked.metrics if metric.id == AG)
    return values


def _cached(
    case: _Case, name: str, seed: int, known: dict[str, Any], fill: Callable[[str], Cell], listener: Listener
) -> Cell:
    """A cell from its file, if it was made of the same inputs; else made and kept."""
    key = _key(case, known)
    path = case.cells / f"{name}-{seed}-{key[:16]}.json"
    if path.is_file():
        try:
            cell = Cell.model_validate_json(path.read_bytes())
        except ValidationError:
            cell = None
        if cell is not None and cell.key == key:
            listener(
                {"event": "cell", "method": name, "seed": seed, "cached": True, "text": f"{name}, seed {seed}: known"}
            )
            return cell
    cell = fill(key)
    write_whole(path, json.dumps(cell.model_dump(mode="json"), indent=2) + "\n")
    listener({"event": "cell", "method": name, "seed": seed, "cached": False, "text": f"{name}, seed {seed}: done"})
    return cell


def _key(case: _Case, known: dict[str, Any]) -> str:
    """Digest of everything that decides a cell's numbers; time and memory are those of the run that made it."""
    facts = {
        **known,
        "sets": case.digests,
        "attack": _attack_settings(case).model_dump(),
        "limit": case.asked.limit,
        "device": "auto" if case.asked.device == "auto" else case.asked.device.split(":")[0],
        "split": [case.asked.tower, case.asked.projector],
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _recipe_of(each: Contestant, recipe: Recipe) -> dict[str, Any]:
    """What the user set, and what makes the variant; every method derives the rest for itself."""
    settings = recipe.model_dump(exclude_unset=True)
    if each.method != "vkd":
        settings = {"baseline": settings["baseline"]} if settings.get("baseline") else {}
    elif "output_loss" not in each.overrides:
        settings.pop("baseline", None)
        settings.pop("output_loss", None)
    if "decoder" not in each.overrides:
        settings.pop("decoder", None)
    overrides = {
        key: {**(settings.get(key) or {}), **value} if isinstance(value, dict) else value
        for key, value in each.overrides.items()
    }
    return Recipe.model_validate(settings | overrides).model_dump(exclude_unset=True)


def _effective(each: Contestant, recipe: dict[str, Any]) -> dict[str, Any]:
    if each.method in BASELINES:
        settings = BaselineRecipe.model_validate(recipe.get("baseline") or {})
        return {**asdict(BASELINES[each.method]), **settings.model_dump(exclude_none=True)}
    return Recipe.model_validate(recipe).model_dump()


def _scored(cells: Sequence[Cell], protocols: Sequence[str]) -> list[Cell]:
    base = next(cell for cell in cells if cell.name == BASE)
    golds = {cell.seed: cell.values for cell in cells if cell.name == GOLD}

    def of(cell: Cell) -> Cell:
        if cell.name == BASE:
            return cell
        value = score(cell.values, base.values, golds.get(cell.seed), protocols)
        return cell if value is None else cell.model_copy(update={"values": {**cell.values, SCORE: value}})

    return [of(cell) for cell in cells]


def _row(name: str, cells: Sequence[Cell], asked: Comparison) -> Row:
    titles = {each.name: each.title for each in asked.contestants}
    titles |= {BASE: "the model as given", GOLD: "a model that never saw the forget set"}
    means: dict[str, float | None] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for metric in values_of(cells):
        found = [value for cell in cells if (value := cell.values.get(metric)) is not None]
        means[metric] = sum(found) / len(found) if found else None
        if found:
            low[metric], high[metric] = min(found), max(found)
    return Row(name=name, title=titles[name], seeds=[cell.seed for cell in cells], values=means, low=low, high=high)


def _known(case: _Case, names: Sequence[str]) -> list[str]:
    columns = ["forget", "forget.name", "forget.general", "retain", "text", SCORE, SECONDS, CPU_SECONDS, MEMORY, FLOPS]
    columns += [ag_of(protocol) for protocol in case.protocols]
    return [f"{name}.{column}" for name in names for column in columns]


def _facts(named: NamedSet) -> SetFacts:
    return set_facts(named, named)


def _attack_settings(case: _Case) -> AttackSettings:
    plan = case.attack(case.asked.model, "people", 0).plan
    return AttackSettings(
        protocols=list(case.protocols),
        fraction=plan.fraction[0],
        steps=plan.steps,
        lr=plan.lr[0],
        batch_size=plan.batch_size,
        scope=plan.scope[0],
    )


def _model_type(root: Path) -> str:
    from vkdsurgeon.checkpoint.skeleton import read_config

    return str(read_config(root).model_type)


def _told(base: Cell, gold: Cell | None) -> list[str]:
    if gold is None:
        return []
    before, ideal = base.values.get(FORGET), gold.values.get(FORGET)
    if before is not None and ideal is not None and before - ideal < _TOO_NEAR:
        return [
            f"base ({before:.3f}) and gold ({ideal:.3f}) hardly differ on the forget set, so forgetting cannot be told "
            "from this case"
        ]
    return []
