"""The recipe as a whole: its sections with all their keys side by side."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vkdsurgeon.config.baselines import BaselineRecipe
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.hardening import Hardening
from vkdsurgeon.config.mask import Mask
from vkdsurgeon.config.retention import Retention
from vkdsurgeon.config.stopping import Stopping
from vkdsurgeon.config.training import Training

_FEWEST_STEPS = 300
_PASSES = 4
# Output mode, unless the recipe says otherwise (docs/studies/baselines.md).
_OUTPUT_MODE = {
    "steps": 60,
    "retain_weight": 10.0,
    "step_size": 0.75,
    "density": 0.25,
    "copies": 0,
    "tamper_weight": 0.0,
}

OutputLoss = Literal["npo", "idk", "ga", "uniform"]


# pydantic lists the keys of the last base first.
class Recipe(Stopping, Hardening, Mask, Retention, Training):
    """Settings of one unlearning run; unknown keys are refused."""

    decoder: DecoderRecipe | None = Field(
        None,
        description="Settings of the decoder pass. Without this section the language model W stays byte-identical.",
    )

    baseline: BaselineRecipe | None = Field(
        None, description="Settings of the other methods (`unlearn --method`), and of the output losses npo and idk."
    )
    output_loss: OutputLoss | None = Field(
        None,
        description="Forget through a loss on the answers of the frozen language model, instead of on features: npo, "
        "idk, ga, or uniform (every token equally likely). Needs questions and answers. Other defaults "
        "then apply: steps 60, retain_weight 10, step_size 0.75, density 0.25, copies 0, tamper_weight 0.",
    )

    @property
    def planned_steps(self) -> int:
        """`steps` of a recipe that is fitted to its data."""
        if self.steps is None:
            raise ValueError("the recipe leaves its steps to the data; call fitted() first")
        return self.steps

    @property
    def size_key(self) -> str:
        """The key that makes steps smaller: `step_size` where the recipe names one, else `step_drift`."""
        return "step_drift" if self.step_size is None else "step_size"

    def fitted(self, forget_samples: int) -> Recipe:
        """The recipe with everything that was left to the data derived from it.

        Args:
            forget_samples: Size of the forget set.
        """
        if self.output_loss is not None:
            return self.model_copy(
                update={
                    key: value
                    for key, value in _OUTPUT_MODE.items()
                    if key not in self.model_fields_set or getattr(self, key) is None
                }
            )
        if self.steps is not None:
            return self
        per_pass = -(-forget_samples // min(self.forget_batch, max(forget_samples, 1)))
        return self.model_copy(update={"steps": max(_FEWEST_STEPS, _PASSES * per_pass)})
