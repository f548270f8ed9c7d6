"""From an evaluation's many metrics to the few columns of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from vkdsurgeon.results.evaluation import Metric

FORGET, NAME, GENERAL, RETAIN, TEXT = "forget", "forget.name", "forget.general", "retain", "text"
SECONDS, CPU_SECONDS, MEMORY, FLOPS, SCORE = "seconds", "cpu_seconds", "peak_memory_mib", "tera_flops", "score"
SHARES = (FORGET, NAME, GENERAL, RETAIN, TEXT)
COSTS = (SECONDS, CPU_SECONDS, MEMORY, FLOPS)
_AG = ".relearn.ag"
# The metric of closed questions first, then those of free answers.
_ORDER = ("accuracy", "rouge_l")
_PROTOCOLS = ("people", "pairs")
_NAMES = "forget.vqa.name.accuracy"
_COLUMNS = ((FORGET, "forget", "lower"), (GENERAL, "forget", "higher"), (RETAIN, "retain", "higher"),
            (TEXT, "text", "higher"))  # fmt: skip

BASE, GOLD = "base", "gold"


def ag_of(protocol: str, scope: str | None = None) -> str:
    """The id of a protocol's AG under one scope, or of the largest over the scopes."""
    return f"{protocol}{_AG}" if scope is None else f"{protocol}.{scope}{_AG}"


def attack_of(column: str) -> tuple[str, str | None] | None:
    """Protocol and scope of an AG's id; None for any other column."""
    if not column.endswith(_AG):
        return None
    protocol, _, scope = column.removesuffix(_AG).partition(".")
    return protocol, scope or None


def headline(metrics: Sequence[Metric]) -> dict[str, float | None]:
    """The columns that an evaluation gives.

    `forget`: questions of the forget set that are to be answered no more, over all tasks that are not divided further;
    `forget.name`: task `vqa.name`, where there is one; `forget.general`: the forget set's questions that are to be
    answered as before; `retain` and `text`: all of their set's. Accuracy where there are options, else ROUGE-L.
    """
    found = _columns(metrics, lambda metric: metric.value)
    for column, set_name, direction in _COLUMNS:
        # A mean over what could be measured would hide that the model is broken.
        if any(metric.value is None for metric in _averaged(metrics, set_name, direction)):
            found[column] = None
    return found


def chances(metrics: Sequence[Metric]) -> dict[str, float]:
    """The scores of guessing among the options, by column; closed questions only."""
    found = _columns(metrics, lambda metric: metric.chance)
    return {name: value for name, value in found.items() if value is not None}


def _columns(metrics: Sequence[Metric], read: Callable[[Metric], float | None]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for column, set_name, direction in _COLUMNS:
        value = _mean(metrics, set_name, direction, read)
        if value is not None:
            found[column] = value
    for metric in metrics:
        if metric.id == _NAMES:
            found[NAME] = read(metric)
    return found


def _averaged(metrics: Sequence[Metric], set_name: str, direction: str) -> list[Metric]:
    """The metrics that a column is the mean of."""
    for kind in _ORDER:
        chosen = [
            metric
            for metric in metrics
            if metric.id.startswith(f"{set_name}.")
            and metric.id.count(".") == 2
            and metric.id.endswith(f".{kind}")
            and metric.direction == direction
        ]
        if chosen:
            return chosen
    return []


def _mean(
    metrics: Sequence[Metric], set_name: str, direction: str, read: Callable[[Metric], float | None]
) -> float | None:
    for kind in _ORDER:
        chosen = [
            (value, metric.n)
            for metric in metrics
            if metric.id.startswith(f"{set_name}.")
            and metric.id.count(".") == 2
            and metric.id.endswith(f".{kind}")
            and metric.direction == direction
            and (value := read(metric)) is not None
        ]
        total = sum(n for _, n in chosen)
        if total:
            return sum(value * n for value, n in chosen) / total
    return None


def score(
    cell: Mapping[str, float | None],
    base: Mapping[str, float | None],
    gold: Mapping[str, float | None] | None,
    protocols: Sequence[str],
    scopes: Sequence[str],
) -> float | None:
    """Forget near gold x retain kept x resistance to relearning, 0 to 1; see `ComparisonResult`."""
    forget, retain, kept = cell.get(FORGET), cell.get(RETAIN), base.get(RETAIN)
    if gold is None or forget is None or retain is None or not kept:
        return None
    ideal = gold.get(FORGET)
    excesses = [_excess(cell, gold, protocol, scopes) for protocol in protocols]
    known = [excess for excess in excesses if excess is not None]
    if ideal is None or len(known) != len(excesses) or not excesses:
        return None
    resistance = sum(1 - max(0.0, excess) / 100 for excess in known) / len(known)
    return (1 - abs(forget - ideal)) * min(1.0, retain / kept) * resistance


def _excess(
    cell: Mapping[str, float | None], gold: Mapping[str, float | None], protocol: str, scopes: Sequence[str]
) -> float | None:
    """AG beyond gold's under the scope where it is largest; scopes whose attack diverged on either do not count."""
    pairs = [(cell.get(name), gold.get(name)) for scope in scopes for name in (ag_of(protocol, scope),)]
    gaps = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    return max(gaps) if gaps else None


def ordered(names: Iterable[str]) -> list[str]:
    """Columns in a fixed order; AG of single scopes before the largest over them."""
    present = list(dict.fromkeys(names))
    attacks = [name for name in present if attack_of(name)]
    attacks.sort(key=lambda name: _PROTOCOLS.index(name.split(".")[0]))
    return [name for name in (*SHARES, *attacks, SCORE, *COSTS) if name in present]
