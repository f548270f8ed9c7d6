"""The search itself: the recipe first, then the points to start from, then a tree-structured Parzen estimator.

Multivariate multi-objective TPE (Ozaki et al., Journal of Artificial Intelligence Research 73, 2022; optuna). The
sampler is made anew for each trial from the seed and the trial's number, so a search that was interrupted draws what it
would have drawn, and shards draw what one search would have drawn as long as the points are drawn evenly.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.shard import Shard
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.tuning.objective import OBJECTIVES, Measured
from vkdsurgeon.tuning.space import Range, Space, is_integer, named, point_of, recipe_at
from vkdsurgeon.tuning.storage import DRAW, REASON, drawn

# Points drawn evenly before the estimator has anything to estimate from; the first ones count.
STARTUP = 8
_DIGITS = 6


def search(
    study: optuna.Study,
    space: Space,
    recipe: Recipe,
    derived_steps: int,
    run: Callable[[Recipe], Measured],
    *,
    draws: Sequence[int],
    minutes: float | None,
    seed: int,
    heard: Callable[[FrozenTrial], None],
    started: float,
) -> None:
    """Run trials until a budget is spent; at least one in all.

    Args:
        study: From `storage.opened`; its finished trials count.
        space: What may vary.
        recipe: Where the search starts, and what gives the keys that do not vary.
        derived_steps: What `steps` counts multiples of.
        run: Measures one recipe.
        draws: Numbers of the trials to finish, as in `draws_of`; earlier ones included.
        minutes: No trial starts later than so many minutes after `started`; None for no bound.
        seed: Seed of the random draws.
        heard: Called with every finished trial.
        started: `time.monotonic()` when the command began.

    Raises:
        UserError: The recipe that the search starts from cannot be run on these sets.
    """
    points = starting_points(space, recipe)
    while True:
        done = drawn(study)
        left = [number for number in draws if number not in done]
        late = minutes is not None and time.monotonic() - started >= 60 * minutes
        if not left or (late and done):
            return
        number = left[0]
        study.sampler = _sampler(seed, number)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if number < len(points) and not waiting:
            study.enqueue_trial(points[number])
        trial = study.ask()
        trial.set_user_attr(DRAW, number)
        chosen = recipe_at(recipe, _draw(trial, space), space, derived_steps)
        _try(study, trial, partial(run, chosen), first=not number)
        heard(study.get_trials(deepcopy=False)[trial.number])


def draws_of(trials: int, shard: Shard | None) -> list[int]:
    """Numbers of the trials to finish: all, or those of a shard, which tries the start recipe besides.

    Args:
        trials: How many there are in all.
        shard: The share of this search; its own trials are what its estimator learns from.
    """
    return [number for number in range(trials) if shard is None or not number or shard.takes(number)]


def starting_points(space: Space, recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe and the space's points to start from, as the sampler names them.

    Raises:
        UserError: The recipe lies outside the space.
    """
    return [point_of(space, recipe, changes) for changes in ({}, *space.start)]


def _try(study: optuna.Study, trial: Trial, run: Callable[[], Measured], *, first: bool) -> None:
    try:
        measured = run()
    except UserError as error:
        if first:
            raise
        # Told without the value, which may name a file or a subject.
        _fail(study, trial, error.what)
        return
    except SurgeryError as error:
        _fail(study, trial, str(error))
        return
    except torch.OutOfMemoryError:
        _fail(study, trial, "out of memory")
        return
    values = [round(measured.values[name], _DIGITS) for name in OBJECTIVES]
    if not all(map(math.isfinite, values)):
        _fail(study, trial, "an objective is not a finite number")
        return
    trial.set_user_attr("parts", {name: round(value, _DIGITS) for name, value in measured.parts.items()})
    trial.set_user_attr("seconds", round(measured.seconds, 1))
    trial.set_user_attr("selected_elements", measured.selected_elements)
    if measured.verdict is not None:
        trial.set_user_attr("stop_rule", asdict(measured.verdict))
    study.tell(trial, values)


def _fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    trial.set_user_attr(REASON, reason)
    study.tell(trial, state=TrialState.FAIL)


def _sampler(seed: int, number: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        mixed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return TPESampler(seed=mixed, multivariate=True, n_startup_trials=STARTUP, constant_liar=False)


def _draw(trial: Trial, space: Space) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for key, dimension in space.search.items():
        if not isinstance(dimension, Range):
            point[key] = trial.suggest_categorical(key, [named(choice) for choice in dimension])
        elif is_integer(key):
            low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
            point[key] = trial.suggest_int(key, low, high, step=step, log=dimension.log)
        else:
            point[key] = trial.suggest_float(key, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
    return point


def changes_of(trial: FrozenTrial, recipe: Recipe, space: Space) -> dict[str, Any]:
    """The keys that a trial's recipe changes of the start recipe; `steps` as a multiple."""
    start = point_of(space, recipe, {})
    return {
        key: value if isinstance(space.search[key], Range) else json.loads(value)
        for key, value in trial.params.items()
        if value != start[key]
    }
