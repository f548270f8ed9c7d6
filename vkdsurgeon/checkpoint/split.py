"""Which tensors on disk are vision tower, projector and language model: shown before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vkdsurgeon.checkpoint.complete import check_layer_counts, missing_language
from vkdsurgeon.checkpoint.header import TensorEntry
from vkdsurgeon.checkpoint.inventory import Inventory
from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.checkpoint.names import map_names
from vkdsurgeon.checkpoint.placement import Placement, locate_visual
from vkdsurgeon.checkpoint.rebuilt import CONVERSION_ERRORS, Rebuilt, made_by, rebuild
from vkdsurgeon.checkpoint.shard_index import INDEX
from vkdsurgeon.checkpoint.skeleton import build_skeleton, read_config
from vkdsurgeon.data.modality import Modality
from vkdsurgeon.errors import UserError

Part = Literal["tower", "projector", "language", "other"]

# What quantised weights are called that lie in another tensor than the weight they stand for.
_PACKED = frozenset({"qweight", "qzeros", "weight_packed", "weight_scale", "absmax", "SCB", "scales"})

EDITABLE = ("F32", "BF16", "F16", "F64")


@dataclass(frozen=True)
class Split:
    """A checkpoint's tensors by part.

    Attributes:
        root: The checkpoint.
        model_type: As in config.json.
        modality: What the tower takes in.
        placement: The same split by module parameters.
        parts: Name on disk -> `tower`, `projector`, `language` (heads and other towers included) or `other` (no place
            in the model; passes through untouched).
        targets: Name on disk -> module parameter (or buffer), for what of tower and projector lies on disk as the model
            holds it.
        rebuilt: The other tensors of tower and projector: transformers makes the model's of them while loading.
        language_targets: Name on disk -> module parameter, for tensors of the language side that lie on disk as the
            model holds them; such as transformers rebuilds while loading are left out.
        config: The `PretrainedConfig`.
        skeleton: The whole model on the `meta` device.
        missing: Parameters of the language model that the config promises and that are not on disk.
    """

    root: Path
    model_type: str
    modality: Modality
    placement: Placement
    parts: dict[str, Part]
    targets: dict[str, str]
    rebuilt: tuple[Rebuilt, ...]
    language_targets: dict[str, str]
    config: Any
    skeleton: nn.Module
    missing: tuple[str, ...] = ()

    def names(self, *parts: Part) -> tuple[str, ...]:
        """Names on disk that belong to any of the parts."""
        return tuple(name for name, part in self.parts.items() if part in parts)

    @property
    def tower(self) -> tuple[str, ...]:
        """Names on disk of the tower."""
        return self.names("tower")

    @property
    def projector(self) -> tuple[str, ...]:
        """Names on disk of the projector."""
        return self.names("projector")

    @property
    def visual(self) -> tuple[str, ...]:
        """Names on disk that surgery may change."""
        return self.names("tower", "projector")

    @property
    def language(self) -> tuple[str, ...]:
        """Names on disk of the language side."""
        return self.names("language")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about the split."""
        found = []
        if self.other:
            found.append(
                f"{len(self.other)} tensors have no place in the model and pass through untouched, such as "
                f"{self.other[0]}"
            )
        if self.missing:
            found.append(
                f"{len(self.missing)} tensors of the language model are missing, such as {self.missing[0]}: tower and "
                "projector can be trained without them, but nothing that loads the whole model will work"
            )
        return tuple(found)

    def refuse_missing(self) -> None:
        """Refuse what needs the whole language model.

        Raises:
            UserError: Part of it is not on disk.
        """
        if self.missing:
            raise _incomplete(self.missing, self.root)

    def refuse_rebuilt(self, who: str) -> None:
        """Refuse visual tensors that lie on disk otherwise than the model holds them.

        Args:
            who: What needs them as they are, as the subject of a sentence.

        Raises:
            UserError: There are such tensors.
        """
        if self.rebuilt:
            raise UserError(
                f"{who} needs visual tensors that lie on disk as the model holds them, and transformers rebuilds some",
                where=self.root,
                value=next(iter(self.rebuilt[0].sources)),
                remedy="use the vision pass alone, without `output_loss`: it writes such tensors back",
            )

    @property
    def other(self) -> tuple[str, ...]:
        """Names on disk without a place in the model."""
        return self.names("other")


