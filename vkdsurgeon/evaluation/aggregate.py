"""One table over several seeds: the same evaluation of several models that differ by chance only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from vkdsurgeon.errors import UserError
from vkdsurgeon.results.document import Document
from vkdsurgeon.results.evaluation import Direction, EvalResult

_DIFFERENCES = ("delta.", "gap.", "room.")


class Spread(BaseModel):
    """One metric over several models.

    Attributes:
        id: As in the evaluations.
        mean: Over the models; None where one of them could not be measured.
        deviation: Standard deviation over the models, with n - 1.
        low: Lower end of the 95 % t interval of the mean, cut off where the metric's values end.
        high: Upper end.
        values: Values of each model, in the order given.
        n: Number of records in each.
        chance: What guessing would give.
        direction: Which way is better.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    values: list[float | None]
    n: int
    chance: float | None
    direction: Direction


class AggregateResult(Document):
    """What `vkdsurgeon aggregate` prints; `models` holds the digests of the weights, in the order given."""

    schema_version: int = 1
    kind: Literal["aggregate"] = "aggregate"
    models: list[str]
    metrics: list[Spread]


def aggregate(results: Sequence[EvalResult], names: Sequence[object]) -> AggregateResult:
    """Average over models that were evaluated alike.

    The intervals are Student's over the models: they speak about other seeds, on these same questions.

    Args:
        results: Two or more evaluations.
        names: Where each comes from, for messages.

    Raises:
        UserError: There are too few, one model comes twice, or they were not asked the same.
    """
    if len(results) < 2:
        raise UserError(
            "a single evaluation cannot be averaged", value=len(results), expected="two or more documents of eval"
        )
    models = [result.models[0].weights_digest for result in results]
    for number, result in enumerate(results):
        if models[number] in models[:number]:
            first = names[models.index(models[number])]
            raise UserError("two evaluations are of the same weights", where=names[number], value=f"as in {first}")
        asked, of_first = ([(each.name, each.digest) for each in found.sets] for found in (result, results[0]))
        ids, ids_of_first = ({metric.id for metric in found.metrics} for found in (result, results[0]))
        if asked != of_first or ids != ids_of_first:
            raise UserError(
                "the evaluations were made with different settings",
                where=names[number],
                value=asked if asked != of_first else sorted(ids ^ ids_of_first)[:5],
                expected=f"sets and metrics as in {names[0]}, with the same `salt`, `seed` and `limit`",
            )
    tables = [{metric.id: metric for metric in result.metrics} for result in results]
    return AggregateResult(
        models=models,
        metrics=[
            _spread([table[metric.id].value for table in tables], metric.id, metric.n, metric.chance, metric.direction)
            for metric in results[0].metrics
        ],
    )


def _spread(values: list[float | None], name: str, n: int, chance: float | None, direction: Direction) -> Spread:
    from scipy.stats import t

    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    mean = float(np.mean(known)) if whole else None
    deviation = float(np.std(known, ddof=1)) if whole else None
    # Student's interval knows no bounds, shares do.
    least = -1.0 if name.startswith(_DIFFERENCES) else 0.0
    half = None if deviation is None else float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    return Spread(
        id=name,
        mean=mean,
        deviation=deviation,
        low=None if mean is None or half is None else max(least, mean - half),
        high=None if mean is None or half is None else min(1.0, mean + half),
        values=values,
        n=n,
        chance=chance,
        direction=direction,
    )
