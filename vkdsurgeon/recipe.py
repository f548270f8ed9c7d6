"""The recipe: every free choice of visual unlearning, with its measured default.

One pydantic model is the YAML file, the command-line flags and what is saved with the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vkdsurgeon.errors import UserError

Distance = Literal["nmse", "mse", "cosine", "smooth_l1"]
RetainDistance = Literal[Distance, "relational", "cka", "attention"]
ForgetTarget = Literal["nobody", "swap", "farthest", "mean", "rmu", "repel", "blank", "blur", "noise", "reference"]
Saliency = Literal["forget_gradient", "ratio", "fisher", "random"]

_FEWEST_STEPS = 200
_PASSES = 4
_RETAIN_DISTANCES = get_args(RetainDistance)


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
    distance: Distance = Field(
        "nmse", description="Distance between student and target features: nmse, mse, cosine or smooth_l1."
    )
    retain_layers: dict[str, float] | None = Field(
        None, description="Layers and weights of the retention loss, where they differ from `layers`; the same form."
    )
    retain_distance: dict[str, float] | None = Field(
        None,
        description="Distances of the retention loss and their coefficients, as NAME[=WEIGHT][,NAME...], where they "
        "differ from `distance`: nmse, mse, cosine, smooth_l1, relational, cka, attention. The last three compare "
        "structure, leave rotations or scale free, and are meant to stand beside one of the others.",
    )
    retain_weight: float = Field(2.0, ge=0, description="Weight lambda of retention distillation.")
    forget_target: ForgetTarget = Field(
        "nobody",
        description="What the student is to see on forget pictures: nobody; swap or farthest, one retain identity; "
        "mean, of the retain identities; rmu, a random direction; repel, anything but the teacher's features; blank, "
        "blur or noise, the teacher's features of such pictures; reference, those of --forget-teacher.",
    )
    repel_margin: float = Field(
        0.0, ge=-1, lt=1, description="Target repel: cosine to the teacher's features below which nothing pushes."
    )
    steering: float = Field(
        1.0, gt=0, description="Target rmu: length of the random direction over the mean length of a token's features."
    )
    blur: float = Field(0.1, gt=0, le=1, description="Target blur: standard deviation over the shorter side.")
    noise: float = Field(0.5, gt=0, description="Target noise: standard deviation, where white is 1.")
    alpha: float = Field(1.3, description="How far a subject's mean is moved towards nobody.")
    beta: float = Field(1.0, description="How much of a picture's deviation from its subject's mean is kept.")
    view_share: float = Field(
        0.85, ge=0, lt=1, description="Share of the variation within subjects that counts as view and is never moved."
    )
    stand_ins: int = Field(2, ge=1, description="Number k of far retain identities that nobody is mixed from.")
    far_share: float = Field(1 / 3, gt=0, le=1, description="Share of the retain identities that counts as far.")
    depth: int | str = Field(
        "all",
        description="Which weights the mask may choose from: all; a number K, the projector and the last K layers "
        "whose features reach it; projector.",
    )
    density: float = Field(
        0.25, gt=0, le=1, description="Share of the visual weights within `depth` that the saliency mask lets move."
    )
    granularity: Literal["element", "row", "tensor", "layer"] = Field(
        "element",
        description="What the saliency mask selects as a whole: element, row, tensor or layer. Units larger than an "
        "element are ranked by their mean score and bring the density as near as whole units can.",
    )
    saliency: Saliency = Field(
        "forget_gradient",
        description="What ranks the weights: forget_gradient; ratio, that over the sensitivity of retained features; "
        "fisher, squared gradients by picture; random, the control.",
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

    @field_validator("retain_distance", mode="before")
    @classmethod
    def _one_name_is_enough(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("layers", "retain_layers", "retain_distance")
    @classmethod
    def _each_weighs_something(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is not None and not (weights and all(0 < weight < float("inf") for weight in weights.values())):
            raise ValueError("needs at least one entry, each with a positive weight")
        return weights

    @field_validator("retain_distance")
    @classmethod
    def _distances_are_known(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        unknown = [name for name in weights or {} if name not in _RETAIN_DISTANCES]
        if unknown:
            raise ValueError(f"unknown distance {unknown[0]!r}; known: {', '.join(_RETAIN_DISTANCES)}")
        return weights

    @field_validator("depth", mode="before")
    @classmethod
    def _depth_is_known(cls, depth: Any) -> Any:
        if isinstance(depth, str) and depth.isdecimal():
            # As a flag hands it over.
            depth = int(depth)
        if depth in ("all", "projector") or (type(depth) is int and depth >= 1):
            return depth
        raise ValueError("neither 'all', 'projector' nor a number of layers from 1 up")

    @property
    def retention_layers(self) -> dict[str, float]:
        """Layers and weights of the retention loss."""
        return self.layers if self.retain_layers is None else self.retain_layers

    @property
    def retention_distance(self) -> dict[str, float]:
        """Distances of the retention loss and their coefficients."""
        return {self.distance: 1.0} if self.retain_distance is None else self.retain_distance

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
