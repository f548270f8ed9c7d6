"""Where a decoder pass stands: all that its next step depends on."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.decoder_pass.adversarial_features import FeatureAdversary
from vkdsurgeon.model.questions import Question
from vkdsurgeon.training.events import Step
from vkdsurgeon.training.resume.journal import Journal, Kept, Snapshot
from vkdsurgeon.training.resume.state import Trainee, generator_numbers, set_generator
from vkdsurgeon.training.sampler import GroupedSampler

DECODER = "decoder"


def kept_of(journal: Journal | None, student: str) -> Kept | None:
    """The saved state of the decoder pass that followed the same visual pass, if the journal has one.

    Args:
        journal: The run's, if it has one.
        student: Digest of the student's visual tensors. A visual pass that went on since makes another decoder pass.
    """
    kept = None if journal is None else journal.kept(DECODER)
    return kept if kept is not None and kept.facts.get("student") == student else None


@dataclass
class DecoderState:
    """The training of the decoder's weights.

    Attributes:
        trainee: The selected weights and their optimizer.
        samplers: Questions by role.
        adversary: Draws where to begin its search.
        student: Digest of the student's visual tensors.
        step: Steps done.
        last: The last of them.
    """

    trainee: Trainee
    samplers: dict[str, GroupedSampler[Question]]
    adversary: FeatureAdversary
    student: str
    step: int = 0
    last: Step | None = None

    def stepped(self, step: Step) -> None:
        """Count a finished step."""
        self.step, self.last = step.step, step

    def snapshot(self) -> Snapshot:
        """The whole state, for the journal."""
        assert self.last is not None
        facts = {
            **self.trainee.facts(),
            "student": self.student,
            "decks": {role: sampler.state_dict() for role, sampler in self.samplers.items()},
            "generator": generator_numbers(self.adversary.generator),
            "step": self.step,
            "last": self.last.flat(),
        }
        # Another student's pass may lie in the journal, and its files must not be taken for those of this one.
        stamp = str(int(self.student[:12], 16))
        return Snapshot(facts, self.trainee.files(f"{stamp}.{self.step}", stamp))

    def restore(self, kept: Kept) -> None:
        """Stand where a journal left off. The trainee has the checkpoint's weights and a fresh optimizer.

        Raises:
            UserError: The journal is damaged.
        """
        facts = kept.facts
        with kept.intact():
            self.trainee.load(kept.tensors["state"](), facts)
            for role, sampler in self.samplers.items():
                sampler.load_state_dict(facts["decks"][role])
            set_generator(self.adversary.generator, facts["generator"])
            self.step, self.last = facts["step"], Step.from_flat(facts["last"])
