"""Searching for a recipe, and comparing methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vkdsurgeon.api.arguments import model_of, optional_model, optional_records, path_of, recipe_of, records_of
from vkdsurgeon.api.names import Dtype, PathLike, RecordSet
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.events import Listener, unheard

if TYPE_CHECKING:
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.model.device_map import MaxMemory
    from vkdsurgeon.results.comparison import ComparisonResult
    from vkdsurgeon.tuning.result import TuneResult
    from vkdsurgeon.tuning.space import Space


def tune(
    model: PathLike,
    forget: RecordSet,
    out: PathLike,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    validation_forget: RecordSet | None = None,
    validation_retain: RecordSet | None = None,
    limit: int | None = None,
    recipe: Recipe | Mapping[str, Any] | PathLike | None = None,
    preset: str | None = None,
    space: Space | PathLike | None = None,
    trials: int = 30,
    minutes: float | None = None,
    pick: Literal["knee", "forget", "retain", "robust", "general"] | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Dtype = "auto",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    resume: bool = False,
    shard: str | None = None,
    join: Sequence[PathLike] = (),
    on_event: Listener | None = None,
) -> TuneResult:
    """Search for recipes that forget more, retain more or resist relearning better than a start recipe, on your data.

        found = tune("model/", "forget.jsonl", "tuned/", retain="retain.jsonl", minutes=60, pick="retain")
        unlearn("model/", "forget.jsonl", "patched/", retain="retain.jsonl", recipe="tuned/picked.yaml")

    Args:
        model: Same as in `unlearn`. It is never written to.
        forget: Same as in `unlearn`.
        out: A directory for trials, recipes and the result. It must be empty or not exist, unless `resume` is given.
        retain: Same as in `unlearn`.
        generic: Same as in `unlearn`.
        validation_forget: Questions about held-out images of the forget subjects. With `validation_retain` as well,
            two of the three objectives are measured by asking the whole model. Without both, all three are measured
            from image features, without labels.
        validation_retain: Questions about held-out images of the retain subjects.
        limit: The largest number of validation questions per set.
        recipe: The start recipe, in any form that `unlearn` accepts.
        preset: Same as in `unlearn`.
        space: The keys to vary and their ranges: a `Space` or a YAML file. None uses the default space.
        trials: The number of finished trials to reach. Trials of a resumed search count.
        minutes: No trial starts after this many minutes. At least one trial is always finished.
        pick: The rule that picks one recipe from the Pareto front. That recipe is written as picked.yaml.
        seed: Seed for all random choices.
        device: Same as in `unlearn`.
        dtype: Same as in `unlearn`.
        tower: Same as in `unlearn`.
        projector: Same as in `unlearn`.
        resume: Continue with the trials in `out`, if there are any.
        shard: `I/N`, I from 0: of the trials 0 to `trials` - 1 run the first, and those that are I modulo N, each with
            the random draws that it would have without shards. Every shard needs an `out` of its own.
        join: Directories of earlier searches with the same input, whose finished trials count as this one's: those of
            the shards. They are only read.
        on_event: Called with every trial, stage and warning.

    Returns:
        The trials and their Pareto front. `passed` is False if `pick` was given and no recipe satisfies it.

    Raises:
        UserError: The input is wrong, or differs from the input of the trials to continue with.
        SurgeryError: No trial finished.
    """
    from vkdsurgeon.config.shard import shard_of
    from vkdsurgeon.files.optional import optional
    from vkdsurgeon.model.device import resolve_device
    from vkdsurgeon.model.precision import resolve_precision
    from vkdsurgeon.pipeline.request import Request

    optional("optuna", "tune", "a search for recipes")
    from vkdsurgeon.tuning.pick import rule_named
    from vkdsurgeon.tuning.space import Space, load_space
    from vkdsurgeon.tuning.tune import TuneRequest
    from vkdsurgeon.tuning.tune import tune as run

    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError("not a valid time limit", where="`minutes`", value=minutes, expected="a number above 0")
    records = _validation(validation_forget, validation_retain, limit, seed)
    start = Request(
        model=model_of(model),
        forget=records_of(forget),
        retain=optional_records(retain),
        generic=optional_records(generic),
        out=None,
        recipe=recipe_of(recipe, preset),
        seed=seed,
        device=resolve_device(device),
        **resolve_precision(dtype),
        tower=tower,
        projector=projector,
    )
    request = TuneRequest(
        unlearn=start,
        out=Path(out),
        space=space if isinstance(space, Space) else load_space(path_of(space)),
        trials=trials,
        minutes=minutes,
        resume=resume,
        rule=None if pick is None else rule_named(pick, rates=records is not None),
        validation=records,
        shard=shard_of(shard),
        join=tuple(map(Path, join)),
    )
    return run(request, on_event or unheard)


def compare(
    model: PathLike,
    methods: str | Sequence[str],
    forget: PathLike,
    retain: PathLike,
    out: PathLike,
    *,
    gold: PathLike | None = None,
    heldout: PathLike | None = None,
    retain_heldout: PathLike | None = None,
    text: PathLike | None = None,
    recipe: Recipe | Mapping[str, Any] | PathLike | None = None,
    preset: str | None = None,
    seeds: Sequence[int] = (0,),
    attack_scopes: Sequence[str] = ("visual", "all"),
    attack_steps: int = 15,
    limit: int | None = 800,
    gates: Iterable[str] = (),
    device: str = "auto",
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    dtype: Dtype = "auto",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    keep_models: bool = False,
    shard: str | None = None,
    on_event: Listener | None = None,
) -> ComparisonResult:
    """Run several unlearning methods on the same data, and compare forgetting, utility, relearning and cost.

        found = compare("model/", ["vkd", "npo"], "forget.jsonl", "retain.jsonl", "compared/", gold="gold/")
        {row.name: row.values["score"] for row in found.rows}

    Every method and seed runs in a process of its own: it unlearns, is evaluated, and is attacked by relearning. To
    continue an interrupted comparison, make the same call again.

    Args:
        model: Same as in `unlearn`.
        methods: Names of methods, as a sequence or separated by commas: `vkd`, `vkd-PRESET`, `vkd-npo` and the other
            output losses, the methods of `run_method`, or `all`.
        forget: The forget set, as in `run_method`. It must be a file or a folder, because each process reads it.
        retain: The retain set; also a file or a folder.
        out: A directory for the results. It will contain comparison.json and comparison.md.
        gold: A model that was never trained on the forget set. It gets a row of its own, and scores are computed
            relative to it.
        heldout: Other images of the forget subjects, to measure on.
        retain_heldout: Other images of the retain subjects, to measure on.
        text: Questions without images. One half is used to measure; the other half is given to the methods that use
            text.
        recipe: Recipe keys that override the preset of every method.
        preset: The preset that the method name `vkd` stands for.
        seeds: Every method runs once with each seed.
        attack_scopes: Which weights the attackers may train: `visual`, `llm`, `llm_full`, `all`. The score uses the
            worst of them.
        attack_steps: Optimizer steps of each attack.
        limit: The largest number of questions per measured set. None asks all of them.
        gates: Bounds on NAME.METRIC, such as `vkd.forget<=0.1`.
        device: Same as in `unlearn`.
        device_map: Same as in `evaluate`, wherever the whole model is loaded. Weights that a method or an attack of
            `attack_scopes` trains must lie on one device.
        max_memory: Same as in `evaluate`.
        dtype: Same as in `unlearn`. Methods other than VKD take `mixed` for `float32`.
        tower: Same as in `unlearn`.
        projector: Same as in `unlearn`.
        keep_models: Keep the patched checkpoints in `out`.
        shard: `I/N`, I from 0: of all runs (seed by seed: gold, with the first seed base, then the methods) do only
            those whose position is I modulo N. Shards may share `out`, or have one each, whose cells/ are copied
            together. The same call without it then makes the table. No gates.
        on_event: Called with progress events and warnings.

    Returns:
        One row per method, with means over the seeds, and the outcome of the gates.

    Raises:
        UserError: The input is wrong, or a method does not support it.
        SurgeryError: A method failed, or its process died.
    """
    from vkdsurgeon.comparison.compare import Comparison
    from vkdsurgeon.comparison.compare import compare as run
    from vkdsurgeon.comparison.methods import parse_names, parse_seeds
    from vkdsurgeon.comparison.relearning import parse_scopes
    from vkdsurgeon.config.shard import shard_of
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.model.device import resolve_device
    from vkdsurgeon.model.device_map import device_map_of
    from vkdsurgeon.model.precision import resolve_precision

    resolve_precision(dtype)
    asked = Comparison(
        model=model_of(model),
        methods=parse_names(methods if isinstance(methods, str) else ",".join(methods), preset),
        forget=Path(forget),
        retain=Path(retain),
        out=Path(out),
        recipe=recipe_of(recipe, None),
        gold=optional_model(gold),
        heldout=path_of(heldout),
        retain_heldout=path_of(retain_heldout),
        text=path_of(text),
        seeds=parse_seeds(",".join(map(str, seeds))),
        scopes=parse_scopes(",".join(attack_scopes)),
        attack_steps=attack_steps,
        limit=limit,
        gates=parse_gates([*gates]),
        device=str(resolve_device(device)),
        device_map=device_map_of(device_map, max_memory),
        dtype=dtype,
        tower=tower,
        projector=projector,
        keep_models=keep_models,
        shard=shard_of(shard),
    )
    return run(asked, on_event or unheard)


def _validation(forget: RecordSet | None, retain: RecordSet | None, limit: int | None, seed: int) -> Any:
    from vkdsurgeon.data.sets import read_set, sample
    from vkdsurgeon.tuning.validation_metrics import ValidationRecords

    if forget is None and retain is None:
        if limit is not None:
            raise UserError(
                "a limit on validation questions was given, but no validation questions",
                where="`limit`",
                value=limit,
                expected="`validation_forget` and `validation_retain`",
            )
        return None
    if forget is None or retain is None:
        raise UserError(
            "validation questions were given for one set only",
            where="`validation_forget`" if forget is None else "`validation_retain`",
            expected="both `validation_forget` and `validation_retain`, or neither",
        )
    named = (("forget", forget), ("retain", retain))
    drawn = (sample(read_set(name, records_of(each)).records, limit, seed) for name, each in named)
    return ValidationRecords(*map(tuple, drawn))
