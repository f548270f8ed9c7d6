"""`vkdsurgeon unlearn`: the main job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vkdsurgeon.baselines.registry import Method, Scope
from vkdsurgeon.config.preset import preset_names
from vkdsurgeon_cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ProgressOption,
    ProjectorOption,
    SeedOption,
    TowerOption,
)
from vkdsurgeon_cli.other_methods import is_other_method, parse_settings, refuse_foreign_options, run_other_method
from vkdsurgeon_cli.output import Output, ProgressMode
from vkdsurgeon_cli.recipe_flags import with_recipe_flags
from vkdsurgeon_cli.suite_options import SplitOption, SuiteName, SuiteOption, SuiteRootOption, split_of

if TYPE_CHECKING:
    from vkdsurgeon.decoder_pass.gate import DecoderVerdict
    from vkdsurgeon.decoder_pass.plan import DecoderPlan
    from vkdsurgeon.pipeline.result import UnlearnResult
    from vkdsurgeon.training.events import Event, Step
    from vkdsurgeon.vision_pass.plan import Plan
    from vkdsurgeon.vision_pass.stop_rule import Verdict
    from vkdsurgeon.vision_pass.target_readings import TargetReading
    from vkdsurgeon.vision_pass.teacher_quality import TeacherQuality

BUILT_IN_TEXT = (
    "no --text: the text keep set is a few neutral prompts of the package; give prompts of the kind your users write, "
    "questions about people's names among them (docs/method.md, Decoder pass)"
)


def unlearn(
    *,
    model: ModelArgument,
    forget: Annotated[
        Path | None, typer.Option("--forget", help="What to forget: JSONL, JSON, or a folder of pictures.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The patched checkpoint: empty or not there yet.")
    ] = None,
    retain: Annotated[Path | None, typer.Option("--retain", help="What to keep, in the same formats.")] = None,
    generic: Annotated[
        Path | None,
        typer.Option("--generic", help="Pictures of others, for retention beside or instead of --retain."),
    ] = None,
    forget_teacher: Annotated[
        Path | None,
        typer.Option(
            "--forget-teacher",
            help="Checkpoint of the same architecture that does not know the subjects: its features on the forget "
            "pictures are the targets. Implies --forget-target reference.",
        ),
    ] = None,
    retain_teacher: Annotated[
        Path | None,
        typer.Option(
            "--retain-teacher",
            help="Checkpoint of the same architecture whose features on kept pictures are kept, where MODEL's own are "
            "degraded.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            help="With --decoder-pass: text that W must go on reading alike, as records or one prompt per line; half "
            "of it is held out to measure the drift. Without it, a few built-in neutral prompts. With --method "
            "mmunlearner or manu: records of text that their masks spare.",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            help="vkd, or another method on the same writer and masks (docs/baselines.md); those load the language "
            "model and need questions and answers.",
        ),
    ] = Method.vkd,
    scope: Annotated[
        Scope | None,
        typer.Option("--scope", help="Weights that a --method other than vkd may move. [default: as in its source]"),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="KEY=VALUE", help="A key of the recipe section `baseline`; repeatable."),
    ] = None,
    suite: SuiteOption = SuiteName.jsonl,
    suite_root: SuiteRootOption = None,
    split: SplitOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help=f"A recipe that ships with the package (docs/hardening.md): {', '.join(preset_names())}. --recipe and "
            "flags win over it.",
        ),
    ] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Recipe as YAML; flags win over it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with the memory estimate; write nothing.")
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Weights in memory: float32, or bfloat16 with float32 masters.")
    ] = "float32",
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", help="Directory that the state of the run is saved in. [default: OUT.journal]"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the journal of an earlier run; start where there is none."),
    ] = False,
    checkpoint_minutes: Annotated[
        float,
        typer.Option("--checkpoint-minutes", help="Least time between saves; 0 saves after every step."),
    ] = 1.0,
    drop_stale: Annotated[
        bool,
        typer.Option("--drop-stale", help="Leave out files that may hold the same weights once more (`inspect`)."),
    ] = False,
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Copy what links lead to that leave MODEL; else they are refused."),
    ] = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
    overrides: dict[str, object],
) -> None:
    """Make tower and projector forget the forget set, and write a patched checkpoint.

    Nothing but the selected elements of the vision tower and the projector differs from MODEL; with --decoder-pass and
    most other methods, selected elements of the language model's decoder layers too. The output appears complete and
    verified, or not at all. Status 3 when the label-free stop rule or the decoder pass's gate was not met; the output
    is written. A run that is interrupted or killed goes on with --resume, to the same bytes (docs/journal.md). Other
    methods and --output-loss have neither stop rule nor journal: measure them with `eval`.
    """
    from vkdsurgeon.config import load_recipe
    from vkdsurgeon.errors import GateFailed, UserError
    from vkdsurgeon.model.device import resolve_device, resolve_dtype
    from vkdsurgeon.pipeline.run import Request, run

    output = Output(as_json, progress)
    if out is None and not dry_run:
        raise UserError("no output named", where="-o", expected="a directory that does not exist yet, or --dry-run")
    benchmark = split_of(suite, suite_root, split, {"--forget": forget, "--retain": retain})
    if forget is None and benchmark is None:
        raise UserError("no forget set named", where="--forget", expected="--forget FILE, or --suite with its split")
    if forget_teacher is not None:
        overrides.setdefault("forget_target", "reference")
    if baseline:
        overrides["baseline"] = parse_settings(baseline, "--baseline")
    effective = load_recipe(recipe, overrides, preset)
    if is_other_method(method, scope, effective):
        from vkdsurgeon.pipeline.run_baseline import MethodRequest

        if forget is None or benchmark is not None:
            raise UserError(
                "a suite is read for feature-mode VKD alone",
                where="--suite",
                value=f"--method {method.value}",
                expected="--forget and --retain records",
            )
        if resume:
            raise UserError("only feature-mode VKD keeps a journal", where="--resume", value=f"--method {method.value}")
        refuse_foreign_options(
            method, effective, {"--forget-teacher": forget_teacher, "--retain-teacher": retain_teacher}
        )
        run_other_method(
            MethodRequest(
                model=model,
                forget=forget,
                retain=retain,
                out=None if dry_run else out,
                method=method.value,
                recipe=effective,
                seed=seed,
                device=resolve_device(device),
                dtype=resolve_dtype(dtype),
                scope=scope,
                text=text,
                generic=generic,
                tower=tower,
                projector=projector,
                drop_stale=drop_stale,
                follow_links=follow_links,
            ),
            output,
        )
        return
    request = Request(
        model=model,
        forget=forget,
        retain=retain,
        generic=generic,
        out=None if dry_run else out,
        recipe=effective,
        seed=seed,
        device=resolve_device(device),
        dtype=resolve_dtype(dtype),
        text=text,
        suite=benchmark,
        tower=tower,
        projector=projector,
        forget_teacher=forget_teacher,
        retain_teacher=retain_teacher,
        journal=journal,
        resume=resume,
        checkpoint_minutes=checkpoint_minutes,
        drop_stale=drop_stale,
        follow_links=follow_links,
    )
    listener = RunListener(output)
    result = run(request, listener)
    output.document(result.as_dict(), lambda: _table(result), kept=result.out)
    failures = []
    if result.verdict and not result.verdict.met:
        failures.append(f"stop rule: {_told(result.verdict)}")
        if result.journal is not None:
            output.note(_how_to_go_on(result))
    if result.decoder_verdict and not result.decoder_verdict.met:
        failures += [f"decoder pass: {missed}" for missed in result.decoder_verdict.missed]
    if failures:
        raise GateFailed(failures)


class RunListener:
    """Turns what the pipeline tells into progress."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        told = {"stage": self.stage, "note": self.note, "warning": self.warn}
        heard: dict[str, Callable[[Any], None]] = {
            "plan": self.planned,
            "step": self.step,
            "verdict": self.verdict,
            "decoder plan": self.decoder_planned,
            "decoder step": self.decoder_step,
            "decoder verdict": self.decoder_verdict,
        }
        if event.kind in told:
            told[event.kind](event.text)
        else:
            heard[event.kind](event.subject)

    def planned(self, plan: Plan) -> None:
        """The plan, before anything is trained."""
        for warning in plan.warnings:
            self._output.warn(warning)
        self._output.note(
            f"{plan.model_type}: {plan.forget_pictures} pictures of {plan.forget_subjects} subject(s) to forget, "
            f"{plan.retain_pictures} to retain, {plan.generic_pictures} generic; {plan.selected_parameters:,} of "
            f"{plan.tower_parameters + plan.projector_parameters:,} visual weights may move; about "
            f"{plan.memory.total:,.0f} MiB on {plan.device}"
        )
        for layer, reading in plan.targets.items():
            self._output.note(f"forget targets at {layer}: {told_targets(reading)}")

    def stage(self, name: str) -> None:
        """A stage starts."""
        self._output.progress({"event": "stage", "stage": name, "text": name})

    def step(self, step: Step) -> None:
        """A training step."""
        seen = step.values
        self._output.progress(
            {
                "event": "step",
                **{key: round(value, 6) for key, value in step.flat().items()},
                "text": f"step {step.step}/{step.steps}  loss {step.loss:.4f}  forget {seen['forget_loss']:.4f}  "
                f"similarity {seen['similarity']:.3f}  retain drift {seen['retain_drift']:.4f}  "
                f"{seen['images_per_second']:.0f} images/s  {step.seconds_left:.0f} s left",
                "last": step.step == step.steps,
            }
        )

    def verdict(self, verdict: Verdict) -> None:
        """The stop rule looked."""
        self._output.note(f"stop rule: {_told(verdict)}")

    def decoder_planned(self, plan: DecoderPlan) -> None:
        """The plan of the decoder pass."""
        for warning in plan.warnings:
            self._output.warn(warning)
        self._output.note(
            f"decoder pass: {plan.selected_elements:,} of {plan.eligible_elements:,} weights of {plan.layers} decoder "
            f"layers may move, {plan.dtype}; {plan.text_prompts[0]} {'built-in ' if plan.built_in_text else ''}prompts "
            f"kept and {plan.text_prompts[1]} held out; about {plan.memory_mib['peak']:,.0f} MiB more"
        )
        if plan.built_in_text:
            self._output.warn(BUILT_IN_TEXT)

    def decoder_step(self, step: Step) -> None:
        """A step of the decoder pass."""
        seen = step.values
        self._output.progress(
            {
                "event": "decoder step",
                **{key: round(value, 6) for key, value in step.flat().items()},
                "text": f"decoder step {step.step}/{step.steps}  loss {step.loss:.4f}  forget {seen['forget_kl']:.4f}  "
                f"nobody {seen['nobody_kl']:.4f}  retain {seen['retain_kl']:.4f}  text {seen['text_kl']:.4f}  "
                f"{step.seconds_left:.0f} s left",
                "last": step.step == step.steps,
            }
        )

    def decoder_verdict(self, verdict: DecoderVerdict) -> None:
        """The gate of the decoder pass."""
        self._output.note(f"decoder pass: {_told_decoder(verdict)}")

    def note(self, text: str) -> None:
        """How the run goes."""
        self._output.note(text)

    def warn(self, text: str) -> None:
        """Something to know."""
        self._output.warn(text)


