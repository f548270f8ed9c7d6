"""Latent replay: what earlier requests forgot stays forgotten, without their images.

Layers that no request trains give an image the same activations in every one of them. Those of the forgotten images are
kept, enter the trained layers again in later requests, and are to be answered as the checkpoint answers them that the
request starts from (latent replay: Pellegrini et al., arXiv 1912.01100; here for forgetting). Of the images themselves
nothing is kept but the shapes of what the image processor made of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.problems import first_problem
from vkdsurgeon.files.sealed import seal, unseal
from vkdsurgeon.model.features import FeatureStore, PictureSet, teacher_features
from vkdsurgeon.model.frozen_layers import KeptActivations, parameters_after
from vkdsurgeon.model.images import PreparedImage, signature_of
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.training.losses import feature_loss
from vkdsurgeon.vision_pass.trainer import DistillationTerm

REPLAY = "replay"
_SCHEMA, _FACTS = "vkdsurgeon/replay/1", "vkdsurgeon"
_ACTIVATION, _INPUT = "activation", "input"


class _Input(BaseModel):
    """A floating-point input of the tower, of which only the shape is kept."""

    model_config = ConfigDict(extra="forbid")
    shape: list[int]
    dtype: str


class _Facts(BaseModel):
    """What a replay file says of itself; `pixels` per image, `subjects` numbers them within the file."""

    model_config = ConfigDict(extra="forbid")
    schema_: str
    layer: str
    frozen: str
    shape: list[int]
    subjects: list[int]
    pixels: list[dict[str, _Input]]


@dataclass(frozen=True)
class Replay:
    """Activations of images that earlier requests forgot.

    Attributes:
        layer: The last frozen layer, which returned them.
        frozen: Digest of the weights of everything before the trained layers.
        shape: As in `KeptActivations`.
        activations: [N, D] per image, bfloat16.
        inputs: What else the tower is given with each image; ones in the place of pixels.
        subjects: How many subjects they show.
        digest: SHA-256 over the files' contents, in hex.
    """

    layer: str
    frozen: str
    shape: tuple[int, ...]
    activations: tuple[Tensor, ...]
    inputs: tuple[dict[str, Tensor], ...]
    subjects: int
    digest: str


class ReplayedImages(PictureSet):
    """Images of which their activations alone are left; the tower's first layers are never run on them."""

    def __init__(self, stack: VisualStack, replay: Replay, frozen: Sequence[str]) -> None:
        super().__init__(stack, [], 0)
        self._images = [PreparedImage(inputs, signature_of(inputs)) for inputs in replay.inputs]
        store = FeatureStore(1 << 62)
        for index, value in enumerate(replay.activations):
            store.put(replay.layer, index, value.to(stack.dtype))
        paths = tuple(stack.taps[name] for name in frozen)
        self.pass_over(KeptActivations(paths, replay.layer, store, replay.shape).entering)

    def __len__(self) -> int:
        return len(self._images)

    def prepared(self, index: int) -> PreparedImage:
        """What the tower is given with an image."""
        return self._images[index]


def frozen_digest(stack: VisualStack, frozen: Sequence[str]) -> str:
    """Digest of the weights that give images their activations at the last frozen layer."""
    trained = parameters_after(stack, frozen)
    hasher = hashlib.sha256()
    for name, value in stack.visual_parameters().items():
        if name not in trained:
            hasher.update(name.encode() + b"\0")
            hasher.update(raw_bytes(value.float()))
    return hasher.hexdigest()


def write_replay(
    path: Path,
    stack: VisualStack,
    term: DistillationTerm,
    kept: KeptActivations,
    frozen: Sequence[str],
    key: Path | None,
) -> None:
    """Keep the activations of a run's forget images for later requests.

    Args:
        path: The file to write; only its owner may read it.
        stack: Tower and projector; the frozen layers as they were.
        term: The forget term.
        kept: What frozen layers returned for its images.
        frozen: Names of the frozen layers.
        key: A file with 32 bytes to encrypt with; None writes it in the clear.

    Raises:
        UserError: The key is not valid.
    """
    tensors: dict[str, Tensor] = {}
    pixels: list[dict[str, Any]] = []
    known = {subject: number for number, subject in enumerate(dict.fromkeys(term.pictures.subjects))}
    for index in range(term.originals):
        inputs = term.pictures.prepared(index).inputs
        floating = {name: value for name, value in inputs.items() if value.is_floating_point()}
        tensors[f"{index} {_ACTIVATION}"] = kept.store.one(kept.layer, index).to(torch.bfloat16).contiguous()
        tensors |= {
            f"{index} {_INPUT} {name}": value.contiguous() for name, value in inputs.items() if name not in floating
        }
        pixels.append({name: {"shape": list(value.shape), "dtype": _name(value)} for name, value in floating.items()})
    facts = _Facts(
        schema_=_SCHEMA,
        layer=kept.layer,
        frozen=frozen_digest(stack, frozen),
        shape=list(kept.shape),
        subjects=[known[subject] for subject in term.pictures.subjects[: term.originals]],
        pixels=[{name: _Input.model_validate(each) for name, each in one.items()} for one in pixels],
    )
    content = save(tensors, metadata={_FACTS: facts.model_dump_json()})
    write_whole(path, content if key is None else seal(content, key), private=True)


