"""Measuring a model: what it still recognises, and what attacks bring back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vkdsurgeon.api.arguments import model_of, optional_model, optional_records, path_of, records_of
from vkdsurgeon.api.names import AttackName, PathLike, RecordSet
from vkdsurgeon.errors import UserError
from vkdsurgeon.training.events import Event, Listener, unheard

if TYPE_CHECKING:
    from vkdsurgeon.attacks.by_name import AnyAttackResult
    from vkdsurgeon.data.sets import NamedSet
    from vkdsurgeon.data.suites.split import SuiteSplit
    from vkdsurgeon.model.device_map import MaxMemory
    from vkdsurgeon.results.evaluation import EvalResult


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
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    dtype: str = "auto",
    cache: PathLike | None = None,
    include_examples: bool = False,
    salt: str = "",
    on_event: Listener | None = None,
) -> EvalResult:
    """Measure what a model still recognises, and how well it answers everything else.

        result = evaluate("patched/", {"forget": "heldout.jsonl", "retain": "kept.jsonl"}, base="model/",
                          gates=["forget.vqa.accuracy<=0.1", "retain.vqa.accuracy>=reference-0.02"])
        result.value("forget.vqa.accuracy"), result.passed

    A question with options is answered by the option that the model finds most likely. Any other question is answered
    by greedy generation. Metrics are named SET.TASK.METRIC. Shares lie between 0 and 1; intervals are 95 % intervals.

    Args:
        model: The model to measure.
        sets: Questions with answers, by the name of the set. In the set named `forget`, lower scores are better.
        suite: A split of a published benchmark. Its sets come before `sets`.
        few_shot: For a benchmark: show examples of a person of the retain set before each question.
        base: The model before unlearning. Adds `reference.*` (its values), `delta.*` (model minus base) and
            SET.TASK.agreement.
        gold: A model that was never trained on the forget set. Adds `gold.*` and `gap.*` (model minus gold).
        gates: Bounds on metrics. A bound is a number, or `reference` or `gold` plus or minus a number.
        limit: The largest number of questions per set. A larger set is sampled, in proportion to its tasks.
        batch_size: Sequences per forward pass.
        length_normalised: Divide the log-likelihood of each option by its number of tokens.
        max_new_tokens: The largest number of tokens of a generated answer.
        seed: Seed for sampling and for the bootstrap.
        device: Same as in `unlearn`.
        device_map: `auto` spreads a model that no single device holds over the GPUs, main memory and disk. Needs the
            extra `offload`. It takes the place of `device`.
        max_memory: With `device_map`, the most memory for weights by place: `0=20GiB,cpu=30GiB`, or a mapping. A place
            that is not named gets none; what fits nowhere is read from disk. None uses what is free.
        dtype: `float32`, `bfloat16`, or `auto`: the checkpoint's own dtype on a GPU, float32 on a CPU.
        cache: A directory that keeps answers, so that the same question is not asked of the same model twice.
        include_examples: Put names, questions and answers into the result.
        salt: Mixed into the digests of the sets. Only someone who knows the salt can check a set against its digest.
        on_event: Called with progress events and warnings.

    Returns:
        The metrics, the gates and their outcome. `passed` is True if every gate holds.

    Raises:
        UserError: A set, a gate or a model is wrong. Sets and gates are checked before a model is loaded.
    """
    from vkdsurgeon.data.sets import read_set
    from vkdsurgeon.evaluation.evaluate import Evaluation
    from vkdsurgeon.evaluation.evaluate import evaluate as run
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.evaluation.score import Scoring
    from vkdsurgeon.files.directories import scratch
    from vkdsurgeon.model.device_map import device_map_of

    listener = on_event or unheard
    bounds = parse_gates([*gates])
    named: list[NamedSet] = [read_set(name, records_of(each)) for name, each in (sets or {}).items()]
    if few_shot and suite is None:
        raise UserError(
            "few-shot examples need a benchmark", where="`few_shot`", remedy="add `suite` (mllmu, clear or umu)"
        )  # fmt: skip
    shots = 0
    with scratch() as folder:
        if suite is not None:
            from vkdsurgeon.data.suites.read import evaluation_sets

            found, shots = evaluation_sets(
                suite, folder, seed=seed, few_shot=few_shot, warn=lambda text: listener(Event.warning(text))
            )
            named = [*found, *named]
        evaluation = Evaluation(
            model=model_of(model),
            sets=named,
            reference=optional_model(base),
            gold=optional_model(gold),
            gates=bounds,
            scoring=Scoring(batch_size, length_normalised, max_new_tokens),
            device=device,
            device_map=device_map_of(device_map, max_memory, device),
            dtype=dtype,
            limit=limit,
            seed=seed,
            salt=salt.encode(),
            include_examples=include_examples,
            cache=path_of(cache),
            suite="jsonl" if suite is None else f"{suite.suite} {suite.split}",
            few_shot=shots,
        )
        return _with_broken_model_warnings(run(evaluation, listener))


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
    device_map: str | None = None,
    max_memory: MaxMemory | None = None,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    salt: str = "",
    on_event: Listener | None = None,
) -> AnyAttackResult:
    """Try to bring back what a model was made to forget. Checkpoints on disk are not changed.

        found = attack("relearn", "patched/", "forget.jsonl", gold="gold/", gates=["relearn.after.vqa.accuracy<=gold"],
                       settings={"steps": 60, "heldout": "heldout.jsonl"})
        found.value("relearn.ag"), found.passed

    Args:
        name: `relearn` fine-tunes on a part of the forget set; `restore` puts the base's vision tower and projector
            back; `probe` trains linear classifiers on the features; `quantize` rounds the weights; `perturb` changes
            the images; `prompt` rewords the questions; `typography` writes names and questions into the images;
            `membership` tells from likelihoods and gradients which records were trained on.
        model: The unlearned model.
        forget: The forget set, with questions and answers. For `probe`, images with subjects are enough.
        retain: The retain set, to measure utility.
        base: The model before unlearning; `restore` needs it. `relearn` and `restore` only measure it, all others
            attack it in the same way.
        gold: A model that was never trained on the forget set. `restore` only measures it, all others attack it in
            the same way.
        settings: Settings of this attack, by name. Sets among them have the same form as `forget`.

            - all but relearn and probe: limit, seed, dtype, batch_size, length_normalised, max_new_tokens, as in
              `evaluate`
            - relearn: heldout, benign, unrelated (sets); steps, lr, scope, protocol, seeds and the other keys of a
              protocol file; plan (a protocol file, which the other keys override)
            - restore: part (`visual`, `tower` or `projector`)
            - probe: heldout, retain_heldout (sets), layers, probe, regularisation, pooling, folds, limit, batch_size,
              seed
            - quantize: formats (`int8`, `int4`, `nf4`), scope, group_size
            - perturb: heldout (a set); perturbations, such as ["noise=20"], by default all kinds; universal: True, or
              a mapping of eps and step_size (in 1/255 of the range from black to white), steps, batch_size
            - prompt: templates (a YAML file, or templates), builtin
            - typography: percent (height of the band that is written on, 5 to 60), font (a file), instruction
            - membership: nonmembers (a set; required), k_percent, gradient
        gates: Bounds on metrics, as in `evaluate`.
        device: Same as in `unlearn`.
        device_map: Same as in `evaluate`. An attack that changes weights needs these on a device; `probe` loads the
            tower and the projector only, on one device.
        max_memory: Same as in `evaluate`.
        tower: Same as in `unlearn`.
        projector: Same as in `unlearn`.
        salt: Same as in `evaluate`.
        on_event: Called with progress events and warnings.

    Returns:
        A `RelearnResult` for `relearn`, a `RestoreResult` for `restore`, an `AttackResult` for the others. Shares lie
        between 0 and 1; `relearn.ag` is in points from 0 to 100.

    Raises:
        UserError: The attack or a setting is unknown; or a set, a gate or a model is wrong. Wherever possible this is
            checked before a model is loaded.
        SurgeryError: The attack failed.
    """
    from vkdsurgeon.attacks.by_name import run_attack
    from vkdsurgeon.evaluation.gates import parse_gates
    from vkdsurgeon.model.device_map import device_map_of

    common = {
        "model": model_of(model),
        "reference": optional_model(base),
        "gold": optional_model(gold),
        "gates": parse_gates([*gates]),
        "device": device,
        "device_map": device_map_of(device_map, max_memory, device),
        "salt": salt.encode(),
        "tower": tower,
        "projector": projector,
    }
    found = run_attack(name, records_of(forget), optional_records(retain), common, settings or {}, on_event or unheard)
    return _with_broken_model_warnings(found)


def _with_broken_model_warnings(result: Any) -> Any:
    from vkdsurgeon.evaluation.warnings import broken_model_warnings

    return result.model_copy(update={"warnings": [*broken_model_warnings(result.metrics), *result.warnings]})