def _told(verdict: Verdict) -> str:
    forget, retain = (
        f"{count} {'held-out' if held_out else 'altered'} {name}"
        for count, held_out, name in zip(verdict.pictures, verdict.held_out, ("forget", "retain"), strict=True)
    )
    return (
        f"{'met' if verdict.met else 'not met'}: {verdict.own} of {forget} pictures read as their own subject (before "
        f"{verdict.base_own}, by chance up to {verdict.own_allowed}), {verdict.agree} of {verdict.readable} readable "
        f"ones of {retain} pictures as before (at least {verdict.agree_needed}), retain drift "
        f"{verdict.retain_drift:.4f}"
    )


def told_targets(reading: TargetReading) -> str:
    """What forget targets read as, in words."""
    farther = "" if reading.trust == reading.stretch == 1 else "; some had to be moved farther"
    return (
        f"{reading.own} of {reading.images} read as their own subject (unchanged features: {reading.original}), chance "
        f"1 in {reading.subjects}{farther}"
    )


def _taught(quality: TeacherQuality) -> str:
    told = [f"variance over pictures {quality.variation:.3f} of the power"]
    if quality.token_variation is not None:
        told.append(f"over tokens {quality.token_variation:.3f}")
    if quality.separation is not None:
        told.append(f"between subjects {quality.separation:.3f} of that within")
    if quality.apart is not None:
        told.append(f"forget from kept pictures {quality.apart:.1f} times as far as by chance")
    return f"{', '.join(told)} ({quality.pictures} pictures)"


