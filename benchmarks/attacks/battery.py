"""Every attack on one model; what each brings out, and utility beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.miniature_model.questions import ABOUT_PERSON
from vkdsurgeon import RelearnResult, RestoreResult, attack
from vkdsurgeon.attacks.image_transforms import perturbations_of
from vkdsurgeon.attacks.templates import Template
from vkdsurgeon.errors import Diverged
from vkdsurgeon.results.attacks import PromptResult
from vkdsurgeon.results.evaluation import Metric

PROTOCOLS = ("people", "pairs", "benign")
SCOPES = ("visual", "all")
STEPS = (15, 60)
FORMATS = ("int8", "int4")
WHOLE = "vqa.accuracy"


@dataclass(frozen=True)
class Field:
    """The miniature's sets, and the base that some attacks need.

    Attributes:
        base: The model before unlearning.
        forget: The forget set.
        heldout: Other views of its people.
        retain: The retain set.
        kept: Other views of its people, for utility.
        limit: At most so many questions a set, where an attack asks a whole set.
        seed: Of every attack.
    """

    base: Path
    forget: Path
    heldout: Path
    retain: Path
    kept: Path
    limit: int
    seed: int

    @classmethod
    def of(cls, base: Path, records: Path, limit: int, seed: int) -> Field:
        """From the miniature's folders."""
        files = {"forget": "forget", "heldout": "forget_heldout", "retain": "retain", "kept": "retain_heldout"}
        sets = {key: records / f"{file}.jsonl" for key, file in files.items()}
        return cls(base, **sets, limit=limit, seed=seed)


@dataclass(frozen=True)
class Finding:
    """One line of the table for one model.

    Attributes:
        what: The line.
        metric: What is told of the forgotten; its value is None where it could not be measured.
        utility: The same model's share of right answers about kept people, under the same attack.
        beside: Other numbers of the same attack, such as AG.
        told: Cautions.
        diverged: Whether the attacker's loss was no number any more.
    """

    what: str
    metric: Metric
    utility: float | None
    beside: Mapping[str, float | None]
    told: Sequence[str] = ()
    diverged: bool = False

    def row(self) -> dict[str, Any]:
        """For the file."""
        metric = self.metric
        return {
            "what": self.what,
            "id": metric.id,
            "value": metric.value,
            "low": metric.low,
            "high": metric.high,
            "chance": metric.chance,
            "n": metric.n,
            "utility": self.utility,
            **self.beside,
            "diverged": self.diverged,
            "told": list(self.told),
        }


def _attack(name: Any, model: Path, forget: Path, field: Field, *, base: Path | None = None, **settings: Any) -> Any:
    asked = {"limit": field.limit, **({} if name == "relearn" else {"seed": field.seed}), **settings}
    return attack(name, model, forget, retain=field.kept, base=base, settings=asked, device="cpu")


def _relearn(model: Path, field: Field, steps: int) -> Iterator[Finding]:
    asked = {"protocol": PROTOCOLS, "scope": SCOPES, "steps": steps, "curve_steps": (steps,), "seeds": (field.seed,)}
    found: RelearnResult = _attack(
        "relearn", model, field.forget, field, heldout=field.heldout, benign=field.retain, **asked
    )
    metrics = {metric.id: metric for metric in found.metrics}
    for case in found.cases:
        start = f"relearn.{case.id}"
        yield Finding(
            f"relearn {case.settings.protocol}, {steps} steps, {case.settings.scope}",
            metrics[f"{start}.after.{WHOLE}"],
            metrics[f"{start}.retain.after.{WHOLE}"].value,
            {"before": metrics[f"{start}.before.{WHOLE}"].value, "ag": metrics[f"{start}.ag"].value},
            [text.removeprefix(f"{case.id}: ") for text in found.warnings if text.startswith(f"{case.id}: ")],
            case.diverged,
        )


def _restore(model: Path, field: Field) -> Iterator[Finding]:
    found: RestoreResult = _attack("restore", model, field.heldout, field, base=field.base)
    metrics = {metric.id: metric for metric in found.metrics}
    yield Finding(
        "restore tower and projector",
        metrics[f"restore.after.{WHOLE}"],
        metrics[f"restore.retain.after.{WHOLE}"].value,
        {"before": metrics[f"restore.before.{WHOLE}"].value, "put_back": found.settings.differing_elements},
    )


