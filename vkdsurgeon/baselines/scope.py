"""Which weights a method may move, and where they lie on disk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vkdsurgeon.baselines.registry import Scope
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.split import Split
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.decoder_layers import DecoderWeights, find_decoder_weights
from vkdsurgeon.model.layers import find_layers


@dataclass(frozen=True)
class ScopedWeights:
    """The parameters that a scope selects.

    Attributes:
        visual: Parameters of tower and projector -> names on disk, in the model's order; empty for scope `llm`.
        decoder: Matrices of the decoder layers; None for scope `visual`.
        tower_layers: Module paths of the tower's layers.
    """

    visual: dict[str, str]
    decoder: DecoderWeights | None
    tower_layers: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths of the layers of the tower and of the decoder, as far as the scope has them."""
        return (*self.tower_layers, *(() if self.decoder is None else self.decoder.layers))

    @property
    def on_disk(self) -> dict[str, str]:
        """Module parameter -> name on disk, of the whole scope."""
        return {**self.visual, **({} if self.decoder is None else self.decoder.on_disk)}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about decoder weights that cannot be trained."""
        return () if self.decoder is None else self.decoder.warnings


def find_weights(inventory: Inventory, split: Split, scope: Scope) -> ScopedWeights:
    """Find the weights of a scope; no tensor is read.

    Of the language model these are the matrices of its decoder layers, as `decoder_layers` chooses them and as LoRA in
    the sources does; norms, embeddings and the output head stay out.

    Raises:
        UserError: The language model is in scope and quantised, or nothing of it can be patched; or tower and
            projector are in scope and transformers rebuilds tensors of theirs while loading.
    """
    visual: dict[str, str] = {}
    if scope is not Scope.llm:
        split.refuse_rebuilt("this method")
        homes = {target: name for name, target in split.targets.items()}
        names = dict(split.skeleton.named_parameters())
        visual = {name: homes[name] for name in names if name in split.placement.visual_parameters and name in homes}
    decoder = None if scope is Scope.visual else find_decoder_weights(inventory, split, "all")
    return ScopedWeights(visual, decoder, find_layers(split))


def decoder_layers(inventory: Inventory, split: Split, weights: ScopedWeights) -> tuple[str, ...]:
    """Module paths of the decoder layers, whatever the scope.

    Raises:
        UserError: There are none.
    """
    found = weights.decoder or find_decoder_weights(inventory, split, "all")
    return found.layers


def mlp_output(model: nn.Module, layer: str) -> str:
    """Path of the linear layer that writes a transformer layer's MLP back into the residual stream.

    Its inputs are the MLP's neurons, after activation and gate.

    Raises:
        UserError: The layer has no single MLP, such as one with experts.
    """
    module = model.get_submodule(layer)
    blocks = [
        name
        for name, _ in module.named_children()
        if any(word in name.lower() for word in ("mlp", "feed_forward", "ffn"))
    ]
    linears = [
        (name, child)
        for block in blocks
        for name, child in module.get_submodule(block).named_modules(prefix=block)
        if isinstance(child, nn.Linear)
    ]
    if len(blocks) != 1 or not 2 <= len(linears) <= 3:
        raise UserError(
            "no plain MLP found in this layer",
            where=layer,
            value=[name for name, _ in linears],
            expected="one MLP of two or three linear layers per layer; experts are not supported",
            remedy="use a method that does not look for MLP neurons",
        )
    return f"{layer}.{linears[-1][0]}"