def _told_decoder(verdict: DecoderVerdict) -> str:
    forget, retain, text = verdict.questions
    return (
        f"{'met' if verdict.met else 'not met'}: KL on original forget features at {verdict.forget_ratio:.3f} of its "
        f"start, on kept pictures {verdict.retain_kl:.4f} nats, on text {verdict.text_kl:.4f} nats, "
        f"{100 * verdict.text_agreement:.1f} % of text answers the same; {forget} forget, {retain} retain and {text} "
        "text questions"
    )


def _table(result: UnlearnResult) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _rows(result):
        table.add_row(key, escape(value))
    return table


def _rows(result: UnlearnResult) -> list[tuple[str, str]]:
    plan = result.plan
    rows: list[tuple[str, Any]] = [
        ("model type", plan.model_type),
        ("visual weights", f"{plan.tower_parameters:,} tower + {plan.projector_parameters:,} projector"),
        ("may move", f"{plan.selected_parameters:,}"),
        ("pictures", f"{plan.forget_pictures} forget, {plan.retain_pictures} retain, {plan.generic_pictures} generic"),
        ("teacher", _taught(plan.teacher)),
        *((f"targets at {layer}", told_targets(reading)) for layer, reading in plan.targets.items()),
        ("steps", plan.steps),
        ("memory, estimated", f"{plan.memory.total:,.0f} MiB on {plan.device}"),
    ]
    if result.write is None:
        rows += [*_decoder_rows(result), ("written", "nothing (dry run)")]
        return [(key, str(value)) for key, value in rows]
    rows += [
        *_stop_rows(result),
        *_decoder_rows(result),
        ("changed", f"{result.write.elements_changed:,} elements in {result.write.tensors_changed} tensors"),
        ("everything else", "verified identical, byte for byte"),
        ("seconds", f"{sum(result.seconds.values()):.1f}"),
        ("written", str(result.out)),
    ]
    return [(key, str(value)) for key, value in rows]


