"""LoRA on the language model (Hu et al., 2022, arXiv 2106.09685), through the library that users attack with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.optional import optional
from vkdsurgeon.model.multimodal import LoadedModel


def require_peft() -> None:
    """Refuse, before a model is loaded, what cannot be run.

    Raises:
        UserError: peft is not installed.
    """
    optional("peft", "lora", "LoRA", where="`scope=llm`", otherwise="train every weight of W with `scope=llm_full`")


def adapter_versions() -> dict[str, str]:
    """The version of the library that adds the matrices."""
    import peft

    return {"peft": peft.__version__}


@contextmanager
def adapted(
    loaded: LoadedModel, rank: int, seed: int, tower: str | None = None, projector: Sequence[str] | None = None
) -> Iterator[list[nn.Parameter]]:
    """Add LoRA matrices to every linear layer of the language model but its output head, for as long as it lasts.

    Args:
        loaded: The model; its own weights are frozen, and the layers are its own again afterwards.
        rank: Rank r of the matrices; their product is scaled by alpha / r = 2.
        seed: Of the first matrix of each pair; the second starts at zero, so nothing changes at first.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, likewise.

    Yields:
        The matrices, float32.

    Raises:
        UserError: The language model has no linear layer, or peft is not installed.
    """
    require_peft()
    from peft import LoraConfig, LoraModel

    speaking = set(locate_visual(loaded.model, tower, projector).language_parameters)
    head = loaded.model.get_output_embeddings()
    layers = [
        name
        for name, module in loaded.model.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in speaking and module is not head
    ]
    if not layers:
        raise UserError("the language model has no linear layer for LoRA", where=loaded.root, remedy="`scope=llm_full`")
    with torch.random.fork_rng([loaded.device] if loaded.device.type == "cuda" else []):
        torch.manual_seed(seed)
        wrapped = LoraModel(loaded.model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), "attack")
    try:
        yield [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    finally:
        wrapped.unload()