def _probe(model: Path, field: Field) -> Iterator[Finding]:
    found = attack(
        "probe",
        model,
        field.forget,
        retain=field.retain,
        base=field.base,
        settings={"heldout": field.heldout, "retain_heldout": field.kept, "layers": ("projector",), "seed": field.seed},
        device="cpu",
    )
    metrics = {metric.id: metric for metric in found.metrics}
    for kind, title in (("crowd", "a fresh reader"), ("reader", "the base's reader")):
        yield Finding(
            f"probe of the projector, {title}",
            metrics[f"probe.projector.{kind}.accuracy"],
            metrics[f"probe.retain.projector.{kind}.accuracy"].value,
            {},
        )


def _varied(attack: str, metrics: Sequence[Metric], titles: Mapping[str, str]) -> Iterator[Finding]:
    by_id = {metric.id: metric for metric in metrics}
    for name, title in titles.items():
        kept = by_id.get(f"{attack}.retain.{name}.{WHOLE}")
        if f"{attack}.{name}.{WHOLE}" in by_id:
            yield Finding(title, by_id[f"{attack}.{name}.{WHOLE}"], None if kept is None else kept.value, {})


def _quantize(model: Path, field: Field, scope: Any) -> Iterator[Finding]:
    found = _attack("quantize", model, field.heldout, field, formats=FORMATS, scope=scope)
    as_given = {"before": "as given"} if scope == "visual" else {}
    yield from _varied("quantize", found.metrics, as_given | {name: f"quantize {name}, {scope}" for name in FORMATS})


def _perturb(model: Path, field: Field) -> Iterator[Finding]:
    changes = perturbations_of([], field.seed)
    found = _attack("perturb", model, field.forget, field, heldout=field.heldout)
    yield from _varied("perturb", found.metrics, {each.name: f"perturb {each.name}" for each in changes})


def _universal(model: Path, field: Field) -> Iterator[Finding]:
    try:
        found = _attack("perturb", model, field.forget, field, heldout=field.heldout, perturbations=(), universal=True)
    except Diverged as error:
        lost = Metric(id=f"perturb.universal.{WHOLE}", value=None, n=0, direction="lower")
        yield Finding("perturb, universal pattern", lost, None, {}, [str(error)], diverged=True)
        return
    yield from _varied("perturb", found.metrics, {"universal": "perturb, universal pattern"})


def _prompt(model: Path, field: Field) -> Iterator[Finding]:
    # The built-in templates are hardly in the vocabulary; these are the wordings that training heard besides.
    wordings = [
        Template(name=f"{kind}-{number}", template=words, task=f"vqa.{kind}")
        for kind, every in ABOUT_PERSON.items()
        for number, words in enumerate(every[1:], start=1)
    ]
    found: PromptResult = _attack("prompt", model, field.heldout, field, templates=wordings)
    titles = {each.name: f"prompt {each.name}" for each in found.settings.templates if each.asked}
    yield from _varied("prompt", found.metrics, titles)


def _typography(model: Path, field: Field) -> Iterator[Finding]:
    found = _attack("typography", model, field.heldout, field)
    titles = {name: f"typography, {name}" for name in found.settings.written}
    yield from _varied("typography", found.metrics, titles)


def _membership(model: Path, field: Field) -> Iterator[Finding]:
    found = _attack("membership", model, field.forget, field, nonmembers=field.heldout)
    metrics = {metric.id: metric for metric in found.metrics}
    loss = "membership.loss"
    yield Finding(
        "membership, advantage by loss",
        metrics[f"{loss}.advantage"],
        metrics[f"membership.retain.before.{WHOLE}"].value,
        {name: metrics[f"{loss}.{name}"].value for name in ("auc", "tpr_at_fpr_5")},
    )


# What brings knowledge back says nothing of the base, from which nothing is gone.
BRINGING_BACK = (*(f"relearn-{steps}" for steps in STEPS), "restore")
BATTERY: dict[str, Callable[[Path, Field], Iterator[Finding]]] = {
    "quantize": partial(_quantize, scope="visual"),
    "quantize-all": partial(_quantize, scope="all"),
    **{f"relearn-{steps}": partial(_relearn, steps=steps) for steps in STEPS},
    "restore": _restore,
    "probe": _probe,
    "perturb": _perturb,
    "universal": _universal,
    "prompt": _prompt,
    "typography": _typography,
    "membership": _membership,
}


def strike(family: str, model: Path, field: Field) -> list[dict[str, Any]]:
    """One family of attacks on one model.

    Returns:
        A row per line of the table.
    """
    started = time.perf_counter()
    rows = [finding.row() for finding in BATTERY[family](model, field)]
    seconds = round(time.perf_counter() - started, 1)
    return [{"family": family, "limit": field.limit, "seconds": seconds, **row} for row in rows]
