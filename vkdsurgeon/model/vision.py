"""Tower and projector, alive; features tapped by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import nn

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES
from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.data.clips import Clip
from vkdsurgeon.model import images as batches
from vkdsurgeon.model.entering import passed_over
from vkdsurgeon.model.image_features import PROJECTOR, image_features
from vkdsurgeon.model.images import ImageBatch, PreparedImage, Preparer
from vkdsurgeon.model.layers import find_layers, layers_read
from vkdsurgeon.model.preparers import preparer_for
from vkdsurgeon.model.processes import ALONE, Processes

# Kosmos-2.5 masks patches that are zero.
_SELF_MASKING = frozenset({"flattened_patches"})


class VisualStack(nn.Module):
    """The visual half of one checkpoint: pixels in, features out, gradients through. Or the half that hears: where the
    split is of the modality `audio`, all that is said of images is true of clips of sound.

    The language model stays on the `meta` device: it has shapes and no values. The stack is always in `eval` mode, so
    that dropout never blurs features that are compared.

    Attributes:
        inventory: Inventory of the checkpoint.
        split: Its tensors by part.
        layers: Where features can be tapped, in order: `layer.0` ... `layer.{L-1}`, `deepstack.0` ... (towers that feed
            several depths to the language model, as Qwen3-VL's), `projector`.
        outputs: Those of them that the language model reads: all `deepstack.*` and `projector`.
        taps: Module path of each `layer.{i}`.
        mixed: Whether features are computed in mixed precision, see `precision`.
        processes: Those that hold the same stack and divide images among them.
        training_bytes: What training will take of its device beyond the weights; None where it is not known.

    Build one with `load_visual_stack`.
    """

    processes: Processes = ALONE

    def __init__(self, inventory: Inventory, split: Split) -> None:
        super().__init__()
        self.inventory = inventory
        self.split = split
        self.model = split.skeleton
        self._disk_names = {target: name for name, target in split.targets.items()}
        self._rebuilt = {target: group for group in split.rebuilt for target in group.targets}
        self.taps = {f"layer.{index}": path for index, path in enumerate(find_layers(split))}
        self._look = image_features(self.model, split)
        self.outputs = self._look.outputs
        self.layers: tuple[str, ...] = (*self.taps, *self.outputs)
        self.mixed = False
        self.training_bytes: int | None = None
        self._preparer: Preparer | None = None
        self.eval()

    def train(self, mode: bool = True) -> VisualStack:
        """Stay in `eval` mode whatever is asked."""
        super().train(False)
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> VisualStack:
        # `.to()`, `.cuda()` and the like leave the language model where it is: it has no values to move.
        super()._apply(lambda tensor: tensor if tensor.is_meta else fn(tensor), recurse)
        return self

    @property
    def device(self) -> torch.device:
        """Where tower and projector live."""
        return self._home.device

    @property
    def dtype(self) -> torch.dtype:
        """Of tower and projector."""
        return self._home.dtype

    @property
    def precision(self) -> str:
        """`float32`, `bfloat16` or `mixed`."""
        return "mixed" if self.mixed else str(self.dtype).removeprefix("torch.")

    @property
    def _home(self) -> nn.Parameter:
        # One look-up by name: a walk over all modules, the language model's among them, costs as much as a small batch.
        return self.model.get_parameter(self.split.placement.visual_parameters[0])

    def visual_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of tower and projector by their names in the module, in the model's order."""
        wanted = set(self.split.placement.visual_parameters)
        return {name: value for name, value in self.model.named_parameters() if name in wanted}

    def layer_of(self, parameter: str) -> str:
        """The layer that a visual parameter belongs to.

        Args:
            parameter: Its name in the module.

        Returns:
            `layer.{i}`; the module path of a part of the projector; `tower` for what of the tower lies outside its
            layers, such as the embeddings.
        """
        places = self.taps | {path: path for path in self.split.placement.projector}
        return next((layer for layer, path in places.items() if f"{parameter}.".startswith(f"{path}.")), "tower")

    def late_parameters(self, count: int) -> dict[str, nn.Parameter]:
        """The projector and the last layers of the tower whose features reach it.

        Args:
            count: How many layers, or as many as there are. LLaVA and its kin read features of a chosen layer; it is
                the last, whatever the tower has behind it. Of a tower that feeds several depths to the language model,
                so many before each. With 0 the projector alone: its parameters, or where it lies in the tower all that
                follows the layers there.

        Returns:
            As `visual_parameters`.
        """
        parameters = self.visual_parameters()
        paths = list(self.taps.values())
        read = layers_read(self.split, self._look.depths)
        last = {path for behind in read for path in paths[max(behind - count, 0) : behind]}
        wanted = {name for name in parameters if any(name.startswith(f"{path}.") for path in last)}
        wanted |= set(self.split.placement.projector_parameters)
        if count or not self.split.placement.projector_parameters:
            wanted |= self.behind_layers()
        return {name: value for name, value in parameters.items() if name in wanted}

    def behind_layers(self) -> set[str]:
        """Names of the visual parameters that follow the tower's layers."""
        names = list(self.visual_parameters())
        lists = tuple(path.rpartition(".")[0] + "." for path in self.taps.values())
        inside = [position for position, name in enumerate(names) if name.startswith(lists)]
        return set(names[inside[-1] + 1 :]) if inside else set()

    def prepare(self, image: Image.Image | Clip, where: str | None = None) -> PreparedImage:
        """Run the checkpoint's processor on one image or clip; the tensors stay on the CPU.

        Args:
            image: The image, or the clip for a tower of sound.
            where: The record and the file that it comes from, for messages.

        Raises:
            UserError: The processor's config is missing or broken, or it refuses the image.
        """
        if self._preparer is None:
            self._preparer = preparer_for(self.split, self._look)
        return self._preparer(image, where)

    def collate(self, images: Sequence[PreparedImage]) -> ImageBatch:
        """Concatenate prepared images of one signature.

        Raises:
            ValueError: No images, or different signatures.
        """
        return batches.collate(images, self._look.collate)

    def looks_once(self, batch: ImageBatch) -> bool:
        """Whether only the tower's first layer looks at pixels, so that it need not get any where it is passed over.

        Not where other numbers come with them, such as masks, or where they say themselves what is padding.
        """
        numbers = {name for name, value in batch.inputs.items() if value.is_floating_point()}
        return numbers == {self._look.pixels} and self._look.pixels not in _SELF_MASKING

    def features(self, batch: ImageBatch, layers: Sequence[str] = (PROJECTOR,)) -> dict[str, torch.Tensor]:
        """Features of a batch.

        Args:
            batch: From `collate`; moved to the stack's device where needed.
            layers: Some of `self.layers`.

        Returns:
            Layer name -> features [B, N, D]; N and D differ between layers. Gradients flow to the parameters.

        Raises:
            ValueError: An unknown layer.
        """
        unknown = [name for name in layers if name not in self.layers]
        if unknown:
            raise ValueError(f"unknown layer {unknown[0]!r}; known: {', '.join(self.layers)}")
        tapped: dict[str, Any] = {}
        hooks = [
            self.model.get_submodule(self.taps[name]).register_forward_hook(partial(_keep, tapped, name))
            for name in layers
            if name in self.taps
        ]
        try:
            with (
                nullcontext() if batch.entering is None else passed_over(self.model, batch.entering),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed),
            ):
                tapped |= self._project(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: by_image(tapped[name], batch.size) for name in layers}

    def _project(self, batch: ImageBatch) -> dict[str, Any]:
        """Run tower and projector; every output that the language model reads, as the family lays it out."""
        home = self._home
        inputs = {
            name: value.to(home.dtype) if value.is_floating_point() else value
            for name, value in batch.to(home.device).inputs.items()
        }
        return self._look(inputs)

    def to_disk(self, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values of module parameters as the tensors they are on disk.

        Args:
            parameters: Module parameter (or buffer) name -> value; any subset of tower and projector.

        Returns:
            Name on disk -> CPU tensor in the dtype on disk.

        Raises:
            KeyError: A name outside tower and projector.
        """
        tensors: dict[str, torch.Tensor] = {}
        for target, value in parameters.items():
            if target in self._rebuilt:
                group = self._rebuilt[target]
                # What was joined on disk goes back together, whoever of it has changed.
                if next(iter(group.sources)) not in tensors:
                    state = {name: parameters.get(name, self.model.get_parameter(name)) for name in group.targets}
                    whole = {name: self.on_disk(name, part) for name, part in state.items()}
                    tensors |= group.to_disk(whole, self.model)
            else:
                tensors[self._disk_names[target]] = self.on_disk(target, value)
        return tensors

    def on_disk(self, parameter: str, value: torch.Tensor) -> torch.Tensor:
        """A parameter's value as whoever reads the checkpoint finds it: on the CPU, rounded to the dtype on disk.

        Args:
            parameter: Its name in the module; of tower or projector.
            value: In any dtype and shape.

        Raises:
            KeyError: A name outside tower and projector.
        """
        group = self._rebuilt.get(parameter)
        name = self._disk_names[parameter] if group is None else next(iter(group.sources))
        return value.detach().to("cpu", TORCH_DTYPES[self.inventory.tensors[name].dtype]).contiguous()


def _keep(tapped: dict[str, Any], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    tapped[name] = output[0] if isinstance(output, (tuple, list)) else output


def by_image(features: Any, size: int) -> torch.Tensor:
    """Rows of all images, however a family lays them out ([B, N, D], packed [T, D], tiles, a list) -> [B, N, D]."""
    if isinstance(features, (tuple, list)):
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in features])
    return features.reshape(size, -1, features.shape[-1])
