"""The recipe: every free choice of visual unlearning, with its measured default.

One pydantic model is the YAML file, the command-line flags and what is saved with the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vkdsurgeon.errors import UserError

_FEWEST_STEPS = 200
_PASSES = 4


class DecoderRecipe(BaseModel):
    """Settings of the decoder pass, the section `decoder` of a recipe; unknown keys are refused.

    The symbols are those of docs/method.md, section Decoder pass.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    steps: int = Field(200, ge=1, description="Optimizer steps.")
    step_size: float = Field(
        0.15, gt=0, description="Peak step of AdamW relative to each weight, as the visual pass's step_size."
    )
    warmup: float = Field(0.1, ge=0, le=1, description="First share of the steps, of linear warm-up.")
    decay: float = Field(0.4, ge=0, le=1, description="Last share of the steps, of linear decay to zero.")
    clip: float = Field(1.0, gt=0, description="Global norm that the selected gradient is clipped to.")
    density: float = Field(0.25, gt=0, le=1, description="Share of the eligible decoder weights that may move.")
    saliency: Literal["forget_gradient", "random"] = Field(
        "forget_gradient", description="What ranks the weights: forget_gradient, or random, the control."
    )
    blocks: Literal["all", "attention", "mlp"] = Field(
        "all", description="Eligible matrices of the decoder layers: all, attention or mlp."
    )
    forget_batch: int = Field(16, ge=1, description="Questions about forget pictures per step.")
    retain_batch: int = Field(32, ge=1, description="Questions about retain or generic pictures per step.")
    text_batch: int = Field(16, ge=1, description="Prompts of the text keep set per step.")
    micro_batch: int = Field(32, ge=1, description="Most sequences that pass the model at once (bounds memory).")
    reach: float = Field(
        0.5,
        ge=0,
        description="Half of the forget questions are asked of features T + u (t - T), u within 1 +- reach, instead of "
        "the original features t.",
    )
    seek_steps: int = Field(
        3, ge=0, description="Steps from there towards features that W still reads as the original ones; 0 takes none."
    )
    seek_size: float = Field(0.1, gt=0, description="Size of such a step, relative to the RMS of the features.")
    nobody_weight: float = Field(
        0.5, ge=0, description="Weight a of what W says on the unlearned features of forget pictures."
    )
    retain_weight: float = Field(
        4.0, ge=0, description="Weight b of what W says on kept pictures, half of them seen by the unlearned tower."
    )
    text_weight: float = Field(2.0, ge=0, description="Weight c of what W says on text.")
    answer_tokens: int = Field(8, ge=1, description="Most tokens of the teacher's greedy answer that are judged.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="What W is held in: float32, bfloat16, or auto: bfloat16 on a GPU where no weight is wider."
    )
    checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="Recompute activations of decoder layers to save memory: on, off, or auto: on a GPU."
    )
    forget_ratio: float = Field(
        0.25, gt=0, description="Gate: KL on original features of held-out forget pictures over its start."
    )
    retain_kl: float = Field(0.1, gt=0, description="Gate: KL on held-out kept pictures, nats per position.")
    text_kl: float = Field(0.05, gt=0, description="Gate: KL on the held-out half of the text keep set, nats.")
    text_agreement: float = Field(
        0.95, ge=0, le=1, description="Gate: share of held-out prompts answered in the very same tokens."
    )


