"""Everything that takes part in the training of one student, from the first step to the last verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from vkdsurgeon_kernels import MaskedAdamW

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.events import Event, Listener, Step
from vkdsurgeon.training.resume.journal import Keeper, Kept
from vkdsurgeon.training.resume.state import Trainee
from vkdsurgeon.training.saliency import SaliencyMask
from vkdsurgeon.training.write_back import rounded_to_disk
from vkdsurgeon.vision_pass.hardening.terms import Hardener, prepare_hardening
from vkdsurgeon.vision_pass.objective import DistillationTerms
from vkdsurgeon.vision_pass.state import TrainingState
from vkdsurgeon.vision_pass.step_control import StepControl, probe_images
from vkdsurgeon.vision_pass.stop_rule import Choice
from vkdsurgeon.vision_pass.trainer import DistillationTerm, settle, train
from vkdsurgeon.vision_pass.validation import Validation, stretched_at


@dataclass(frozen=True)
class Course:
    """The schedules of one student, each followed by a verdict.

    Attributes:
        stack: The student.
        taught: What it is taught.
        harden: Adds the gradients of simulated attackers; None without them.
        control: Measures steps; None where the recipe names their size.
        validation: Looks at the student.
        state: Where it all stands: the settings, what may move, and the optimizer that moves it.
        seed: Seeds the draws of the simulated attackers, and the order of the images while the optimizer settles.
    """

    stack: VisualStack
    taught: DistillationTerms
    harden: Hardener | None
    control: StepControl | None
    validation: Validation
    state: TrainingState
    seed: int

    @classmethod
    def of(
        cls,
        stack: VisualStack,
        taught: DistillationTerms,
        recipe: Recipe,
        mask: SaliencyMask,
        optimizer: MaskedAdamW,
        generator: torch.Generator,
        seed: int,
    ) -> Course:
        """A course that has not begun; the student is at the teacher's weights.

        Args:
            stack: The student.
            taught: What it is taught.
            recipe: The settings.
            mask: What may move.
            optimizer: Fresh.
            generator: Source of the order of the images.
            seed: The run's seed.
        """
        parameters = stack.visual_parameters()
        validation = Validation(stack, taught, recipe)
        harden = prepare_hardening(stack, taught, recipe, seed)
        control = None if recipe.step_size else _step_control(stack, taught.retain, parameters, optimizer, recipe)
        companions = {"hardening": harden, "steps": control, "validation": validation}
        state = TrainingState(
            Trainee(parameters, mask, optimizer),
            taught.both,
            generator,
            recipe,
            companions={name: each for name, each in companions.items() if each is not None},
        )
        return cls(stack, taught, harden, control, validation, state, seed)

    def begin(self, kept: Kept | None) -> None:
        """Stand where a journal left off, or let the optimizer settle and find the size of a step.

        Args:
            kept: The state that the journal saved; None for a run that starts from the beginning.

        Raises:
            UserError: The journal is damaged.
            Diverged: No step size keeps the features finite.
        """
        if kept is not None:
            self.state.restore(kept)
        elif self.control is not None:
            own = torch.Generator().manual_seed(self.seed)
            settle(
                self.stack,
                self.taught.both,
                self.state.trainee.optimizer,
                self.state.recipe,
                self.control,
                generator=own,
                harden=self.harden,
            )

    def run(self, listen: Listener, keeper: Keeper) -> None:
        """Train, schedule after schedule, until the stop rule is met or the budget is spent.

        Args:
            listen: Hears of every step and verdict.
            keeper: Saves the state.
        """

        def heard(step: Step) -> None:
            self.state.stepped(step)
            if step.step in stretched_at(step.steps):
                self.validation.stretch()
            listen(Event.step(step))
            keeper.step()

        state = self.state
        while state.open:
            state.begin()
            self._schedule(heard)
            with rounded_to_disk(self.stack, self.state.trainee.mask.selected):
                verdict = self.validation.judge()
            state.judged(verdict)
            self.stack.processes.agree("weights", lambda: [asdict(state.verdicts[-1]), state.trainee.digest()])
            listen(Event("verdict", subject=verdict))
            keeper.save()

    def end(self, kept: Kept | None) -> Choice:
        """Put the weights of the best verdict back.

        Args:
            kept: The state that the journal saved, if the run went on from one. Its verdict is compared with one on
                these weights.
        """
        choice = self.state.restore_best()
        if kept is not None:
            with rounded_to_disk(self.stack, self.state.trainee.mask.selected):
                kept.agree(self.state.verdicts[choice.index].measured, self.validation.judge().measured)
        return choice

    def _schedule(self, listen: Callable[[Step], None]) -> None:
        if self.control is not None:
            self.control.favour_retention(sum(verdict.failed_in_retention_alone for verdict in self.state.verdicts))
        steps, peak = self.state.schedule
        train(
            self.stack,
            self.taught.both,
            self.state.trainee.optimizer,
            self.state.recipe,
            steps=steps,
            peak=peak,
            generator=self.state.generator,
            listen=listen,
            samplers=self.state.samplers,
            done=self.state.step,
            harden=self.harden,
            control=self.control,
        )


def _step_control(
    stack: VisualStack,
    retain: DistillationTerm,
    parameters: Mapping[str, Parameter],
    optimizer: MaskedAdamW,
    recipe: Recipe,
) -> StepControl:
    layer = next(reversed(recipe.layers))
    probes = stack.processes.share(probe_images(retain.originals))
    batches = list(retain.samples.batches(probes, recipe.micro_batch))
    named = {name: value for name, value in parameters.items() if optimizer.selection(value) is not None}

    def look() -> list[Tensor]:
        with torch.no_grad():
            return [stack.features(batch, (layer,))[layer].detach() for _, batch in batches]

    def put(values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            optimizer.set_selected_values(named[name], value)

    return StepControl(
        target=recipe.step_drift,
        bound=recipe.retain_drift,
        look=look,
        teacher=[retain.targets.get(layer, part, stack.device).detach() for part, _ in batches],
        variance=retain.spreads[layer],
        values=lambda: {name: optimizer.selected_values(value).clone() for name, value in named.items()},
        put=put,
        processes=stack.processes,
    )
