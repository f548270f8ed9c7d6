"""From the processor's tensors to what the language model reads, as the model's own forward pass does it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vkdsurgeon.checkpoint.placement import find_owner
from vkdsurgeon.checkpoint.senses import SENSES
from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.errors import UserError

PROJECTOR, DEEPSTACK = "projector", "deepstack"

# Model type -> the module of `vkdsurgeon.model.families` that knows what the method above cannot tell.
ADAPTERS = {
    "blip": "blip",
    "git": "git",
    "granite4_vision": "granite4_vision",
    "idefics": "idefics",
    "instructblip": "instructblip",
    "instructblipvideo": "instructblip",
    "kosmos-2": "kosmos",
    "kosmos-2.5": "kosmos",
    "llama4": "llama4",
    "minicpm_ocr": "minicpm",
    "minicpmv4_6": "minicpm",
    "minicpmv4_7": "minicpm",
    "mllama": "mllama",
    "molmo2": "molmo2",
    "phi4_multimodal": "phi4_multimodal",
    "pix2struct": "encoder_decoder",
    "pp_formulanet": "encoder_decoder",
    "video_llava": "video_llava",
    "vision-encoder-decoder": "encoder_decoder",
}
# The same for what models hear; `audio` stands for all others.
AUDIO_ADAPTERS = {
    "qwen2_audio": "qwen2_audio",
    "voxtral": "voxtral",
}


class ImageFeatures:
    """Tower and projector of one model as a function.

    This class asks the method that the forward pass of nearly all families asks: `get_image_features` of the innermost
    module that has it. Families without such a method, or whose method leaves something out, have a subclass.

    Args:
        model: The skeleton, its tower and projector alive or not.
        split: Split of the checkpoint.
    """

    pixels = "pixel_values"
    """The name of the tensor that holds the image, or the clip."""
    packed: ClassVar[Mapping[str, int]] = {}
    """Input -> the dimension along which images lie behind each other, where it is not the first."""

    def __init__(self, model: nn.Module, split: Split) -> None:
        self.model = model
        self.split = split
        self.owner = find_owner(model, split.placement.tower, SENSES[split.modality])

    @property
    def inputs(self) -> frozenset[str]:
        """Names of what the processor makes that are passed on.

        Raises:
            UserError: The architecture has no method for image features.
        """
        return frozenset(_named(self._method))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all that the language model reads: `deepstack.0` ... where there are several depths, `projector`."""
        return (
            *(f"{DEEPSTACK}.{index}" for index in range(len(self._of_tower("deepstack_visual_indexes")))),
            PROJECTOR,
        )

    @property
    def depths(self) -> tuple[int, ...]:
        """Indices of layers, besides the last, whose output leaves the tower."""
        return (*self._of_tower("deepstack_visual_indexes"), *self._of_tower("intermediate_layers_indices"))

    def _of_tower(self, key: str) -> tuple[int, ...]:
        config = getattr(self.model.get_submodule(self.owner), "config", self.split.config)
        return tuple(getattr(getattr(config, "vision_config", None), key, None) or ())

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Every output by its name, as the family lays it out.

        Args:
            inputs: Some of `inputs`, on the device and in the dtype of the tower.
        """
        output = self._method(**self.as_asked(inputs), return_dict=True)
        depths = zip(self.outputs, getattr(output, "deepstack_features", None) or (), strict=False)
        return {**dict(depths), PROJECTOR: output.pooler_output}

    def as_asked(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The inputs as the method's signature says: a tensor, or a list of numbers where it asks for one."""
        asked = inspect.signature(self._method).parameters
        kinds = {name: str(asked[name].annotation) for name in inputs if name in asked}
        lists = {name for name, kind in kinds.items() if "list[" in kind and "Tensor" not in kind}
        return {name: value.tolist() if name in lists else value for name, value in inputs.items()}

    def collate(self, images: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The inputs of several images, whose tensors have the same names and shapes, as one batch."""
        return {name: torch.cat([image[name] for image in images], dim=self.packed.get(name, 0)) for name in images[0]}

    def arranged(self, produced: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a processor returns for one image or clip, as the model's full processor hands it on."""
        return produced

    @property
    def _method(self) -> Callable[..., Any]:
        sense = SENSES[self.split.modality]
        method: Any = getattr(self.model.get_submodule(self.owner), sense.method, None)
        if method is None:
            raise UserError(
                f"this architecture offers no {self.split.modality} features of its own",
                value=self.split.model_type,
                expected=f"a model with {sense.method}, such as {sense.example}",
                remedy="docs/families.md lists the families that work",
            )
        return method


def image_features(model: nn.Module, split: Split) -> ImageFeatures:
    """How a model turns images, or clips, into what its language model reads.

    Args:
        model: The model; the skeleton of the split, or one that is loaded whole.
        split: Split of the checkpoint.

    Raises:
        UserError: Nobody knows how for this architecture.
    """
    known = (
        ADAPTERS.get(split.model_type) if split.modality == "image" else AUDIO_ADAPTERS.get(split.model_type, "audio")
    )
    made: ImageFeatures
    if known is None:
        made = ImageFeatures(model, split)
    else:
        made = importlib.import_module(f"vkdsurgeon.model.families.{known}").Features(model, split)
    assert made.inputs
    return made


def _named(method: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, value in inspect.signature(method).parameters.items() if value.kind in kinds]


def outputs_of(split: Split) -> tuple[str, ...]:
    """Names of all that the language model reads; see `ImageFeatures.outputs`.

    Raises:
        UserError: Nobody knows how this architecture reads images.
    """
    return image_features(split.skeleton, split).outputs
