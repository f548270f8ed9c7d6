"""The membership attack: do likelihoods or gradients show which records the model was trained on?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
import torch

from vkdsurgeon.attacks.gradient_norm import gradient_norms
from vkdsurgeon.attacks.membership_scores import GRADIENT, SCORES, AnswerTokens, answer_tokens
from vkdsurgeon.attacks.split import shares_media
from vkdsurgeon.attacks.target import Target
from vkdsurgeon.attacks.variation import BEFORE
from vkdsurgeon.attacks.warnings import missing_warnings
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.record import Record, to_forget
from vkdsurgeon.data.sets import NamedSet, sample
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import check_gates, judge_metrics
from vkdsurgeon.evaluation.metrics import metric_ids, summarise
from vkdsurgeon.evaluation.models import Role, ask_each
from vkdsurgeon.evaluation.score import answer_records, encode
from vkdsurgeon.evaluation.sets import drawn_facts
from vkdsurgeon.files.optional import optional
from vkdsurgeon.model.batches import answer_request
from vkdsurgeon.model.multimodal import LoadedModel
from vkdsurgeon.model.prefix_cache import read_log_probabilities
from vkdsurgeon.results.attacks import MembershipResult, MembershipSettings
from vkdsurgeon.results.evaluation import Direction, Metric
from vkdsurgeon.training.events import Listener, unheard

MEASURES = ("auc", "advantage", "tpr_at_fpr_5", "ks")
_RESAMPLES = 200
_FALSE_ALARMS = 0.05
_MATTERS = 0.05


@dataclass(frozen=True, kw_only=True)
class Inferring(Target):
    """One attack; the members are the forget set's questions on images.

    Attributes:
        nonmembers: Like questions on images that no model was trained on, such as held-out views.
        k_percent: Percentage of the answer's tokens, for Min-K% and Min-K%++.
        gradient: Whether to score by the gradient's norm as well: a backward pass for every question.
    """

    nonmembers: NamedSet
    k_percent: float = 20.0
    gradient: bool = True

    @property
    def scores(self) -> list[str]:
        """Names of the scores that are taken."""
        return [name for name in SCORES if self.gradient or name != GRADIENT]


def membership(attack: Inferring, listener: Listener = unheard) -> MembershipResult:
    """Measure how well members are told from non-members, for a model, its base and gold.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included: `membership.SCORE.*` for every one of `attack.scores` with `auc` (0.5 is chance),
        `advantage` (|2 auc - 1|, lower is better), `tpr_at_fpr_5` (members found at 5 % false alarms, chance 5 %) and
        `ks` (Kolmogorov-Smirnov statistic: the largest distance between the two sets' distributions of the score).

    Raises:
        UserError: Sets, gates or models are wrong; sets and gates are checked before a model is loaded.
    """
    optional("sklearn", "attacks", "the attack membership")
    started = time.perf_counter()
    members = _drawn(attack, attack.forget)
    tasks = {record.task for record in members}
    nonmembers = [record for record in _drawn(attack, attack.nonmembers) if record.task in tasks]
    if not nonmembers:
        raise UserError(
            "the non-members have no question of the members' kinds",
            where="`nonmembers`",
            expected="the tasks " + ", ".join(sorted(tasks)),
        )
    _check_apart(members, nonmembers)
    retain = sample(attack.retain.records, attack.limit, attack.seed) if attack.retain else []
    check_gates(attack.gates, _known(attack, retain))

    lengths: list[int] = []

    def ask(role: Role, loaded: LoadedModel) -> list[Metric]:
        start = "membership" if role == "model" else f"{role}.membership"
        inside, outside = (
            answer_likelihoods(loaded, each, attack.scoring.batch_size) for each in (members, nonmembers)
        )
        lengths.extend(len(each.log_probabilities) for each in (*inside, *outside))
        if attack.gradient:
            inside, outside = (
                [replace(answer, gradient_norm=norm) for answer, norm in zip(answers, norms, strict=True)]
                for answers, norms in (
                    (inside, gradient_norms(loaded, members)),
                    (outside, gradient_norms(loaded, nonmembers)),
                )
            )
        found: list[Metric] = []
        for name in attack.scores:
            score = SCORES[name]
            found += separation(
                f"{start}.{name}",
                [score(each, attack.k_percent) for each in inside],
                [score(each, attack.k_percent) for each in outside],
                [_origin(record) for record in members],
                [_origin(record) for record in nonmembers],
                seed=attack.seed,
            )
        if retain:
            answers = answer_records(loaded, retain, attack.scoring, listener)
            found += summarise(f"{start}.retain.{BEFORE}", answers, forget=False, seed=attack.seed)
        return found

    asked = ask_each(attack, ask, dtype=attack.dtype, listener=listener)
    metrics = [metric for found in asked.found.values() for metric in found]
    used = [(attack.forget, members), (attack.nonmembers, nonmembers)]
    used += [(attack.retain, retain)] if attack.retain else []
    return MembershipResult(
        models=asked.models,
        sets=drawn_facts(used, attack.salt),
        settings=MembershipSettings(
            **attack.asking(asked.first.places),
            k_percent=attack.k_percent,
            gradient=attack.gradient,
            members=len(members),
            nonmembers=len(nonmembers),
        ),
        metrics=metrics,
        gates=judge_metrics(attack.gates, metrics),
        warnings=[
            *_warnings(attack, metrics, members, nonmembers),
            *(["every answer is a single token, so Min-K% is the loss"] if max(lengths) == 1 else []),
        ],
        versions={**versions(), "scikit-learn": version("scikit-learn")},
        seconds=round(time.perf_counter() - started, 3),
    )


def answer_likelihoods(loaded: LoadedModel, records: Sequence[Record], batch_size: int) -> list[AnswerTokens]:
    """How likely every token of each record's right answer is, given image and question."""
    found: dict[int, AnswerTokens] = {}
    order = sorted(range(len(records)), key=lambda index: (str(records[index].media), index))
    with torch.no_grad():
        for start in range(0, len(order), 16 * batch_size):
            part = order[start : start + 16 * batch_size]
            loaded.encoder.drop_media()
            answers = [str(records[index].answer) for index in part]
            requests = [
                replace(answer_request(loaded.encoder, encode(loaded.encoder, records[index]), answer), moments=True)
                for index, answer in zip(part, answers, strict=True)
            ]
            read = read_log_probabilities(loaded, requests, batch_size)
            found |= {
                index: answer_tokens(answer, values.tolist())
                for index, answer, values in zip(part, answers, read, strict=True)
            }
    loaded.encoder.drop_media()
    return [found[index] for index in range(len(records))]


def separation(
    start: str,
    members: Sequence[float],
    nonmembers: Sequence[float],
    member_origins: Sequence[Hashable],
    outsider_origins: Sequence[Hashable],
    *,
    seed: int,
) -> list[Metric]:
    """How well a score tells members from others.

    Args:
        start: What the ids begin with.
        members: Scores of members; higher means member.
        nonmembers: Scores of the others.
        member_origins: The image of each; whole images are resampled, because questions on one belong together.
        outsider_origins: Likewise.
        seed: Seed of the bootstrap.
    """
    import sklearn
    from sklearn.metrics import auc, roc_curve

    def measure(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
        truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
        false_alarms, found, _ = roc_curve(truth, np.r_[inside, outside], drop_intermediate=False)
        hits = float(found[false_alarms <= _FALSE_ALARMS].max())
        return float(auc(false_alarms, found)), hits, float(np.abs(found - false_alarms).max())

    count = len(members) + len(nonmembers)
    inside, outside = np.asarray(members, dtype=float), np.asarray(nonmembers, dtype=float)
    if not (np.isfinite(inside).all() and np.isfinite(outside).all()):
        return [Metric(id=f"{start}.{name}", value=None, n=count, direction=_direction(name)) for name in MEASURES]
    area, hits, distance = measure(inside, outside)
    generator = np.random.default_rng(seed)
    # Checking hundreds of resamples of checked numbers would take most of the time.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        draws = np.array(
            [
                measure(_resampled(inside, member_origins, generator), _resampled(outside, outsider_origins, generator))
                for _ in range(_RESAMPLES)
            ]
        )
    values = {"auc": (area, draws[:, 0]), "advantage": (abs(2 * area - 1), np.abs(2 * draws[:, 0] - 1)),
              "tpr_at_fpr_5": (hits, draws[:, 1]), "ks": (distance, draws[:, 2])}  # fmt: skip
    chance = {"auc": 0.5, "tpr_at_fpr_5": _FALSE_ALARMS}
    metrics = []
    for name, (value, resampled) in values.items():
        low, high = np.quantile(resampled, [0.025, 0.975])
        metrics.append(
            Metric(
                id=f"{start}.{name}",
                value=value,
                n=count,
                direction=_direction(name),
                low=float(low),
                high=float(high),
                interval="bootstrap",
                chance=chance.get(name),
            )
        )
    return metrics


def _direction(name: str) -> Direction:
    # An AUC far below a half tells members as well as one far above it.
    return "none" if name == "auc" else "lower"


def _resampled(scores: np.ndarray, origins: Sequence[Hashable], generator: np.random.Generator) -> np.ndarray:
    groups: dict[Hashable, list[int]] = {}
    for index, origin in enumerate(origins):
        groups.setdefault(origin, []).append(index)
    members = list(groups.values())
    drawn = generator.integers(0, len(members), len(members))
    return scores[[index for group in drawn for index in members[group]]]


def _drawn(attack: Inferring, chosen: NamedSet) -> list[Record]:
    records = [record for record in chosen.records if to_forget(record)]
    if not records:
        raise UserError(
            f"the {chosen.name} set holds no question that could tell members",
            expected="questions about images in tasks other than general.* and text.*",
        )
    return sample(records, attack.limit, attack.seed)


def _check_apart(members: Sequence[Record], nonmembers: Sequence[Record]) -> None:
    shared = shares_media(members, nonmembers)
    if shared is not None:
        raise UserError(
            "an image is in the members and in the non-members",
            where=shared.source,
            expected="images that no model was trained on",
        )


def _origin(record: Record) -> Hashable:
    return record.media


def _known(attack: Inferring, retain: Sequence[Record]) -> list[str]:
    own = [f"membership.{score}.{name}" for score in attack.scores for name in MEASURES]
    own += metric_ids(f"membership.retain.{BEFORE}", retain)
    return [*own, *(f"{role}.{name}" for role, _ in attack.roles if role != "model" for name in own)]


def _warnings(
    attack: Inferring, metrics: Sequence[Metric], members: Sequence[Record], nonmembers: Sequence[Record]
) -> list[str]:
    found = missing_warnings(has_retain=attack.retain is not None, has_gold=attack.gold is not None)
    by_id = {metric.id: metric for metric in metrics}
    shares = [{task: count / len(part) for task, count in Counter(r.task for r in part).items()}
              for part in (members, nonmembers)]  # fmt: skip
    if any(abs(shares[0][task] - shares[1].get(task, 0.0)) > 0.1 for task in shares[0]):
        found.append(
            "members and non-members ask different mixes of tasks, so their likelihoods may differ for that alone; "
            "read the gap to gold"
        )
    if attack.gradient and any(metric.value is None for metric in metrics if f".{GRADIENT}." in metric.id):
        found.append(
            "the gradient's norm was not measured: weights lie in other places than the device, or it is no number"
        )
    own, base, gold = (by_id.get(f"{role}membership.loss.auc") for role in ("", "reference.", "gold."))
    if base and base.low is not None and base.high is not None and base.low <= 0.5 <= base.high:
        found.append(
            f"the reference itself does not tell members apart (AUC {base.value:.3f}): there is nothing to hide here"
        )
    if gold and gold.low is not None and gold.high is not None and not gold.low <= 0.5 <= gold.high:
        found.append(
            f"gold, which saw neither, tells the two sets apart (AUC {gold.value:.3f}): they differ by themselves; "
            "hold the model against gold, not against 0.5"
        )
    if own and own.high is not None and own.high < 0.5 - _MATTERS:
        found.append(f"members are less likely than non-members (AUC {own.value:.3f}): being unlearned tells them, too")
    return found
