"""A whole model over several places: GPUs, main memory and disk, as accelerate spreads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.optional import optional

MaxMemory: TypeAlias = str | Mapping[int | str, int | str]
_ON_DISK, _META = "disk", "meta"


@dataclass(frozen=True)
class DeviceMap:
    """Weights fill the GPUs first, then main memory; the rest is read from disk layer by layer.

    Attributes:
        max_memory: Most bytes of weights by place: the number of a GPU, or `cpu`. A place that is not named gets none.
            None is what is free.
    """

    max_memory: Mapping[int | str, int] | None = None

    @property
    def entrance(self) -> torch.device:
        """Where inputs go while nothing is known of the model: the first GPU that may be used, else the CPU."""
        if self.max_memory is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        gpus = [place for place, most in self.max_memory.items() if isinstance(place, int) and most]
        return torch.device("cuda", min(gpus)) if gpus else torch.device("cpu")

    @property
    def given(self) -> dict[str, Any]:
        """As `device_map_of` takes it."""
        limits = self.max_memory
        text = None if limits is None else ",".join(f"{place}={most}" for place, most in limits.items())
        return {"device_map": "auto", "max_memory": text}

    def loading(self, folder: Path) -> dict[str, Any]:
        """What `from_pretrained` is given.

        Args:
            folder: For weights on disk that are held otherwise than the checkpoint has them.
        """
        return {"device_map": "auto", "max_memory": self._limits, "offload_folder": str(folder)}

    @property
    def _limits(self) -> dict[int | str, int] | None:
        # A copy: those who ask for it write into it.
        return None if self.max_memory is None else dict(self.max_memory)

    def check_trains(self, skeleton: nn.Module, names: Iterable[str], what: str) -> None:
        """Refuse, before any weight is read, training that this map leaves no room for.

        Args:
            skeleton: The model on `meta`, in the dtype that it will be loaded in.
            names: Parameters that are to be trained.
            what: What trains them, to begin the message with.

        Raises:
            UserError: They would not all lie on one device.
        """
        from transformers.integrations.accelerate import expand_device_map, get_balanced_memory, infer_auto_device_map

        model: Any = skeleton
        classes = model._no_split_modules
        room = get_balanced_memory(model, max_memory=self._limits, no_split_module_classes=classes)
        found = infer_auto_device_map(model, max_memory=room, no_split_module_classes=classes)
        _refuse_apart(expand_device_map(found, [*names]), _away(set(map(str, found.values()))), what)


def device_map_of(
    device_map: str | None, max_memory: MaxMemory | None = None, device: str = "auto"
) -> DeviceMap | None:
    """Parse what a user asks for.

    Args:
        device_map: `auto`, or None for a model on one device.
        max_memory: Such as `0=20GiB,cpu=30GiB`, or a mapping of the same.
        device: The single device that was asked for besides.

    Raises:
        UserError: One of them is not valid, they contradict each other, or accelerate is missing.
    """
    if device_map is None:
        if max_memory is not None:
            raise UserError(
                "memory limits were given, but no device map",
                where="`max_memory`",
                value=str(max_memory),
                remedy="add `device_map=auto`",
            )
        return None
    if device_map != "auto":
        raise UserError("not a device map", where="`device_map`", value=device_map, expected="auto")
    if device != "auto":
        raise UserError(
            "a device map takes the place of a device",
            where="`device`",
            value=device,
            expected="auto",
            remedy="leave it out, and name the places that may be used in `max_memory`, such as cpu=30GiB",
        )
    optional("accelerate", "offload", "a device map", where="`device_map`")
    return DeviceMap(None if max_memory is None else _parsed(max_memory))


def _parsed(given: MaxMemory) -> dict[int | str, int]:
    from accelerate.utils import convert_file_size_to_int

    pairs = [part.partition("=")[::2] for part in given.split(",")] if isinstance(given, str) else [*given.items()]
    known = [*map(str, range(torch.cuda.device_count())), "cpu"]
    found: dict[int | str, int] = {}
    for place, most in pairs:
        word = str(place).strip()
        try:
            size = int(most) if re.fullmatch(r"\s*\d+\s*", str(most)) else convert_file_size_to_int(str(most).strip())
        except ValueError:
            size = -1
        if word not in known or size < 0 or word in map(str, found):
            raise UserError(
                "not a list of memory limits",
                where="`max_memory`",
                value=f"{word}={most}",
                expected=f"PLACE=SIZE, each place once: {', '.join(known)}; a size such as 20GiB",
            )
        found[word if word == "cpu" else int(word)] = size
    return found


def places_of(model: nn.Module) -> list[str]:
    """Where the weights of a model lie that was loaded with a map, such as `cuda:0`, `cpu` and `disk`."""
    found = getattr(model, "hf_device_map", None) or {"": next(model.parameters()).device}
    return list(dict.fromkeys(f"cuda:{place}" if isinstance(place, int) else str(place) for place in found.values()))


def check_held(model: nn.Module, names: Iterable[str], what: str, *, together: bool = False) -> None:
    """Refuse to change weights that are elsewhere and only come to the device while their layer is computed.

    Args:
        model: A loaded model.
        names: Parameters that are to be changed.
        what: What changes them, to begin the message with.
        together: Whether they must all lie on one device.

    Raises:
        UserError: One of them is elsewhere.
    """
    parameters = dict(model.named_parameters())
    places = {name: str(parameters[name].device) for name in names}
    _refuse_apart(places if together else {n: p if p == _META else "" for n, p in places.items()}, {_META}, what)


def _away(used: set[str]) -> set[str]:
    """The places whose weights come to another device when they are needed: main memory too, beside a GPU."""
    return {_ON_DISK} if used <= {"cpu", _ON_DISK} else {"cpu", _ON_DISK}


def _refuse_apart(places: Mapping[str, Any], away: set[str], what: str) -> None:
    home = next(iter(places.values()), None)
    for name, place in places.items():
        if str(place) in away or place != home:
            raise UserError(
                f"{what} changes weights that do not all fit on one device",
                where="`max_memory`",
                value=name,
                expected="only layers that stay as they are in other places",
                remedy="allow the device more memory, or leave `device_map` out and use one that holds the model",
            )


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Let layers of a spread model fetch their weights once more in the backward pass, not keep them until then."""
    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    spread = any(parameter.is_meta for parameter in model.parameters())
    layers = [each for each in model.modules() if spread and isinstance(each, GradientCheckpointingLayer)]
    again: Any = partial(checkpoint, use_reentrant=False)
    for layer in layers:
        # Modules inside the layer stay in `eval` mode, without dropout.
        layer.gradient_checkpointing, layer._gradient_checkpointing_func, layer.training = True, again, True
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
