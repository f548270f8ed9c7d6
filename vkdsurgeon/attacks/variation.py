"""The same questions asked under variations: the loop that attacks on weights, images and prompts share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from vkdsurgeon.attacks.target import Target
from vkdsurgeon.attacks.warnings import variation_warnings
from vkdsurgeon.data.record import Record
from vkdsurgeon.evaluation.gates import check_gates
from vkdsurgeon.evaluation.metrics import differences, metric_ids, summarise
from vkdsurgeon.evaluation.models import Role, ask_each
from vkdsurgeon.evaluation.score import Answered, answer_records
from vkdsurgeon.evaluation.silence import without_silence
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.results.evaluation import Metric, ModelFacts, SetFacts
from vkdsurgeon.training.events import Listener, unheard

BEFORE, WORST, MEAN, GAIN = "before", "worst", "mean", "gain"
# Rows of metric ids that no variation may be called.
RESERVED = frozenset({BEFORE, WORST, MEAN, GAIN, "after", "retain"})


class Variation:
    """One way to ask again; this one changes nothing.

    Attributes:
        name: The row of its metric ids.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def concerns(self, record: Record) -> bool:
        """Whether a record is asked under this variation."""
        return True

    def reword(self, record: Record) -> Record:
        """The record as it is asked."""
        return record

    def check(self, loaded: LoadedModel) -> None:
        """Refuse, before any question is asked, a model that this cannot be applied to.

        Raises:
            UserError: It cannot.
        """

    def applied(self, loaded: LoadedModel, role: Role) -> AbstractContextManager[None]:
        """A context in which the model, or what it is given, is altered; left as it was afterwards."""
        return nullcontext()


@dataclass(frozen=True)
class Measured:
    """Metrics of all models under all variations, as parts of the result."""

    models: list[ModelFacts]
    sets: list[SetFacts]
    metrics: list[Metric]
    warnings: list[str]
    device: str


def measure_variations(
    target: Target, attack: str, variations: Sequence[Variation], listener: Listener = unheard
) -> Measured:
    """Ask every model every question, as it is and under every variation.

    Args:
        target: The settings: models, sets, gates and device.
        attack: First part of the metric ids.
        variations: How; distinct names.
        listener: Gets progress events.

    Returns:
        Metrics `ATTACK.[retain.]ROW.GROUP.METRIC` for rows `before`, every variation and, with several, `worst` (the
        highest of what is to be forgotten, the lowest of what is to be kept) and `mean`; `ATTACK.gain.ROW...` is the
        model's paired change on the forget set; `reference.` and `gold.` are the other models under the same.

    Raises:
        UserError: Sets, gates or models are wrong; sets and gates are checked before a model is loaded.
    """
    parts = target.draw()
    check_gates(target.gates, _known(target, attack, variations, parts))

    def ask(role: Role, loaded: LoadedModel) -> list[Metric]:
        return _measure(target, attack, variations, parts, loaded, role, listener)

    asked = ask_each(target, ask, dtype=target.dtype, listener=listener)
    metrics = [metric for found in asked.found.values() for metric in found]
    return Measured(
        models=asked.models,
        sets=target.facts(parts),
        metrics=metrics,
        warnings=variation_warnings(
            attack,
            [variation.name for variation in variations],
            metrics,
            has_retain=target.retain is not None,
            has_gold=target.gold is not None,
        ),
        device=asked.first.places,
    )


def _measure(
    target: Target,
    attack: str,
    variations: Sequence[Variation],
    parts: dict[str, list[Record]],
    loaded: LoadedModel,
    role: Role,
    listener: Listener,
) -> list[Metric]:
    start = attack if role == "model" else f"{role}.{attack}"
    for variation in variations:
        variation.check(loaded)
    before = without_silence(
        {part: answer_records(loaded, records, target.scoring, listener) for part, records in parts.items()}
    )
    metrics: list[Metric] = []
    for part, answers in before.items():
        metrics += summarise(f"{start}.{part}{BEFORE}", answers, forget=not part, seed=target.seed)
    rows: dict[str, list[list[Metric]]] = {part: [] for part in parts}
    for variation in variations:
        with variation.applied(loaded, role):
            concerned = {
                part: [index for index, record in enumerate(records) if variation.concerns(record)]
                for part, records in parts.items()
            }
            said = {
                part: answer_records(
                    loaded, [variation.reword(parts[part][index]) for index in indices], target.scoring, listener
                )
                for part, indices in concerned.items()
                if indices
            }
        for part, after in without_silence(said).items():
            rows[part].append(summarise(f"{start}.{part}{variation.name}", after, forget=not part, seed=target.seed))
            if role == "model" and not part:
                given: list[Answered] = [before[part][index] for index in concerned[part]]
                metrics += differences(f"{start}.{GAIN}.{variation.name}", after, given, forget=True)
    for part, found in rows.items():
        metrics += [metric for row in found for metric in row]
        metrics += summary_rows(f"{start}.{part}", found) if len(variations) > 1 else []
    return metrics


def summary_rows(start: str, rows: Sequence[Sequence[Metric]]) -> list[Metric]:
    """The worst of several rows, and their mean.

    Args:
        start: What every id begins with, up to the row, with a dot.
        rows: Metrics of one row each, with ids `{start}{row}.{rest}`.

    Returns:
        `{start}worst.{rest}`: the highest value where lower is better, else the lowest, with that row's interval (which
        knows nothing of the choice); `{start}mean.{rest}`: the mean over the rows that have it. None where a row's
        value is None.
    """
    by_rest: dict[str, list[Metric]] = {}
    for metric in (metric for row in rows for metric in row):
        by_rest.setdefault(metric.id.removeprefix(start).split(".", 1)[1], []).append(metric)
    found = []
    for rest, members in by_rest.items():
        values = [metric.value for metric in members if metric.value is not None]
        whole = len(values) == len(members)
        pick = max if members[0].direction == "lower" else min
        worst = pick(members, key=lambda metric: metric.value or 0.0)
        found.append(worst.model_copy(update={"id": f"{start}{WORST}.{rest}", "value": worst.value if whole else None}))
        found.append(
            Metric(
                id=f"{start}{MEAN}.{rest}",
                value=sum(values) / len(values) if whole else None,
                n=max(metric.n for metric in members),
                direction=members[0].direction,
                chance=members[0].chance,
            )
        )
    return found


def _known(target: Target, attack: str, variations: Sequence[Variation], parts: dict[str, list[Record]]) -> list[str]:
    common: list[str] = []
    gains: list[str] = []
    for part, records in parts.items():
        common += metric_ids(f"{attack}.{part}{BEFORE}", records)
        for variation in variations:
            concerned = [record for record in records if variation.concerns(record)]
            rows = [variation.name, *((WORST, MEAN) if len(variations) > 1 else ())]
            common += [name for row in rows for name in metric_ids(f"{attack}.{part}{row}", concerned)]
            gains += [] if part else metric_ids(f"{attack}.{GAIN}.{variation.name}", concerned)
    others = [f"{role}.{name}" for role, _ in target.roles if role != "model" for name in common]
    return list(dict.fromkeys(common + gains + others))