def split_checkpoint(
    inventory: Inventory,
    *,
    tower: str | None = None,
    projector: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    modality: Modality = "image",
) -> Split:
    """Split a checkpoint into tower, projector and language model; no tensor is read.

    Args:
        inventory: Inventory of the checkpoint.
        tower: Module path of the tower, where the rule gets it wrong.
        projector: Module paths of the projector, where the rule gets it wrong.
        dtype: Dtype of the skeleton's parameters.
        modality: What the tower takes in.

    Raises:
        UserError: The architecture is unknown or cannot be split, or its visual tensors are missing, doubled,
            quantised, not in the index, or of another shape than the config says; or the index names tensors of the
            language model that no shard holds.
    """
    path = inventory.root / "config.json"
    check_layer_counts(read_json(path), len(inventory.tensors), path)
    config = read_config(inventory.root)
    skeleton = build_skeleton(config, dtype=dtype, where=inventory.root / "config.json")
    placement = locate_visual(skeleton, tower, projector, modality)
    names = map_names(skeleton, inventory.tensors)
    canonical = _canonical_names(skeleton)
    tower_names = set(placement.tower_parameters)
    tower_names |= {name for name in placement.visual_buffers if name.startswith(placement.tower + ".")}
    projector_names = (set(placement.projector_parameters) | set(placement.visual_buffers)) - tower_names

    parts: dict[str, Part] = {}
    targets: dict[str, str] = {}
    language_targets: dict[str, str] = {}
    for name in inventory.tensors:
        target = canonical.get(names.targets.get(name, ""), "")
        if not target:
            parts[name] = "other"
        elif target in tower_names or target in projector_names:
            parts[name] = "tower" if target in tower_names else "projector"
            if name not in names.converted:
                targets[name] = target
        else:
            parts[name] = "language"
            if name not in names.converted:
                language_targets[name] = target
    _check_named(inventory, parts)
    shapes = {name: entry.shape for name, entry in inventory.tensors.items()}
    rebuilt = tuple(
        rebuild(conversion, shapes, skeleton, canonical)
        for conversion in names.conversions
        if parts[next(iter(conversion.sources))] in ("tower", "projector")
    )
    _check_visual(inventory, skeleton, targets, rebuilt, tower_names | projector_names)
    homes = {canonical.get(target, target) for target in names.targets.values()}
    for conversion in names.conversions:
        # Of packed values this tells nothing; then names decide.
        with suppress(*CONVERSION_ERRORS):
            homes |= {canonical.get(name, name) for name in made_by(conversion, shapes, skeleton)}
    missing = missing_language(
        skeleton,
        homes,
        {canonical.get(names.targets[name], "") for name in names.converted},
        inventory.tensors,
        [name for name, part in parts.items() if part == "other"],
        quantised=_is_quantised(inventory),
    )
    if missing and inventory.absent:
        raise _incomplete(missing, inventory.root)
    return Split(
        root=inventory.root,
        model_type=str(config.model_type),
        modality=modality,
        placement=placement,
        parts=parts,
        targets=targets,
        rebuilt=rebuilt,
        language_targets=language_targets,
        config=config,
        skeleton=skeleton,
        missing=missing,
    )


def _incomplete(missing: Sequence[str], root: Path) -> UserError:
    return UserError(
        f"{len(missing)} tensors of the language model are missing from the checkpoint",
        where=root,
        value=missing[0],
        expected="every parameter that config.json promises",
        remedy="download or export the checkpoint again, or put config.json and the weights of one model together",
    )


def _check_named(inventory: Inventory, parts: Mapping[str, Part]) -> None:
    for name in inventory.unnamed:
        if parts[name] in ("tower", "projector"):
            raise UserError(
                f"the shard holds visual tensor {name}, which the index does not name: readers may leave it out",
                where=inventory.root / inventory.tensors[name].file,
                expected=f"the tensor in {INDEX}",
                remedy="rebuild the index or download the checkpoint again",
            )


