"""Images on their way to the tower: prepared one by one by the checkpoint's own processor, batched where they fit.

Families differ wildly in what a processor returns: one tensor per image, tiles, patches packed end to end, grids.
What they share: two images whose tensors have equal shapes and whose integer metadata is equal can be put together, as
the family does it, and each then yields the same number of feature rows. Such images have the same *signature*.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import blaming, brief, missing_package
from vkdsurgeon.model.entering import Entering
from vkdsurgeon.model.image_features import ImageFeatures

# Of an image that only tries the processor.
_ANY_SIDE, _LARGEST_SIDE = 96, 1024


@dataclass(frozen=True)
class PreparedImage:
    """One image as the processor returns it.

    Attributes:
        inputs: Keyword arguments of the model's `get_image_features`, on the CPU.
        signature: Images of equal signature can share a batch.
    """

    inputs: dict[str, torch.Tensor]
    signature: Hashable

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(value.nbytes for value in self.inputs.values())


@dataclass(frozen=True)
class ImageBatch:
    """Images of one signature.

    Attributes:
        inputs: Keyword arguments of the model's `get_image_features`.
        size: Number of images, B.
        entering: Stands for the work of layers that need not be run; None runs all.
    """

    inputs: dict[str, torch.Tensor]
    size: int
    entering: Entering | None = None

    def to(self, device: torch.device | str) -> ImageBatch:
        """The same batch on another device."""
        moved = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return replace(self, inputs=moved)

    def without_pixels(self, device: torch.device) -> ImageBatch:
        """The same batch on a device, with ones in the place of pixels, which take no memory."""
        inputs = {
            name: torch.ones((), dtype=value.dtype, device=device).expand(value.shape)
            if value.is_floating_point()
            else value.to(device)
            for name, value in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def with_entering(self, entering: Entering | None) -> ImageBatch:
        """The same batch, without the work of some layers."""
        return replace(self, entering=entering)


def collate(
    images: Sequence[PreparedImage],
    join: Callable[[Sequence[Mapping[str, torch.Tensor]]], dict[str, torch.Tensor]],
) -> ImageBatch:
    """Put prepared images together.

    Args:
        images: Prepared images with the same signature.
        join: Function that joins their inputs.

    Raises:
        ValueError: No images, or their signatures differ.
    """
    if not images:
        raise ValueError("an empty batch")
    if any(image.signature != images[0].signature for image in images):
        raise ValueError("images of different signatures do not fit in one batch")
    return ImageBatch(join([image.inputs for image in images]), len(images))


def signature_of(inputs: Mapping[str, torch.Tensor]) -> Hashable:
    """Shapes of everything, values of whatever holds no pixels."""
    facts: list[Hashable] = []
    for name in sorted(inputs):
        value = inputs[name]
        facts.append((name, str(value.dtype), tuple(value.shape)))
        if not value.is_floating_point():
            facts.append(hashlib.sha256(value.contiguous().numpy().tobytes()).digest())
    return tuple(facts)


class Preparer:
    """The checkpoint's image processor, reduced to what the tower needs.

    Args:
        split: Split of the checkpoint.
        look: What the model makes of its tensors.

    Raises:
        UserError: The processor's config is missing or broken, or needs a package that is not installed.
    """

    noun, processor_name, settings_key = "image", "image processor", "images_kwargs"

    def __init__(self, split: Split, look: ImageFeatures) -> None:
        self.root, self.look = split.root, look
        self.accepted, self.pixels = look.inputs, look.pixels
        self.processor = _load_processor(split.root, self.processor_name, self.loader)
        self.settings = _defaults_of_full_processor(split, self.settings_key)

    def __call__(self, content: Any, where: str | None = None) -> PreparedImage:
        """Prepare one image (any mode; converted to RGB).

        Args:
            content: The image.
            where: The record and the file that it comes from, for messages.
        """

        def refused(error: BaseException) -> UserError:
            return UserError(
                f"the {self.processor_name} refuses this {self.noun}: {brief(error)}",
                where=where or self.root,
                value=content.size,
                expected=f"what the processor of {self.root} can handle",
                remedy=None if where is None else f"leave the {self.noun} out, or give one of more usual size",
            )

        with blaming(self.root, refused):
            produced = self.look.arranged(self.process(content))
        inputs = {name: torch.as_tensor(value) for name, value in produced.items() if name in self.accepted}
        if self.pixels not in inputs:
            raise UserError(
                f"the {self.processor_name} returns no {self.pixels}",
                where=self.root,
                value=sorted(produced),
                expected=self.pixels,
                remedy=f"restore the {self.processor_name}'s file from the original checkpoint",
            )
        return PreparedImage(inputs, signature_of(inputs))

    @property
    def loader(self) -> Any:
        """The class of transformers that knows every processor."""
        # Earlier versions of transformers hide the class at the top level where torchvision is missing, though the
        # processors' PIL variants need none.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        return AutoImageProcessor

    def process(self, content: Any) -> Mapping[str, Any]:
        """What the processor makes of one image, by the names that the model has for it."""
        produced = self.processor(images=[content.convert("RGB")], return_tensors="pt", **self.settings)
        # IDEFICS' processor gives the pixels without a name.
        return {self.pixels: produced} if isinstance(produced, torch.Tensor) else produced

    def blank(self) -> Any:
        """An image with nothing on it, to try the processor with."""
        size = getattr(getattr(self.look.split.config, "vision_config", None), "image_size", None)
        # Of the tower's own size: a processor that neither resizes nor crops is right for such images.
        side = size if type(size) is int and 0 < size <= _LARGEST_SIDE else _ANY_SIDE
        return Image.new("RGB", (side, side))


def _load_processor(root: Path, called: str, loader: Any) -> Any:
    names = ("preprocessor_config.json", "processor_config.json")
    present = [root / name for name in names if (root / name).is_file()]
    if not present:
        raise UserError(
            f"no {called} in the checkpoint",
            where=root,
            expected=" or ".join(names),
            remedy="copy preprocessor_config.json from the original checkpoint",
        )
    for path in present:
        read_json(path)

    def refused(error: BaseException) -> UserError:
        if (absent := missing_package(f"the {called}", error, present[0])) is not None:
            return absent
        return UserError(
            f"transformers refuses the {called}: {brief(error)}",
            where=present[0],
            remedy="copy the file from the original checkpoint",
        )

    with blaming(root, refused):
        return loader.from_pretrained(root, trust_remote_code=False)


def _defaults_of_full_processor(split: Split, key: str) -> dict[str, Any]:
    """What the model's full processor asks of the image processor, or the other one, beyond the saved settings.

    InternVL, for one, cuts images into tiles only because its processor says so; the image processor alone would
    not, and the tower would be trained on other inputs than it sees in use. A checkpoint that names another processor
    than its family's is used with that one.
    """
    from transformers.models.auto.configuration_auto import model_type_to_module_name
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    class_name = _named_processor(split.root) or PROCESSOR_MAPPING_NAMES.get(split.model_type)
    homes = [kind for kind, name in PROCESSOR_MAPPING_NAMES.items() if name == class_name]
    # Several families share a processor, which lives with one of them.
    for module_name in map(model_type_to_module_name, sorted(homes, key=lambda kind: kind != split.model_type)):
        try:
            module = importlib.import_module(f"transformers.models.{module_name}.processing_{module_name}")
        except ImportError:
            continue
        if (processor := vars(module).get(class_name)) is not None:
            # Recent versions of transformers keep the defaults on the class, earlier ones in typed keyword arguments.
            typed = vars(module).get(f"{class_name}Kwargs")
            settings = {**getattr(processor, key, {}), **getattr(typed, "_defaults", {}).get(key, {})}
            # Some say in what form they want tensors, which is said at the call.
            settings.pop("return_tensors", None)
            return settings
    # A processor that lives elsewhere; the image processor's own settings are all there is.
    return {}


def _named_processor(root: Path) -> str | None:
    """The class that the checkpoint itself names, in the order in which transformers' AutoProcessor looks."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (path := root / name).is_file() and isinstance(found := read_json(path).get("processor_class"), str):
            return found
    return None