class Recipe(BaseModel):
    """Settings of one unlearning run (feature mode); unknown keys are refused.

    The symbols are those of docs/method.md: T(x) = mu_p + alpha Q (nu_p - mu_p) + beta (t(x) - mu_p).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps before the stop rule looks for the first time; derived from the data when not "
        "given: 4 passes over the forget pictures, at least 200.",
    )
    step_size: float = Field(
        0.75,
        gt=0,
        description="Peak step of AdamW relative to each weight, the same at every tower width: an element of a "
        "matrix moves by step_size * rms / sqrt(fan-in), of a gain or bias by 0.004 * step_size.",
    )
    warmup: float = Field(0.05, ge=0, le=1, description="First share of the steps, of linear warm-up.")
    decay: float = Field(0.4, ge=0, le=1, description="Last share of the steps, of linear decay to zero.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of the selected elements.")
    clip: float = Field(1.0, gt=0, description="Global norm that the selected gradient is clipped to.")
    forget_batch: int = Field(16, ge=1, description="Forget pictures per step.")
    retain_batch: int = Field(32, ge=1, description="Retain or generic pictures per step.")
    micro_batch: int = Field(64, ge=1, description="Most pictures that pass the tower at once (bounds memory).")
    layers: dict[str, float] = Field(
        {"projector": 1.0},
        description="Tapped layers and their weight in both losses, as LAYER=WEIGHT[,LAYER=WEIGHT...]; `projector` "
        "stands for every output that the language model reads; see `inspect` for the names.",
    )
    distance: Literal["nmse", "mse", "cosine", "smooth_l1"] = Field(
        "nmse", description="Distance between student and target features: nmse, mse, cosine or smooth_l1."
    )
    retain_weight: float = Field(2.0, ge=0, description="Weight lambda of retention distillation.")
    alpha: float = Field(1.3, description="How far a subject's mean is moved towards nobody.")
    beta: float = Field(1.0, description="How much of a picture's deviation from its subject's mean is kept.")
    view_share: float = Field(
        0.85, ge=0, lt=1, description="Share of the variation within subjects that counts as view and is never moved."
    )
    stand_ins: int = Field(2, ge=1, description="Number k of far retain identities that nobody is mixed from.")
    far_share: float = Field(1 / 3, gt=0, le=1, description="Share of the retain identities that counts as far.")
    density: float = Field(0.25, gt=0, le=1, description="Share of the visual weights the saliency mask lets move.")
    granularity: Literal["element", "row", "tensor", "layer"] = Field(
        "element",
        description="What the saliency mask selects as a whole: element, row, tensor or layer. Units larger than an "
        "element are ranked by their mean score and bring the density as near as whole units can.",
    )
    saliency: Literal["forget_gradient", "random"] = Field(
        "forget_gradient", description="What ranks the weights: forget_gradient, or random, the control."
    )
    validation_share: float = Field(
        0.125, ge=0, lt=0.5, description="Share of the pictures held out for the stop rule."
    )
    forget_ratio: float = Field(0.18, gt=0, description="Stop rule: forget loss over its start on held-out pictures.")
    retain_drift: float = Field(
        0.06, gt=0, description="Stop rule: normalised squared retain error, held-out pictures."
    )
    extensions: int = Field(2, ge=0, description="How often half the steps are added where the stop rule is not met.")
    cache_gib: float = Field(
        8.0, gt=0, description="Most GiB of memory for teacher features and decoded pictures each."
    )
    decoder: DecoderRecipe | None = Field(
        None, description="Settings of the decoder pass; without this section W stays byte-identical."
    )

    @field_validator("layers")
    @classmethod
    def _layers_weigh_something(cls, layers: dict[str, float]) -> dict[str, float]:
        if not layers or any(not 0 < weight < float("inf") for weight in layers.values()):
            raise ValueError("needs at least one layer, each with a positive weight")
        return layers

    @property
    def planned_steps(self) -> int:
        """`steps` of a recipe that is fitted to its data."""
        if self.steps is None:
            raise ValueError("the recipe leaves its steps to the data; call fitted() first")
        return self.steps

    def fitted(self, forget_pictures: int) -> Recipe:
        """The recipe with everything that was left to the data derived from it.

        Args:
            forget_pictures: Size of the forget set.
        """
        if self.steps is not None:
            return self
        per_pass = -(-forget_pictures // min(self.forget_batch, max(forget_pictures, 1)))
        return self.model_copy(update={"steps": max(_FEWEST_STEPS, _PASSES * per_pass)})


def load_recipe(path: Path | None, overrides: dict[str, object]) -> Recipe:
    """Read a recipe file and lay the command line's settings over it.

    Args:
        path: YAML mapping; None for the defaults.
        overrides: Settings that win, by key.

    Raises:
        UserError: The file cannot be read or parsed, has an unknown key, or a value is out of range.
    """
    settings: dict[str, object] = {}
    where = "recipe"
    if path is not None:
        where = str(path)
        try:
            loaded = _parse(path.read_text(encoding="utf-8"), path)
        except OSError as error:
            raise UserError(f"cannot read the recipe: {error.strerror}", where=path) from error
        except UserError:
            raise
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError("the recipe is not YAML", where=path, value=" ".join(str(error).split())) from error
        if loaded is not None and not isinstance(loaded, dict):
            raise UserError("the recipe is not a mapping", where=path, value=loaded, expected="lines of `key: value`")
        settings.update(loaded or {})
    section = settings.get("decoder")
    if isinstance(section, dict) and isinstance(overrides.get("decoder"), dict):
        overrides = {**overrides, "decoder": section | overrides["decoder"]}  # type: ignore[operator]
    settings.update(overrides)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        fields = (DecoderRecipe if first["loc"][:1] == ("decoder",) and len(first["loc"]) > 1 else Recipe).model_fields
        own = str(first["loc"][1] if fields is not Recipe.model_fields else (first["loc"] or ("",))[0])
        if first["type"] == "extra_forbidden":
            raise UserError(
                f"unknown key {key!r} in the recipe",
                where=where,
                expected="one of " + ", ".join(fields),
                remedy="check the spelling; nothing is guessed",
            ) from None
        raise UserError(
            f"recipe key {key!r}: {first['msg'].lower()}",
            where=where,
            value=first["input"],
            expected=fields[own].description if own in fields else None,
        ) from None


def _parse(text: str, path: Path) -> object:
    # An alias can make a short file unfold without end; a recipe needs none. Of two equal keys one would vanish.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise UserError("a recipe has no use for YAML aliases", where=path, remedy="write the value out")
    node = yaml.compose(text)
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"the recipe has key {key!r} twice", where=path, remedy="keep one of them")
        if any(not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str" for key, _ in node.value):
            raise UserError("a key of the recipe is no word", where=path, expected="lines of `key: value`")
    return yaml.safe_load(text)


def dump_recipe(recipe: Recipe) -> str:
    """The effective recipe as YAML, readable by `load_recipe`."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False)