def _is_quantised(inventory: Inventory) -> bool:
    raw = read_json(inventory.root / "config.json")
    return any(isinstance(part, dict) and part.get("quantization_config") for part in (raw, *raw.values()))


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name in the state dict -> the one name of the same parameter in `named_parameters`."""
    first = {id(value): name for name, value in model.named_parameters()}
    aliases = {name: first[id(value)] for name, value in model.named_parameters(remove_duplicate=False)}
    return {name: aliases.get(name, name) for name in model.state_dict()}


def _check_visual(
    inventory: Inventory,
    skeleton: nn.Module,
    targets: dict[str, str],
    rebuilt: Sequence[Rebuilt],
    wanted: set[str],
) -> None:
    shapes = {name: tuple(value.shape) for name, value in skeleton.state_dict().items()}
    homes: dict[str, str] = {}

    def settle(name: str, target: str, shape: tuple[int, ...]) -> None:
        entry = inventory.tensors[name]
        where = f"{inventory.root / entry.file}: tensor {name}"
        if target in homes:
            raise UserError(
                "two tensors on disk for one parameter: which one counts depends on the reader",
                where=where,
                value=homes[target],
                expected=f"one tensor for {target}",
                remedy="load the model with transformers and save it again",
            )
        homes[target] = name
        _check_editable(entry, where)
        if target not in wanted or shape != shapes[target]:
            raise UserError(
                "the tensor's shape contradicts config.json",
                where=where,
                value=list(shape),
                expected=f"{list(shapes.get(target, ()))} for {target}",
                remedy="put the config and the weights of one model together",
            )

    for name, target in targets.items():
        settle(name, target, inventory.tensors[name].shape)
    for group in rebuilt:
        for target, shape in group.targets.items():
            settle(next(iter(group.sources)), target, shape)
        _check_one_dtype(inventory, group)
    missing = sorted(wanted - homes.keys())
    if missing and (packed := _packed(inventory, missing)):
        raise UserError(
            "the tower is quantised: packed values stand in the place of its weights",
            where=f"{inventory.root / inventory.tensors[packed].file}: tensor {packed}",
            expected="F32, BF16 or F16 (the language model may be quantised)",
            remedy="start from the checkpoint before it was quantised",
        )
    if missing:
        raise UserError(
            f"{len(missing)} visual tensors are missing from the checkpoint",
            where=inventory.root,
            value=missing[0],
            expected="every parameter of tower and projector",
            remedy="download or export the checkpoint again",
        )


def _packed(inventory: Inventory, missing: Sequence[str]) -> str | None:
    """The packed values, of AWQ or GPTQ for one, that lie in the place of one of the missing weights."""
    for parameter in missing:
        # Prefixes differ between disk and model; what a module is called at its end does not.
        end = ".".join(parameter.split(".")[-4:-1])
        for name in inventory.tensors:
            module, _, leaf = name.rpartition(".")
            if leaf in _PACKED and f".{module}".endswith(f".{end}"):
                return name
    return None


def _check_one_dtype(inventory: Inventory, group: Rebuilt) -> None:
    entries = [inventory.tensors[name] for name in group.sources]
    for entry in entries:
        where = f"{inventory.root / entry.file}: tensor {entry.name}"
        _check_editable(entry, where)
        if entry.dtype != entries[0].dtype:
            raise UserError(
                "transformers joins tensors of different dtypes while loading, so values would change on the way back",
                where=where,
                value=entry.dtype,
                expected=f"{entries[0].dtype}, as {entries[0].name} has",
                remedy="load the model with transformers and save it again in one dtype",
            )


def _check_editable(entry: TensorEntry, where: str) -> None:
    buffer_like = entry.dtype in ("I64", "I32", "BOOL")
    if entry.dtype not in EDITABLE and not buffer_like:
        raise UserError(
            "the tower is quantised",
            where=where,
            value=entry.dtype,
            expected="F32, BF16 or F16 (the language model may be quantised)",
            remedy="start from the checkpoint before it was quantised",
        )
