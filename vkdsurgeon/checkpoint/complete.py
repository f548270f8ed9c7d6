"""Does a checkpoint contain every tensor of the language model that its config describes? Decided by names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from vkdsurgeon.errors import UserError

_LAYERS = frozenset(
    {"num_hidden_layers", "num_layers", "n_layers", "n_layer", "depth", "encoder_layers", "decoder_layers"}
)
_DEEPEST = 16
_LAYER = re.compile(r"^.*?\.(\d+)\.")


def check_layer_counts(raw: Mapping[str, Any], tensors: int, path: Path) -> None:
    """Refuse a config that promises more layers than there are tensors, before anything is built from it.

    Args:
        raw: The config as it stands in the file.
        tensors: Tensors on disk.
        path: The file, for messages.

    Raises:
        UserError: A number of layers is none, or above that of the tensors.
    """
    for key, value in _counts(raw):
        if type(value) is not int or not 0 <= value <= tensors:
            raise UserError(
                f"{key} promises layers that the checkpoint does not hold",
                where=path,
                value=value,
                expected=f"a number of layers that fits the {tensors} tensors in the weight files",
                remedy="put the config and the weights of one model together",
            )


def _counts(raw: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterable[tuple[str, Any]]:
    for key, value in raw.items():
        if key in _LAYERS and value is not None and not isinstance(value, (list, dict)):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict) and depth < _DEEPEST:
            yield from _counts(value, f"{prefix}{key}.", depth + 1)


def missing_language(
    model: nn.Module,
    covered: set[str],
    converted: set[str],
    names: Iterable[str],
    homeless: Iterable[str],
    *,
    quantised: bool,
) -> tuple[str, ...]:
    """Parameters that the config promises and no tensor on disk is for.

    Args:
        model: The skeleton; tied parameters have one name.
        covered: Parameters that a tensor on disk is for.
        converted: Those of them that stand for a group which is merged or split while loading.
        names: All tensor names on disk.
        homeless: Those that no parameter was found for.
        quantised: Names on disk are those of packed values, which no parameter has.
    """
    optional = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    on_disk = tuple(names)
    # Some classes wrap the whole model once more, and what is saved has prefixes that transformers does not undo.
    tails = {_tail(name) for name in homeless}
    rebuilt = {_place(name) for name in converted}
    missing = []
    for name, _ in model.named_parameters():
        if name in covered or _tail(name) in tails or any(pattern.search(name) for pattern in optional):
            continue
        # Where values are packed, merged or split, one name on disk stands for many: then the layer has to be there.
        loose = quantised or _place(name) in rebuilt
        if not (loose and _somewhere(name, on_disk)):
            missing.append(name)
    return tuple(missing)


def _tail(name: str) -> str:
    """A name from its layer on, or its last two parts where it is in no layer."""
    found = _LAYER.match(name)
    begin = name.rfind(".", 0, found.start(1) - 1) + 1 if found else 0
    return name[begin:] if found else ".".join(name.split(".")[-2:])


def _place(name: str) -> str:
    """The layer of a parameter, or its module where it is in no layer."""
    found = _LAYER.match(name)
    return found.group(0) if found else name.rpartition(".")[0]


def _somewhere(name: str, on_disk: tuple[str, ...]) -> bool:
    place = _place(name).rstrip(".")
    # Prefixes differ between disk and model; what a layer or a module is called at its end does not.
    end = ".".join(place.split(".")[-2:])
    return any(f".{end}." in f".{other}." for other in on_disk)
