"""Shows the events of an unlearning run as notes, warnings and progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vkdsurgeon.pipeline.words import describe_decoder, describe_targets, describe_verdict
from vkdsurgeon_cli.output import Output

if TYPE_CHECKING:
    from vkdsurgeon.decoder_pass.gate import DecoderVerdict
    from vkdsurgeon.decoder_pass.plan import DecoderPlan
    from vkdsurgeon.training.events import Event, Step
    from vkdsurgeon.vision_pass.plan import Plan
    from vkdsurgeon.vision_pass.stop_rule import Verdict

BUILT_IN_TEXT = (
    "no --text: the text retain set is a few neutral prompts of the package. Give prompts of the kind your users "
    "write, with questions about people's names among them (docs/studies/method.md, Decoder pass)"
)


class RunListener:
    """Turns what the pipeline tells into progress."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __call__(self, event: Event) -> None:
        """Handle an event."""
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
            f"{plan.model_type}: {plan.forget_pictures} images of {plan.forget_subjects} subject(s) to forget, "
            f"{plan.retain_pictures} to retain, {plan.generic_pictures} generic; {plan.selected_parameters:,} of "
            f"{plan.tower_parameters + plan.projector_parameters:,} visual weights may move; about "
            f"{plan.memory.total:,.0f} MiB on {plan.device}"
        )
        for layer, reading in plan.targets.items():
            self._output.note(f"forget targets at {layer}: {describe_targets(reading)}")

    def stage(self, name: str) -> None:
        """Show that a stage starts."""
        self._output.progress({"event": "stage", "stage": name})

    def step(self, step: Step) -> None:
        """Show a training step."""
        seen = step.values
        self._stepped(
            "step",
            step,
            f"loss {step.loss:.4f}  forget {seen['forget_loss']:.4f}  similarity {seen['similarity']:.3f}  "
            f"retain drift {seen['retain_drift']:.4f}  {seen['images_per_second']:.0f} images/s",
        )

    def verdict(self, verdict: Verdict) -> None:
        """Show what the stop rule measured."""
        self._output.note(f"stop rule: {describe_verdict(verdict)}")

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
        self._stepped(
            "decoder step",
            step,
            f"loss {step.loss:.4f}  forget {seen['forget_kl']:.4f}  nobody {seen['nobody_kl']:.4f}  "
            f"retain {seen['retain_kl']:.4f}  text {seen['text_kl']:.4f}",
        )

    def decoder_verdict(self, verdict: DecoderVerdict) -> None:
        """The gate of the decoder pass."""
        self._output.note(f"decoder pass: {describe_decoder(verdict)}")

    def note(self, text: str) -> None:
        """Print a note about the run."""
        self._output.note(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._output.warn(text)

    def _stepped(self, kind: str, step: Step, text: str) -> None:
        facts = {key: round(value, 6) for key, value in step.flat().items()}
        self._output.progress({"event": kind, **facts, "text": text})
