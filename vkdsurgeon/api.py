"""The public Python API; everything here is found in `vkdsurgeon` itself.

    from vkdsurgeon import evaluate, unlearn

    run = unlearn("model/", "forget.jsonl", "patched/", retain="retain.jsonl")
    result = evaluate("patched/", {"forget": "heldout.jsonl"}, base="model/", gates=["forget.vqa.accuracy<=0.1"])
    result.raise_if_failed()

Sets are files or folders, as the command line takes them, or sequences of `Record`. Results are pydantic models, and
`model_dump_json()` is what the commands print with `--json`. Wrong input raises `UserError`, what the caller did not
cause raises `SurgeryError`; in both cases nothing half-written stays. A missed bound raises nothing by itself: results
have `passed`, `failures` and `raise_if_failed()`.

Importing this module loads neither torch nor pydantic; calling a function does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vkdsurgeon.errors import GateFailed, SurgeryError, UserError
from vkdsurgeon.training.events import Event, Listener, unheard

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import nn

    from vkdsurgeon.attacks.by_name import AnyAttackResult
    from vkdsurgeon.baselines.registry import Scope
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.config.release import ReleasePlan
    from vkdsurgeon.data.read import Given
    from vkdsurgeon.data.record import Record
    from vkdsurgeon.data.sets import NamedSet
    from vkdsurgeon.data.suites.split import SuiteSplit
    from vkdsurgeon.pipeline.read_result import AnyResult
    from vkdsurgeon.pipeline.result import UnlearnResult
    from vkdsurgeon.pipeline.run_baseline import MethodResult
    from vkdsurgeon.report.page import SignOff
    from vkdsurgeon.report.write import ReportResult
    from vkdsurgeon.results.attacks import AttackResult
    from vkdsurgeon.results.comparison import ComparisonResult
    from vkdsurgeon.results.difference import DiffResult
    from vkdsurgeon.results.evaluation import EvalResult
    from vkdsurgeon.results.inspection import InspectResult
    from vkdsurgeon.results.patch import PatchResult
    from vkdsurgeon.results.relearn import RelearnResult, RestoreResult
    from vkdsurgeon.results.release import ReleaseResult
    from vkdsurgeon.results.reproduction import ReproduceResult
    from vkdsurgeon.results.tuning import TuneDocument
    from vkdsurgeon.results.verification import VerifyResult
    from vkdsurgeon.training.saliency import MaskRule
    from vkdsurgeon.tuning.result import TuneResult
    from vkdsurgeon.tuning.space import Space
    from vkdsurgeon.vision_pass.targets.context import ForgetTargets, TargetContext

PathLike: TypeAlias = str | Path
"""A path."""
RecordSet: TypeAlias = "str | Path | Sequence[Record]"
"""A set: a JSONL or JSON file, a folder of images, or records."""
AttackName: TypeAlias = Literal["relearn", "restore", "probe", "quantize", "perturb", "prompt", "membership"]
"""What `attack` knows."""

_HOMES = {
    "AttackResult": "vkdsurgeon.results.attacks",
    "ComparisonResult": "vkdsurgeon.results.comparison",
    "DiffResult": "vkdsurgeon.results.difference",
    "EvalResult": "vkdsurgeon.results.evaluation",
    "ForgetTargets": "vkdsurgeon.vision_pass.targets.context",
    "InspectResult": "vkdsurgeon.results.inspection",
    "MethodResult": "vkdsurgeon.pipeline.run_baseline",
    "PatchResult": "vkdsurgeon.results.patch",
    "Recipe": "vkdsurgeon.config.recipe",
    "Record": "vkdsurgeon.data.record",
    "RelearnResult": "vkdsurgeon.results.relearn",
    "ReleaseResult": "vkdsurgeon.results.release",
    "ReportResult": "vkdsurgeon.report.write",
    "ReproduceResult": "vkdsurgeon.results.reproduction",
    "RestoreResult": "vkdsurgeon.results.relearn",
    "SuiteSplit": "vkdsurgeon.data.suites.split",
    "TargetContext": "vkdsurgeon.vision_pass.targets.context",
    "TuneDocument": "vkdsurgeon.results.tuning",
    "TuneResult": "vkdsurgeon.tuning.result",
    "UnlearnResult": "vkdsurgeon.pipeline.result",
    "VerifyResult": "vkdsurgeon.results.verification",
}

__all__ = [
    "AttackResult",
    "ComparisonResult",
    "DiffResult",
    "EvalResult",
    "Event",
    "ForgetTargets",
    "GateFailed",
    "InspectResult",
    "MethodResult",
    "PatchResult",
    "Recipe",
    "Record",
    "RelearnResult",
    "ReleaseResult",
    "ReportResult",
    "ReproduceResult",
    "RestoreResult",
    "SuiteSplit",
    "SurgeryError",
    "TargetContext",
    "TuneDocument",
    "TuneResult",
    "UnlearnResult",
    "UserError",
    "VerifyResult",
    "apply_patch",
    "attack",
    "attest",
    "compare",
    "diff",
    "evaluate",
    "export_patch",
    "inspect",
    "load_recipe",
    "make_release",
    "patch_checkpoint",
    "read_result",
    "register_forget_target",
    "register_mask",
    "reproduce",
    "run_method",
    "tune",
    "unlearn",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__


def unlearn(
    model: PathLike,
    forget: RecordSet | None,
    out: PathLike | None = None,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    text: PathLike | None = None,
    suite: SuiteSplit | None = None,
    recipe: Recipe | Mapping[str, Any] | PathLike | None = None,
    preset: str | None = None,
    forget_teacher: PathLike | None = None,
    retain_teacher: PathLike | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    resume: bool = False,
    journal: PathLike | None = None,
    checkpoint_minutes: float = 1.0,
    drop_stale: bool = False,
    follow_links: bool = False,
    request_id: str | None = None,
    request_date: str | None = None,
    on_event: Listener | None = None,
) -> UnlearnResult:
    """Make the vision tower and the projector forget, and write a patched checkpoint.

        run = unlearn("model/", "forget.jsonl", "patched/", retain="retain.jsonl", preset="robust")
        run.passed, run.verdict.own, run.write.elements_changed

    Only weights that the saliency mask selects change. With a `decoder` section in the recipe, selected weights of the
    language model change too. The output appears complete and verified, or not at all.

    Args:
        model: A Hugging Face checkpoint directory, or `ORG/NAME` (`ORG/NAME@REVISION`) of a model in the local Hugging
            Face cache; so is every model here. It is never written to.
        forget: What to forget, with a subject per record where it shows several. None only with `suite`.
        out: Where the patched checkpoint goes: a directory that is empty or not there yet. None plans the run, with
            its memory, and writes nothing.
        retain: What to keep. Without it, and without `generic`, images of drawn strangers stand in.
        generic: Images of others, beside `retain` or in its place.
        text: Prompts that a decoder pass has to go on reading alike.
        suite: A split of a published benchmark, in place of `forget` and `retain`.
        recipe: A recipe, its settings by key, or a YAML file; None for the defaults.
        preset: A recipe that ships with the package, under the settings of `recipe`.
        forget_teacher: A model that does not know them, whose features are the targets (forget target `reference`).
        retain_teacher: A model to keep the rest like, instead of `model`.
        seed: Seed of every random draw.
        device: `auto` (CUDA where there is a GPU), `cpu`, `cuda` or `cuda:N`.
        dtype: What the weights are held in while they are trained. On disk they keep their own.
        tower: Module path of the tower, where `inspect` shows a wrong one.
        projector: Module paths of the projector, likewise.
        resume: Go on from the journal of an interrupted run, or start where there is none.
        journal: Where progress is saved; by default beside the output, as OUT.journal.
        checkpoint_minutes: Least minutes between two saves.
        drop_stale: Leave out of the output files that may hold the same weights once more.
        follow_links: Copy what links lead to that leave the model's directory.
        request_id: What asked for it, such as a ticket; it stands in the record beside the weights, so it names nobody.
        request_date: Of the request, as YYYY-MM-DD; likewise.
        on_event: Called with every stage, step and warning.

    Returns:
        The result. `passed` says whether the stop rule and, where there is one, the decoder pass's gate were met; the
        checkpoint is written either way.

    Raises:
        UserError: The input is wrong; found before anything is trained wherever that is possible.
        SurgeryError: Training or writing failed.
        KeyboardInterrupt: Interrupted. With an output, progress is in the journal.
    """
    from vkdsurgeon.data.request import request_tag
    from vkdsurgeon.model.device import resolve_device, resolve_dtype
    from vkdsurgeon.pipeline.run import Request, run

    chosen = _recipe(recipe, preset)
    if chosen.output_loss is not None:
        raise UserError(
            "the recipe forgets by answers, which takes the language model", where="recipe key 'output_loss'",
            value=chosen.output_loss, remedy='call run_method("vkd", ...)',
        )  # fmt: skip
    request = Request(
        model=_model(model),
        forget=_given(forget),
        retain=_given(retain),
        generic=_given(generic),
        out=_path(out),
        recipe=chosen,
        text=_path(text),
        suite=suite,
        forget_teacher=_given_model(forget_teacher),
        retain_teacher=_given_model(retain_teacher),
        journal=_path(journal),
        resume=resume,
        checkpoint_minutes=checkpoint_minutes,
        drop_stale=drop_stale,
        follow_links=follow_links,
        tag=request_tag(request_id, request_date),
        seed=seed,
        device=resolve_device(device),
        dtype=resolve_dtype(dtype),
        tower=tower,
        projector=projector,
    )
    return run(request, on_event or unheard)


def run_method(
    method: str,
    model: PathLike,
    forget: RecordSet,
    out: PathLike | None = None,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    text: RecordSet | None = None,
    scope: Scope | Literal["visual", "llm", "all"] | None = None,
    recipe: Recipe | Mapping[str, Any] | PathLike | None = None,
    preset: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    drop_stale: bool = False,
    follow_links: bool = False,
    request_id: str | None = None,
    request_date: str | None = None,
    on_event: Listener | None = None,
) -> MethodResult:
    """Unlearn by another published method, or by VKD through the language model's answers.

        run_method("npo", "model/", "forget.jsonl", "patched/", retain="retain.jsonl", scope="all")
        run_method("vkd", "model/", "forget.jsonl", "patched/", recipe={"output_loss": "npo"})

    It stands apart from `unlearn` because it loads the language model, has no stop rule, keeps no journal, and its
    result says other things.

    Args:
        method: `ga`, `graddiff`, `klmin`, `npo`, `idk`, `rmu`, `manu` or `mmunlearner`; or `vkd` with an `output_loss`.
        model: As in `unlearn`.
        forget: Questions with answers about what to forget.
        out: As in `unlearn`.
        retain: Questions with answers to keep.
        generic: Images of others; for `vkd` alone.
        text: Questions without images, for methods that have a use for them.
        scope: What may move: tower and projector, the language model, or both. None for what the method's source
            trains.
        recipe: As in `unlearn`; the methods read its section `baseline` alone.
        preset: As in `unlearn`.
        seed: Seed of every random draw.
        device: As in `unlearn`.
        dtype: As in `unlearn`.
        tower: As in `unlearn`.
        projector: As in `unlearn`.
        drop_stale: As in `unlearn`.
        follow_links: As in `unlearn`.
        request_id: As in `unlearn`.
        request_date: As in `unlearn`.
        on_event: Called with every stage, step and warning.

    Raises:
        UserError: The input is wrong, or the method has no use for something that was given.
        SurgeryError: Training or writing failed.
    """
    from vkdsurgeon.baselines.registry import BASELINES, VKD, Scope
    from vkdsurgeon.data.request import request_tag
    from vkdsurgeon.model.device import resolve_device, resolve_dtype
    from vkdsurgeon.pipeline.run_baseline import MethodRequest
    from vkdsurgeon.pipeline.run_baseline import run_method as run

    chosen = _recipe(recipe, preset)
    if method not in BASELINES and (method != VKD or chosen.output_loss is None):
        raise UserError(
            "not another method", where="method", value=method, expected=f"{', '.join(BASELINES)}, or {VKD} with a "
            "recipe that has an output_loss", remedy="unlearn() is feature-mode VKD",
        )  # fmt: skip
    if scope is not None and scope not in [each.value for each in Scope]:
        raise UserError("not a scope", where="scope", value=scope, expected=", ".join(each.value for each in Scope))
    request = MethodRequest(
        model=_model(model),
        forget=_required(forget),
        retain=_given(retain),
        generic=_given(generic),
        text=_given(text),
        out=_path(out),
        method=method,
        scope=None if scope is None else Scope(scope),
        recipe=chosen,
        drop_stale=drop_stale,
        follow_links=follow_links,
        tag=request_tag(request_id, request_date),
        seed=seed,
        device=resolve_device(device),
        dtype=resolve_dtype(dtype),
        tower=tower,
        projector=projector,
    )
    return run(request, on_event or unheard)


def evaluate(
    model: PathLike,
    sets: Mapping[str, RecordSet] | None = None,
    *,
    suite: SuiteSplit | None = None,
    few_shot: bool = False,
    base: PathLike | None = None,
    gold: PathLike | None = None,
    gates: Iterable[str] = (),
    limit: int | None = None,
    batch_size: int = 32,
    length_normalised: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    cache: PathLike | None = None,
    include_examples: bool = False,
    salt: str = "",
    on_event: Listener | None = None,
) -> EvalResult:
    """Measure what a model still recognises and what it kept.

        result = evaluate("patched/", {"forget": "heldout.jsonl", "retain": "kept.jsonl"}, base="model/",
                          gates=["forget.vqa.accuracy<=0.1", "retain.vqa.accuracy>=reference-0.02"])
        result.value("forget.vqa.accuracy"), result.passed

    Questions with options are decided by the likelihood of the options, the others by greedy generation. Metrics are
    named SET.TASK.METRIC; shares lie between 0 and 1, and intervals are those of 95 %.

    Args:
        model: The model to measure.
        sets: Name -> questions with answers. In the set `forget` less is better.
        suite: A split of a published benchmark, whose sets come first.
        few_shot: Of a benchmark: show examples of a kept person before a question.
        base: The model before unlearning; adds `reference.*` (its values), `delta.*` (model minus base) and
            SET.TASK.agreement.
        gold: A model that never saw the forget set; adds `gold.*` and `gap.*` (model minus gold).
        gates: Bounds on metrics: a number, or `reference` or `gold` plus or minus one.
        limit: At most so many questions per set, drawn in proportion to their tasks.
        batch_size: Sequences per forward pass.
        length_normalised: Divide an option's log-likelihood by its number of tokens.
        max_new_tokens: Bound on a generated answer.
        seed: Seed of every random draw and of the bootstrap.
        device: As in `unlearn`.
        dtype: `float32`, `bfloat16`, or `auto`: the model's own on a GPU, else float32.
        cache: A directory of answers measured before, which are not asked again.
        include_examples: Put names, questions and answers into the result.
        salt: For the digests of the sets, so that only who knows it can check them.
        on_event: Called with what goes on.

    Raises:
        UserError: Sets, gates or models are wrong; sets and gates are checked before a model is loaded.
    """
    from vkdsurgeon.data.sets import read_set
    from vkdsurgeon.evaluation.evaluate import Evaluation
    from vkdsurgeon.evaluation.evaluate import evaluate as run
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.files.directories import scratch

    listener = on_event or unheard
    bounds = parse_gates([*gates])
    named: list[NamedSet] = [read_set(name, _required(each)) for name, each in (sets or {}).items()]
    if few_shot and suite is None:
        raise UserError("demonstrations belong to a benchmark", where="`few_shot`", remedy="add `suite` mllmu or clear")
    shots = 0
    with scratch() as folder:
        if suite is not None:
            from vkdsurgeon.data.suites.read import evaluation_sets

            found, shots = evaluation_sets(
                suite, folder, seed=seed, few_shot=few_shot, warn=lambda text: listener(Event.warning(text))
            )
            named = [*found, *named]
        evaluation = Evaluation(
            model=_model(model),
            sets=named,
            reference=_given_model(base),
            gold=_given_model(gold),
            gates=bounds,
            scoring=Scoring(batch_size, length_normalised, max_new_tokens),
            device=device,
            dtype=dtype,
            limit=limit,
            seed=seed,
            salt=salt.encode(),
            include_examples=include_examples,
            cache=_path(cache),
            suite="jsonl" if suite is None else f"{suite.suite} {suite.split}",
            few_shot=shots,
        )
        return _with_what_broke(run(evaluation, listener))


def attack(
    name: AttackName,
    model: PathLike,
    forget: RecordSet,
    *,
    retain: RecordSet | None = None,
    base: PathLike | None = None,
    gold: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    gates: Iterable[str] = (),
    device: str = "auto",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    salt: str = "",
    on_event: Listener | None = None,
) -> AnyAttackResult:
    """Try to bring back what a model was made to forget. Nothing is written, and the models on disk stay as they are.

        found = attack("relearn", "patched/", "forget.jsonl", gold="gold/", gates=["relearn.ag<=gold+10"],
                       settings={"steps": 60, "heldout": "heldout.jsonl"})
        found.value("relearn.ag"), found.passed

    Args:
        name: `relearn` fine-tunes on a part of what was forgotten; `restore` puts the base's tower and projector back;
            `probe` trains linear readers on the features; `quantize` rounds the weights; `perturb` changes the images;
            `prompt` asks in other words; `membership` tells from likelihoods what was trained on.
        model: The unlearned model.
        forget: Questions about what was to be forgotten (for `probe`, images with subjects are enough).
        retain: What utility is measured on.
        base: The model before unlearning; attacked alike, and needed by `restore`.
        gold: A model that never saw the forget set; attacked alike.
        settings: Those of the attack, by name; sets among them are given like `forget`.

            - all but relearn and probe: limit, seed, dtype, batch_size, length_normalised, max_new_tokens (`evaluate`)
            - relearn: heldout, benign, unrelated (sets); steps, lr, scope, protocol, seeds and the other keys of a
              protocol file; plan (such a file, under the keys)
            - restore: part (`visual`, `tower` or `projector`)
            - probe: heldout, retain_heldout (sets), layers, probe, regularisation, pooling, folds, limit, batch_size,
              seed
            - quantize: formats (`int8`, `int4`, `nf4`), scope, group_size
            - perturb: heldout (a set); perturbations, such as ["noise=20"], all kinds unless given; universal: True, or
              its eps and step_size (1/255 of black to white), steps, batch_size
            - prompt: templates (a YAML file, or templates), builtin
            - membership: nonmembers (a set; needed), k_percent
        gates: Bounds on metrics, as in `evaluate`.
        device: As in `unlearn`.
        tower: As in `unlearn`.
        projector: As in `unlearn`.
        salt: As in `evaluate`.
        on_event: Called with what goes on.

    Returns:
        `AttackResult`, of `relearn` `RelearnResult`, of `restore` `RestoreResult`. Shares lie between 0 and 1,
        `relearn.ag` between 0 and 100 points.

    Raises:
        UserError: There is no such attack or setting; or sets, gates or models are wrong, which is checked before a
            model is loaded wherever that is possible.
        SurgeryError: The attack failed.
    """
    from vkdsurgeon.attacks.by_name import run_attack
    from vkdsurgeon.evaluation.gates import parse_gates

    common = {
        "model": _model(model),
        "reference": _given_model(base),
        "gold": _given_model(gold),
        "gates": parse_gates([*gates]),
        "device": device,
        "salt": salt.encode(),
        "tower": tower,
        "projector": projector,
    }
    found = run_attack(name, _required(forget), _given(retain), common, settings or {}, on_event or unheard)
    return _with_what_broke(found)


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
    dtype: Literal["float32", "bfloat16"] = "float32",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    resume: bool = False,
    on_event: Listener | None = None,
) -> TuneResult:
    """Search for recipes that forget more, keep more or resist more on this case than the one to start from.

        found = tune("model/", "forget.jsonl", "tuned/", retain="retain.jsonl", minutes=60, pick="retain")
        unlearn("model/", "forget.jsonl", "patched/", retain="retain.jsonl", recipe="tuned/picked.yaml")

    Args:
        model: As in `unlearn`; it is never written to.
        forget: As in `unlearn`.
        out: A directory for trials, recipes and result: empty or not there yet, unless `resume`.
        retain: As in `unlearn`.
        generic: As in `unlearn`.
        validation_forget: Questions about held-out images of what is to be forgotten; with `validation_retain` they
            measure two of the three objectives with the whole model, instead of without labels.
        validation_retain: The same about what is to be kept.
        limit: At most so many of these questions per set.
        recipe: The recipe to start from, as in `unlearn`.
        preset: As in `unlearn`.
        space: What may vary, or a YAML file that says so; None for the default space.
        trials: Finished trials in all, resumed ones included.
        minutes: No trial starts later than so many minutes after the call; one is always finished.
        pick: The rule by which one member of the front is written as picked.yaml.
        seed: Seed of every random draw.
        device: As in `unlearn`.
        dtype: As in `unlearn`.
        tower: As in `unlearn`.
        projector: As in `unlearn`.
        resume: Go on with the trials in `out`, if there are any.
        on_event: Called with every trial, stage and warning.

    Returns:
        The trials and their Pareto front. `passed` is false where `pick` was given and no member satisfies it.

    Raises:
        UserError: The input is wrong, or differs from that of the trials to go on with.
        SurgeryError: No trial came to a result.
    """
    from vkdsurgeon.files.optional import optional
    from vkdsurgeon.model.device import resolve_device, resolve_dtype
    from vkdsurgeon.pipeline.run import Request

    optional("optuna", "tune", "a search for recipes")
    from vkdsurgeon.tuning.pick import rule_named
    from vkdsurgeon.tuning.space import Space, load_space
    from vkdsurgeon.tuning.tune import TuneRequest
    from vkdsurgeon.tuning.tune import tune as run

    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError("not a budget", where="`minutes`", value=minutes, expected="a number above 0")
    records = _validation(validation_forget, validation_retain, limit, seed)
    start = Request(
        model=_model(model),
        forget=_required(forget),
        retain=_given(retain),
        generic=_given(generic),
        out=None,
        recipe=_recipe(recipe, preset),
        seed=seed,
        device=resolve_device(device),
        dtype=resolve_dtype(dtype),
        tower=tower,
        projector=projector,
    )
    request = TuneRequest(
        unlearn=start,
        out=Path(out),
        space=space if isinstance(space, Space) else load_space(_path(space)),
        trials=trials,
        minutes=minutes,
        resume=resume,
        rule=None if pick is None else rule_named(pick, rates=records is not None),
        validation=records,
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
    dtype: Literal["float32", "bfloat16"] = "float32",
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    keep_models: bool = False,
    on_event: Listener | None = None,
) -> ComparisonResult:
    """Run several unlearning methods on one case: forgetting, utility, relearning and cost side by side.

        found = compare("model/", ["vkd", "npo"], "forget.jsonl", "retain.jsonl", "compared/", gold="gold/")
        {row.name: row.values["score"] for row in found.rows}

    Each method and seed is unlearned in a process of its own, evaluated, and attacked by relearning. An interrupted
    comparison goes on where it stopped when it is called again.

    Args:
        model: As in `unlearn`.
        methods: Names, as a sequence or with commas: `vkd`, `vkd-PRESET`, `vkd-npo` and other output losses, the names
            of `run_method`; or `all`.
        forget: A file or folder, as in `run_method`; the processes read it themselves, so records are not taken.
        retain: Likewise.
        out: A directory for the results, comparison.json and comparison.md among them.
        gold: A model that never saw the forget set, for a row of its own and for scores.
        heldout: Other views of the forget subjects, to measure on.
        retain_heldout: Other views of the retain subjects, likewise.
        text: Questions without images. One half is measured; methods that have a use for text get the other.
        recipe: Laid over the preset of each method.
        preset: What `vkd` itself stands for.
        seeds: Every method runs once with each.
        attack_scopes: What the attackers train: `visual`, `llm`, `llm_full`, `all`. The score takes the worst.
        attack_steps: Optimizer steps of the attacks.
        limit: At most so many questions per measured set; None for all.
        gates: Bounds on NAME.METRIC, such as `vkd.forget<=0.1`.
        device: As in `unlearn`.
        dtype: As in `unlearn`.
        tower: As in `unlearn`.
        projector: As in `unlearn`.
        keep_models: Leave the patched checkpoints in `out`.
        on_event: Called with what goes on.

    Raises:
        UserError: The input is wrong, or a method refused it.
        SurgeryError: A method failed, or its process died.
    """
    from vkdsurgeon.comparison.compare import Comparison
    from vkdsurgeon.comparison.compare import compare as run
    from vkdsurgeon.comparison.methods import parse_names, parse_seeds
    from vkdsurgeon.comparison.relearning import parse_scopes
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.model.device import resolve_device, resolve_dtype

    resolve_dtype(dtype)
    asked = Comparison(
        model=_model(model),
        methods=parse_names(methods if isinstance(methods, str) else ",".join(methods), preset),
        forget=Path(forget),
        retain=Path(retain),
        out=Path(out),
        recipe=_recipe(recipe, None),
        gold=_given_model(gold),
        heldout=_path(heldout),
        retain_heldout=_path(retain_heldout),
        text=_path(text),
        seeds=parse_seeds(",".join(map(str, seeds))),
        scopes=parse_scopes(",".join(attack_scopes)),
        attack_steps=attack_steps,
        limit=limit,
        gates=parse_gates([*gates]),
        device=str(resolve_device(device)),
        dtype=dtype,
        tower=tower,
        projector=projector,
        keep_models=keep_models,
    )
    return run(asked, on_event or unheard)


def inspect(model: PathLike, *, tower: str | None = None, projector: Sequence[str] | None = None) -> InspectResult:
    """Show what surgery would see in a checkpoint: tower, projector, language model, layers, files.

        [(part.part, part.parameters) for part in inspect("model/").parts]

    Reads headers only.

    Args:
        model: A Hugging Face checkpoint directory.
        tower: Module path of the tower, where it is found wrongly.
        projector: Module paths of the projector, likewise.

    Raises:
        UserError: It is no checkpoint, or none that can be split.
    """
    from vkdsurgeon.model.inspection import inspect_checkpoint

    return inspect_checkpoint(_model(model), tower=tower, projector=projector)


def diff(
    base: PathLike,
    patched: PathLike,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    digests: bool = True,
) -> DiffResult:
    """Compare two checkpoints byte by byte.

        diff("model/", "patched/").language_identical

    Args:
        base: The original.
        patched: The checkpoint to compare with it.
        tower: As in `inspect`.
        projector: As in `inspect`.
        digests: Name the weights of both by their SHA-256, which a report needs and which reads them once more.

    Raises:
        UserError: One of the two is no checkpoint.
    """
    from vkdsurgeon.checkpoint.difference import describe_difference

    return describe_difference(_model(base), _model(patched), tower=tower, projector=projector, digests=digests)


def export_patch(
    base: PathLike, patched: PathLike, out: PathLike, *, compression: Literal["none", "zstd"] = "none"
) -> PatchResult:
    """Write a patch file: what turns one checkpoint into another, and nothing of what was there before.

        export_patch("model/", "patched/", "fix.safetensors")

    Args:
        base: The original.
        patched: A checkpoint with the same tensors at the same places, such as `unlearn` writes.
        out: The file to write; one that is there is not replaced.
        compression: `zstd` makes it smaller and slower to write.

    Raises:
        UserError: The checkpoints differ in more than values, or the output exists or cannot be written.
        SurgeryError: The disk is full, or a checkpoint changed meanwhile.
    """
    from vkdsurgeon.patch.export import export_patch as export

    return export(_model(base), _model(patched), Path(out), compression=compression)


def patch_checkpoint(
    base: PathLike, patches: PathLike | Sequence[PathLike], out: PathLike | None, *, follow_links: bool = False
) -> PatchResult:
    """Apply patch files to a checkpoint on disk; what comes out is bit-identical to what they were exported from.

        patch_checkpoint("model/", "fix.safetensors", "patched/")

    Args:
        base: The checkpoint that the first patch is for.
        patches: One patch, or several in the order in which they were made.
        out: The directory to make. None changes `base` where it lies: killed at any moment, the same call goes on.
        follow_links: As in `unlearn`; for `out` alone.

    Raises:
        UserError: The base is another one, the patches are damaged or do not follow on each other, or the output cannot
            be written.
        SurgeryError: Writing failed.
    """
    from vkdsurgeon.patch.apply import apply_patches
    from vkdsurgeon.patch.in_place import apply_in_place

    paths = _paths(patches)
    if out is None:
        return apply_in_place(_model(base), paths)
    return apply_patches(_model(base), paths, Path(out), follow_links=follow_links)


def apply_patch(model: nn.Module, patches: PathLike | Sequence[PathLike]) -> int:
    """Write the new values of patch files into a transformers model that is loaded already.

        model = AutoModelForImageTextToText.from_pretrained("model/", dtype="auto")
        apply_patch(model, "fix.safetensors")

    Args:
        model: Loaded from the base, in the checkpoint's dtype or a wider one, on any device; changed in place.
        patches: As in `patch_checkpoint`.

    Returns:
        How many elements got new values.

    Raises:
        UserError: The model is of another base or was changed since, or holds a tensor in another form than on disk.
            It was not changed.
    """
    from vkdsurgeon.patch.loaded import apply_to_loaded

    return apply_to_loaded(model, _paths(patches))


def verify(
    model: PathLike,
    *,
    base: PathLike | None = None,
    forget: RecordSet | None = None,
    record: PathLike | None = None,
    signature: PathLike | None = None,
    public_key: PathLike | None = None,
) -> VerifyResult:
    """Hold a patched checkpoint against its record, its base, a candidate set and a signature.

        verify("patched/", base="model/").raise_if_failed()

    Args:
        model: The patched checkpoint.
        base: The original: is it the one on record, and does nothing but selected values differ?
        forget: A set that may be the one that was forgotten.
        record: The record of the release, kept elsewhere; None for the newest one in the checkpoint.
        signature: A signature over the checkpoint, of `attest` or any tool for OpenSSF model signing.
        public_key: The signer's key as PEM; needed with `signature`.

    Returns:
        Every check with what it found; `failures` names what is not as it should be.

    Raises:
        UserError: There is no record of a version that says enough, or something that was given cannot be read.
    """
    from vkdsurgeon.release.verify import Signed, verify_checkpoint

    if (signature is None) != (public_key is None):
        raise UserError(
            "a signature and the key that it is checked with belong together", where="signature, public_key"
        )
    signed = None if signature is None or public_key is None else Signed(Path(signature), Path(public_key))
    return verify_checkpoint(
        _model(model), base=_given_model(base), forget=_given(forget), record=_path(record), signed=signed
    )


def attest(
    model: PathLike,
    results: Iterable[PathLike],
    out: PathLike,
    *,
    base_name: str | None = None,
    card: bool = False,
    private_key: PathLike | None = None,
    signature: PathLike | None = None,
) -> list[Path]:
    """Write statements about a release in the formats of others: in-toto, SLSA, CycloneDX; sign it where asked to.

        attest("patched/", ["eval.json", "relearn.json"], "attestations/", base_name="org/model")

    Args:
        model: The patched checkpoint.
        results: JSON files of the commands, as `write_report` takes them.
        out: A directory for the statements; earlier ones there are replaced.
        base_name: What the base is called; None for its name on the hub, where the record has one.
        card: Write the evidence into the checkpoint's README.md, between markers; the rest of it stays.
        private_key: An elliptic-curve key as PEM, to sign every file of the checkpoint with.
        signature: Where the signature goes, outside of the checkpoint; needed with `private_key`.

    Returns:
        What was written.

    Raises:
        UserError: The checkpoint has no record that names its base, the results do not belong together, or the key or
            the library that signs is missing.
    """
    from vkdsurgeon.files.directories import scratch
    from vkdsurgeon.release.attest import attest as write
    from vkdsurgeon.release.attest import base_name_of
    from vkdsurgeon.release.card import write_card
    from vkdsurgeon.release.sign import sign_checkpoint

    if (private_key is None) != (signature is None):
        raise UserError("a key and a place for the signature belong together", where="private_key, signature")
    place, documents = _model(model), [Path(each) for each in results]
    written = []
    if card:
        with scratch() as folder:
            write_report(documents, folder / "card.md")
            section = (folder / "card.md").read_text(encoding="utf-8")
        written.append(write_card(place, base_name or base_name_of(place), section))
    written += write(place, documents, Path(out), base_name=base_name)
    if private_key is not None and signature is not None:
        sign_checkpoint(place, Path(private_key), Path(signature))
        written.append(Path(signature))
    return written


def make_release(plan: ReleasePlan | PathLike, *, on_event: Listener | None = None) -> ReleaseResult:
    """Make a release: unlearn, prove, measure, attack, report, attest and pack. The same call goes on where it stopped.

        make_release("release.yaml").raise_if_failed()

    Args:
        plan: A release file, or its content.
        on_event: Called with every stage and what goes on in it.

    Returns:
        The verdict, with what attacks brought back, and what every stage wrote.

    Raises:
        UserError: The plan is wrong, or its directory holds a release of another one.
        SurgeryError: A stage failed; the same call goes on there.
        KeyboardInterrupt: Likewise.
    """
    from vkdsurgeon.config.release import load_release
    from vkdsurgeon.release.run import Tools, run_release

    chosen = load_release(Path(plan)) if isinstance(plan, (str, Path)) else plan
    chosen = chosen.model_copy(update={"model": _model(chosen.model), "gold": _given_model(chosen.gold)})
    return run_release(chosen, Tools(unlearn, diff, evaluate, attack, write_report), on_event or unheard)


def reproduce(
    patched: PathLike,
    base: PathLike,
    forget: RecordSet,
    *,
    retain: RecordSet | None = None,
    generic: RecordSet | None = None,
    text: PathLike | None = None,
    on_event: Listener | None = None,
) -> ReproduceResult:
    """Run `unlearn` again as the record of a release says, in scratch, and compare.

        reproduce("patched/", "model/", "forget.jsonl", retain="retain.jsonl").raise_if_failed()

    Args:
        patched: The release.
        base: What it was made from.
        forget: The forget set of the run.
        retain: Its retain set.
        generic: Its generic set.
        text: The text retain set of its decoder pass.
        on_event: As in `unlearn`.

    Returns:
        The grade, with the figures behind it and what is another than on record. `passed` asks for bytes on an equal
        machine, and for a close result elsewhere.

    Raises:
        UserError: The record, the base or a set is another one; found before the run.
        SurgeryError: The run failed.
    """
    import functools

    from vkdsurgeon.release.reproduce import reproduce_run

    sets = {"forget": _required(forget), "retain": _given(retain), "generic": _given(generic)}
    again = functools.partial(unlearn, on_event=on_event)
    return reproduce_run(_model(patched), _model(base), sets, again, text=_path(text))


def write_report(
    results: Iterable[BaseModel | PathLike],
    path: PathLike,
    *,
    form: Literal["html", "md"] | None = None,
    title: str | None = None,
    sign_off: SignOff | Mapping[str, str] | None = None,
    include_examples: bool = False,
) -> ReportResult:
    """Write the evidence about one unlearned model as one page.

        write_report([run, result, found, "patched/vkdsurgeon.json"], "report.html", sign_off={"date": "2026-03-01"})

    Args:
        results: Results of this API, or JSON files of the commands; all about one model, base and gold.
        path: The page, ending in .html or .md. An earlier report there is replaced, nothing else ever is.
        form: What to write, where the name of the page does not tell.
        title: Heading, in place of one made of the product.
        sign_off: What the block at the end says: product, date, request, approver; the rest is left to be filled in.
        include_examples: Show names, questions and answers where the results hold them.

    Returns:
        The verdict: `passed`, `partial`, `failed` or `unjudged`, with what was missed and what was not measured.

    Raises:
        UserError: The results do not belong together, one is nothing a report can tell, or the page cannot be written.
    """
    from vkdsurgeon.report.page import SignOff
    from vkdsurgeon.report.write import write_page
    from vkdsurgeon.results.read import parse_source, read_source

    sources = [
        read_source(Path(each))
        if isinstance(each, (str, Path))
        else parse_source(each.model_dump_json().encode(), Path(f"<{type(each).__name__}>"))
        for each in results
    ]
    signed = SignOff(**sign_off) if isinstance(sign_off, Mapping) else sign_off
    return write_page(sources, Path(path), form=form, title=title, sign_off=signed, include_examples=include_examples)


def read_result(path: PathLike) -> AnyResult:
    """Read a result back that a command printed with `--json`, or that `model_dump_json` wrote.

        read_result("unlearn.json").passed

    Args:
        path: The JSON file. Its `schema` says what it is.

    Returns:
        What `unlearn`, `run_method`, `evaluate`, `attack`, `compare`, `diff` or `inspect` returned, but for what the
        document does not tell; of `tune` a `TuneDocument`.

    Raises:
        UserError: It cannot be read, or is no result of this tool.
    """
    from vkdsurgeon.pipeline.read_result import read_result as read

    return read(Path(path))


def load_recipe(path: PathLike | None = None, preset: str | None = None, **keys: Any) -> Recipe:
    """A recipe from a file, a preset and single keys: keys win over the file, the file over the preset.

        load_recipe(preset="robust", density=0.25, decoder={"steps": 200})

    Args:
        path: A YAML file; None for none.
        preset: The name of a recipe that ships with the package; None for the defaults.
        keys: Recipe keys, as `vkdsurgeon recipe keys` lists them; sections are given as mappings.

    Raises:
        UserError: There is no such preset or key, the file cannot be read, or a value is out of range.
    """
    from vkdsurgeon.config.files import load_recipe as load

    return load(_path(path), keys, preset)


def register_forget_target(name: str, make: Callable[[TargetContext], ForgetTargets]) -> None:
    """Let recipes name a forget target of your own, in this process.

        register_forget_target("grey", lambda context: ForgetTargets(context.altered(to_grey)))
        unlearn("model/", "forget.jsonl", "patched/", recipe={"forget_target": "grey"})

    Args:
        name: What the recipe key `forget_target` then takes.
        make: Gets the teacher's features of all images, with their subjects, and returns the features [N, D] that the
            student is to show on every forget image at each of the recipe's layers. Targets that still read as the
            subject itself are refused before training.

    Raises:
        UserError: The name is taken by a target that ships with the package, or is no identifier.
    """
    from vkdsurgeon.config.registered import is_registered, register_word
    from vkdsurgeon.vision_pass.targets import FORGET_TARGETS

    register_word("forget_target", name, [each for each in FORGET_TARGETS if not is_registered("forget_target", each)])
    FORGET_TARGETS[name] = make


def register_mask(name: str, choose: MaskRule) -> None:
    """Let recipes name a mask of your own, in this process.

        def big_gradients(parameters: Mapping[str, Parameter], gradients: Callable[[], dict[str, Tensor]]):
            return {name: score > score.mean() for name, score in gradients().items() if name.endswith(".weight")}

        register_mask("big_gradients", big_gradients)
        unlearn("model/", "forget.jsonl", "patched/", recipe={"saliency": "big_gradients"})

    Args:
        name: What the recipe key `saliency` then takes.
        choose: Gets the parameters to choose from by name, and a function that passes over the forget images once and
            returns the summed |gradient| of the forget loss per parameter (float32, the parameter's shape). It returns
            bool tensors of the parameters' shapes, True where an element may move; parameters left out are frozen. The
            recipe's `density` and `granularity` are not applied, and the plan's memory still assumes `density`.

    Raises:
        UserError: The name is taken by a rule that ships with the package, or is no identifier.
    """
    from typing import get_args

    from vkdsurgeon.config.mask import Saliency
    from vkdsurgeon.config.registered import register_word
    from vkdsurgeon.training.saliency import CUSTOM_RULES

    register_word("saliency", name, get_args(Saliency))
    CUSTOM_RULES[name] = choose


def _recipe(given: Recipe | Mapping[str, Any] | PathLike | None, preset: str | None) -> Recipe:
    from vkdsurgeon.config.recipe import Recipe

    if not isinstance(given, Recipe):
        keys = dict(given) if isinstance(given, Mapping) else {}
        path = given if isinstance(given, (str, Path)) else None
        return load_recipe(path, preset, **keys)
    if preset is not None:
        raise UserError(
            "a whole recipe leaves nothing to the preset",
            where="preset",
            value=preset,
            remedy="load_recipe(preset=..., key=value) lays keys over a preset",
        )
    return given


def _validation(forget: RecordSet | None, retain: RecordSet | None, limit: int | None, seed: int) -> Any:
    from vkdsurgeon.data.sets import read_set, sample
    from vkdsurgeon.tuning.validation_metrics import ValidationRecords

    if forget is None and retain is None:
        if limit is not None:
            raise UserError(
                "a bound on validation questions without any",
                where="`limit`",
                value=limit,
                expected="validation records",
            )
        return None
    if forget is None or retain is None:
        raise UserError(
            "validation records for one objective alone",
            where="`validation_forget`" if forget is None else "`validation_retain`",
            expected="both `validation_forget` and `validation_retain`, or neither",
        )
    named = (("forget", forget), ("retain", retain))
    drawn = (sample(read_set(name, _required(each)).records, limit, seed) for name, each in named)
    return ValidationRecords(*map(tuple, drawn))


def _with_what_broke(result: Any) -> Any:
    from vkdsurgeon.evaluation.warnings import broken_model_warnings

    return result.model_copy(update={"warnings": [*broken_model_warnings(result.metrics), *result.warnings]})


def _given(given: RecordSet | None) -> Given | None:
    return None if given is None else _required(given)


def _required(given: RecordSet) -> Given:
    return Path(given) if isinstance(given, (str, Path)) else given


def _paths(given: PathLike | Sequence[PathLike]) -> list[Path]:
    return [Path(given)] if isinstance(given, (str, Path)) else [Path(each) for each in given]


def _model(given: PathLike) -> Path:
    from vkdsurgeon.files.hub import model_path

    return model_path(given)


def _given_model(given: PathLike | None) -> Path | None:
    return None if given is None else _model(given)


def _path(given: PathLike | None) -> Path | None:
    return None if given is None else Path(given)
