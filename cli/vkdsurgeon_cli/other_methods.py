"""`unlearn --method` and the key `output_loss`: what the command does when it is not feature-mode VKD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vkdsurgeon.baselines.registry import Method, Scope
from vkdsurgeon.errors import UserError
from vkdsurgeon_cli.output import Output
from vkdsurgeon_cli.tables import pairs

if TYPE_CHECKING:
    from vkdsurgeon.baselines.base import ModelPlan
    from vkdsurgeon.config.recipe import Recipe
    from vkdsurgeon.pipeline.run_baseline import MethodResult
    from vkdsurgeon.training.events import Event, Step
    from vkdsurgeon_cli.tracking import Tracking


def is_other_method(method: Method, scope: Scope | None, recipe: Recipe) -> bool:
    """Whether a run is anything else than feature-mode VKD.

    Raises:
        UserError: A setting of other methods without one of them.
    """
    if method is not Method.vkd:
        if recipe.output_loss is not None:
            raise UserError(
                "output_loss works only with VKD",
                where="--set output_loss",
                value=f"{recipe.output_loss} with --method {method.value}",
                expected="--method vkd beside it",
            )
        return True
    if recipe.output_loss is not None:
        return True
    if scope is not None or recipe.baseline is not None:
        option = "--scope" if scope is not None else "--set baseline... (recipe section `baseline`)"
        raise UserError(
            "a setting for other methods was given, but no such method",
            where=option,
            expected="--method other than vkd, or --set output_loss=NAME",
            remedy="VKD trains tower and projector; see the key `depth` for how much of them",
        )
    return False


def refuse_foreign_options(method: Method, recipe: Recipe, teachers: Mapping[str, object]) -> None:
    """Refuse what only feature-mode VKD understands.

    Raises:
        UserError: Naming the first such option.
    """
    from vkdsurgeon.config.baselines import BaselineRecipe

    given = [name for name, value in teachers.items() if value is not None]
    if recipe.decoder is not None:
        given.append("--decoder-pass")
    if given:
        raise UserError(
            "only VKD in feature mode has this option",
            where=given[0],
            value=f"--method {method.value}"
            + (f" --set output_loss={recipe.output_loss}" if recipe.output_loss else ""),
            remedy="leave it out",
        )
    unread = sorted(recipe.model_fields_set - {"baseline"}) if method is not Method.vkd else []
    if unread:
        near = unread[0] in BaselineRecipe.model_fields
        raise UserError(
            "this method does not use VKD's recipe keys",
            where=f"recipe key {unread[0]!r}",
            value=f"--method {method.value}",
            expected="only keys of the section `baseline`",
            remedy=f"give it as --set baseline.{unread[0]}=VALUE" if near else "leave it out",
        )


def run_other_method(asked: dict[str, Any], output: Output, tracking: Tracking) -> None:
    """Run what `vkdsurgeon.run_method` takes, and print."""
    from vkdsurgeon import run_method

    result = run_method(**asked, on_event=tracking.heard_by(MethodListener(output), output.warn))
    output.document(result.model_dump(mode="json"), lambda: pairs(_rows(result), output.columns), kept=result.out)


class MethodListener:
    """Turns what a run tells into progress."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        if event.kind == "stage":
            self.stage(event.text)
        elif event.kind == "plan":
            self.method_planned(event.subject)
        else:
            self.method_step(event.subject)

    def method_planned(self, plan: ModelPlan) -> None:
        """The plan, before anything is trained."""
        for warning in plan.warnings:
            self._output.warn(warning)
        self._output.note(
            f"{plan.model_type}: {plan.method}, {plan.forget_questions} questions to forget, {plan.elements:,} weights "
            f"in scope {plan.scope}, {plan.steps} steps; about {plan.memory_mib['total']:,.0f} MiB on {plan.device}, "
            "activations not counted"
        )

    def stage(self, name: str) -> None:
        """Show that a stage starts."""
        self._output.progress({"event": "stage", "stage": name})

    def method_step(self, step: Step) -> None:
        """Show a training step."""
        terms = "  ".join(f"{name} {value:.4f}" for name, value in step.values.items())
        self._output.progress(
            {
                "event": "step",
                "step": step.step,
                "steps": step.steps,
                "loss": round(step.loss, 6),
                **{name: round(value, 6) for name, value in step.values.items()},
                "seconds_left": round(step.seconds_left, 1),
                "text": f"loss {step.loss:.4f}  {terms}",
            }
        )


def _rows(result: MethodResult) -> list[tuple[str, Any]]:
    plan = result.plan
    rows: list[tuple[str, Any]] = [
        ("method", result.provenance.get("method", result.method)),
        ("model type", plan.model_type),
        ("scope", f"{plan.scope}, {plan.elements:,} weights"),
        ("forget questions", plan.forget_questions),
        ("steps", plan.steps),
        ("memory, estimated", f"{plan.memory_mib['total']:,.0f} MiB on {plan.device}, activations not counted"),
    ]
    if result.write is None:
        rows.append(("written", "nothing (dry run)"))
    else:
        if result.last is not None:
            terms = ", ".join(f"{name} {value:.4f}" for name, value in result.last.values.items())
            rows.append(("last step", f"loss {result.last.loss:.4f} ({terms})"))
        rows += [(name.replace("_", " "), f"{value:.4f}") for name, value in result.measured.items()]
        rows += [
            ("might move", f"{result.selected_elements:,}"),
            ("changed", f"{result.write.elements_changed:,} elements in {result.write.tensors_changed} tensors"),
            ("everything else", "verified identical, byte for byte"),
            ("seconds", f"{sum(result.seconds.values()):.1f}"),
            ("written", result.out),
        ]
    return rows
