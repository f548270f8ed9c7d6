"""The mapping between names on disk and names of module parameters, in both directions.

transformers renames (and for some models reshapes) tensors while it loads them. Its own conversion table decides
here too; a table of ours would drift. The functions it offers for this are only half public, so nothing is believed:
before anything is trained, every visual tensor must map back to its bytes on disk (see `vkdsurgeon.model`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from vkdsurgeon.checkpoint.rebuilt import Conversion


@dataclass(frozen=True)
class NameMap:
    """Where each tensor on disk goes.

    Attributes:
        targets: Name on disk -> name in the module's state dict; names without a home in the model are absent.
        converted: Names on disk whose values are reshaped, merged or split while loading; their target is the first
            parameter of the group.
        conversions: What is done with them, one entry per group.
    """

    targets: dict[str, str]
    converted: frozenset[str]
    conversions: tuple[Conversion, ...]


def map_names(model: nn.Module, names: Iterable[str]) -> NameMap:
    """Find the home of every tensor on disk, as `from_pretrained` does.

    Args:
        model: The skeleton.
        names: Tensor names on disk.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    state = model.state_dict()
    prefix = model.base_model_prefix
    owners = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    targets: dict[str, str] = {}
    converted: set[str] = set()
    groups: dict[str, Conversion] = {}
    # The order of loading, which decides the order of what is put together.
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], prefix, state)
        if target in state:
            targets[name] = target
            if pattern is not None:
                converted.add(name)
                group = groups.setdefault(target, Conversion(target, {}, owners[pattern]))
                group.sources[name] = pattern
    return NameMap(targets, frozenset(converted), tuple(groups.values()))