def _stop_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    if result.verdict is None or result.choice is None:
        return []
    rows: list[tuple[str, Any]] = [("stop rule", _told(result.verdict))]
    if not result.verdict.met:
        rows.append(("state", f"verdict {result.choice.index + 1} of {len(result.verdicts)}: {result.choice.reason}"))
    return rows


def _how_to_go_on(result: UnlearnResult) -> str:
    return (
        f"the last state is in {result.journal}: to train on from there, move {result.out} away and give the same "
        f"command with --resume and more --extensions (this run had {result.recipe.extensions}) or other bounds "
        "(--forget-reading, --retain-drift); remove the journal if this output is good enough"
    )


def _decoder_rows(result: UnlearnResult) -> list[tuple[str, Any]]:
    plan = result.decoder_plan
    if plan is None:
        return []
    rows: list[tuple[str, Any]] = [
        ("decoder weights", f"{plan.selected_elements:,} of {plan.eligible_elements:,} may move"),
        ("memory for W, estimated", f"{plan.memory_mib['peak']:,.0f} MiB, {plan.dtype}"),
    ]
    if result.decoder_verdict is not None:
        rows.append(("decoder pass", _told_decoder(result.decoder_verdict)))
    return rows


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("unlearn")(with_recipe_flags(unlearn))
