"""Which weights of the language model the decoder pass may move, and where they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES, read_tensor
from vkdsurgeon.checkpoint.split import EDITABLE, Split
from vkdsurgeon.config.common import Checkpointing
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.multimodal import LoadedModel

Blocks = Literal["all", "attention", "mlp"]


@dataclass(frozen=True)
class DecoderWeights:
    """Matrices of the decoder layers; norms, biases, embeddings and the output head are never among them.

    Attributes:
        layers: Module paths of the decoder layers.
        on_disk: Module parameter -> name on disk, in the model's order.
        elements: Elements of these parameters together.
        dtype: The widest dtype they have on disk.
        warnings: What the user should know.
    """

    layers: tuple[str, ...]
    on_disk: dict[str, str]
    elements: int
    dtype: torch.dtype
    warnings: tuple[str, ...]


def find_decoder_weights(inventory: Inventory, split: Split, blocks: Blocks) -> DecoderWeights:
    """Find the eligible weights; no tensor is read.

    Args:
        inventory: Inventory of the checkpoint.
        split: Its tensors by part, with the skeleton.
        blocks: `all`, or the matrices of attention or MLP blocks alone.

    Raises:
        UserError: The language model is quantised, or has no decoder layers with weights that can be patched.
    """
    _refuse_quantised_config(inventory)
    skeleton = split.skeleton
    layers = _decoder_layers(skeleton, split)
    names: dict[int, list[str]] = {}
    for name, value in skeleton.named_parameters(remove_duplicate=False):
        names.setdefault(id(value), []).append(name)
    homes = {target: name for name, target in split.language_targets.items()}
    on_disk: dict[str, str] = {}
    homeless: list[str] = []
    parameters = dict(skeleton.named_parameters())
    for name in split.placement.language_parameters:
        value = parameters[name]
        inside = any(name.startswith(layer + ".") for layer in layers)
        # A weight with a second name is tied to something else, such as the embeddings.
        if not inside or value.ndim < 2 or len(names[id(value)]) > 1 or not _in_blocks(name, blocks):
            continue
        if name not in homes:
            homeless.append(name)
            continue
        _check_entry(inventory, homes[name], name, tuple(value.shape))
        on_disk[name] = homes[name]
    if not on_disk:
        raise UserError(
            "no weight of the decoder layers can be patched",
            where=inventory.root,
            value=homeless[0] if homeless else blocks,
            expected="matrices that lie on disk as the model holds them",
            remedy="load the model with transformers and save it again, or set another decoder.blocks",
        )
    warning = f"{len(homeless)} decoder weights are rebuilt while loading and stay as they are, such as {homeless[:1]}"
    dtypes = [TORCH_DTYPES[inventory.tensors[name].dtype] for name in on_disk.values()]
    return DecoderWeights(
        layers=layers,
        on_disk=on_disk,
        elements=sum(parameters[name].numel() for name in on_disk),
        dtype=max(dtypes, key=lambda dtype: dtype.itemsize),
        warnings=(warning,) if homeless else (),
    )


def check_loaded(model: nn.Module, inventory: Inventory, on_disk: Mapping[str, str]) -> None:
    """Prove, before anything is trained, that every eligible parameter holds the tensor that it will be written to.

    Args:
        model: As it was loaded.
        inventory: Inventory of its checkpoint.
        on_disk: Eligible parameter -> name on disk.

    Raises:
        UserError: One does not, or holds NaN or infinity.
    """
    parameters = dict(model.named_parameters())
    for name, disk_name in on_disk.items():
        value = parameters[name].detach().cpu()
        disk = read_tensor(inventory, disk_name)
        if not bool(torch.isfinite(disk).all()) or not torch.equal(disk.to(value.dtype), value):
            raise UserError(
                "the loaded parameter is not the tensor on disk, or holds NaN or infinity",
                where=f"{inventory.root / inventory.tensors[disk_name].file}: tensor {disk_name}",
                value=name,
                expected="weights that transformers loads unchanged",
                remedy="load the model with transformers and save it again",
            )


def _decoder_layers(skeleton: nn.Module, split: Split) -> tuple[str, ...]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    find: Any = getattr(skeleton, "get_decoder", None)
    decoder = None if find is None else find()
    root = next((path for path, module in skeleton.named_modules() if module is decoder), None)
    visual = [split.placement.tower, *split.placement.projector]
    layers = [
        path
        for path, module in skeleton.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
        and root is not None
        and (not root or path.startswith(root + "."))
        and not any(path == part or path.startswith(part + ".") for part in visual)
    ]
    if not layers:
        raise UserError(
            "no decoder layers found in the language model",
            where=split.model_type,
            expected="an architecture whose decoder is a list of layers, such as Llama's",
            remedy="leave --decoder-pass out",
        )
    return tuple(layers)


def _in_blocks(name: str, blocks: Blocks) -> bool:
    attention = any("attn" in part or "attention" in part for part in name.split("."))
    return blocks == "all" or (blocks == "attention") == attention


def _refuse_quantised_config(inventory: Inventory) -> None:
    path = inventory.root / "config.json"
    raw = read_json(path)
    for where in (raw, *(value for value in raw.values() if isinstance(value, dict))):
        settings = where.get("quantization_config")
        if settings:
            kind = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise _quantised(path, kind)


def _check_entry(inventory: Inventory, disk_name: str, name: str, shape: tuple[int, ...]) -> None:
    entry = inventory.tensors[disk_name]
    where = f"{inventory.root / entry.file}: tensor {disk_name}"
    if entry.dtype not in EDITABLE:
        raise _quantised(where, entry.dtype)
    if entry.shape != shape:
        raise UserError(
            "the tensor's shape contradicts config.json",
            where=where,
            value=list(entry.shape),
            expected=f"{list(shape)} for {name}",
            remedy="put the config and the weights of one model together; a packed, quantised W cannot be patched",
        )


def _quantised(where: object, value: object) -> UserError:
    return UserError(
        "the language model is quantised, so the decoder pass cannot patch it",
        where=where,
        value=value,
        expected="decoder weights in F32, BF16 or F16",
        remedy="run the pass on the checkpoint before it was quantised and quantise the result, or leave out "
        "--decoder-pass: the visual pass alone works on this checkpoint",
    )


def recomputes(checkpointing: Checkpointing, device: torch.device) -> bool:
    """Whether decoder layers are to drop their activations, as a recipe says: `auto` does on a GPU."""
    return checkpointing == "on" or (checkpointing == "auto" and device.type == "cuda")


def recompute(loaded: LoadedModel, layers: Sequence[str]) -> None:
    """Let decoder layers drop their activations in the forward pass and compute them again in the backward one.

    Args:
        loaded: The model.
        layers: Module paths of its decoder layers.
    """
    model = loaded.model
    # The older name goes in transformers 6.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    for path in layers:
        # The layers ask this flag of their own; modules inside them stay in `eval` mode, without dropout.
        model.get_submodule(path).training = True