def read_replays(paths: Sequence[Path], key: Path | None) -> Replay:
    """Read what earlier requests kept.

    Args:
        paths: Their files, or folders of them; at least one file.
        key: The file with the bytes that they were encrypted with.

    Raises:
        UserError: A file is missing, damaged, encrypted with another key, or of other layers than the first one.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    if not files:
        raise UserError("no replay file", where=paths[0], expected="files that `save_replay` wrote")
    found = [_read(file, key) for file in files]
    first = found[0]
    for file, each in zip(files, found, strict=True):
        if (each.layer, each.frozen, each.shape) != (first.layer, first.frozen, first.shape):
            raise UserError(
                "two replay files come from different frozen layers",
                where=file,
                expected=f"the layers of {files[0]}",
                remedy="forget all of them again from the base, in one run",
            )
    return Replay(
        first.layer,
        first.frozen,
        first.shape,
        tuple(value for each in found for value in each.activations),
        tuple(inputs for each in found for inputs in each.inputs),
        sum(each.subjects for each in found),
        hashlib.sha256("".join(each.digest for each in found).encode()).hexdigest(),
    )


def replay_term(
    stack: VisualStack, replay: Replay, recipe: Recipe, frozen: Sequence[str], spreads: Mapping[str, float]
) -> DistillationTerm:
    """The term that keeps earlier subjects forgotten.

    Args:
        stack: The student at the weights that it starts from.
        replay: From `read_replays`.
        recipe: The settings.
        frozen: Names of the frozen layers of this run.
        spreads: Of the retain term.

    Raises:
        UserError: This run trains layers that were frozen then, or the frozen layers have other weights.
    """
    if not frozen or frozen[-1] != replay.layer or frozen_digest(stack, frozen) != replay.frozen:
        raise UserError(
            "what earlier requests kept does not fit this run: the layers before the trained ones must be the same",
            where="`replay`",
            value=f"this run trains behind {frozen[-1] if frozen else 'no layer'}",
            expected=f"{replay.layer} and all before it as they were",
            remedy="use the recipe key `depth` of the first request and a checkpoint of the same chain, or forget all "
            "again from the base",
        )
    images = ReplayedImages(stack, replay, frozen)
    watched = tuple({**recipe.layers, **recipe.retention_layers})
    targets = teacher_features(stack, images, watched, recipe.micro_batch, int(recipe.cache_gib * (1 << 30)) // 2)
    return DistillationTerm(
        REPLAY,
        images,
        targets,
        recipe.retention_layers,
        feature_loss(recipe.retention_distance),
        list(range(len(images))),
        [],
        recipe.retain_weight,
        recipe.forget_batch,
        spreads,
        originals=len(images),
    )


def _read(path: Path, key: Path | None) -> Replay:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError("the replay file cannot be read", where=path, value=error.strerror) from None
    digest = hashlib.sha256(content).hexdigest()
    content = unseal(content, key, path)
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        facts = _Facts.model_validate_json(json.loads(content[8 : 8 + length])["__metadata__"][_FACTS])
        activations = tuple(tensors[f"{index} {_ACTIVATION}"] for index in range(len(facts.pixels)))
        inputs = tuple(_inputs(tensors, index, pixels) for index, pixels in enumerate(facts.pixels))
    except (SafetensorError, ValidationError, KeyError, ValueError, AttributeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            "this is no replay file, or it is damaged",
            where=path,
            value=reason,
            expected="a file that `save_replay` wrote",
        ) from None
    if facts.schema_ != _SCHEMA or not activations or len(facts.subjects) != len(activations):
        raise UserError("this is no replay file", where=path, value=facts.schema_, expected=_SCHEMA)
    return Replay(facts.layer, facts.frozen, tuple(facts.shape), activations, inputs, len(set(facts.subjects)), digest)


def _inputs(tensors: Mapping[str, Tensor], index: int, pixels: Mapping[str, _Input]) -> dict[str, Tensor]:
    start = f"{index} {_INPUT} "
    found = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    # Some towers leave images of zeros out, as padding.
    return found | {name: torch.ones(each.shape, dtype=getattr(torch, each.dtype)) for name, each in pixels.items()}


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
