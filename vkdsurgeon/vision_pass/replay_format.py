"""Replay files: activations of forgotten images, kept for later requests; see `replay`."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vkdsurgeon.data.samples import NO_SUBJECT
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.problems import first_problem
from vkdsurgeon.files.sealed import seal, unseal
from vkdsurgeon.model.frozen_layers import KeptActivations
from vkdsurgeon.model.replayed import ReplayedSample
from vkdsurgeon.vision_pass.trainer import DistillationTerm

_SCHEMA, _FACTS = "vkdsurgeon/replay/1", "vkdsurgeon"
_ACTIVATION, _INPUT = "activation", "input"
# 64 million pixels of three colours, as images have at most.
_MOST_ELEMENTS = 3 * 64_000_000


class _Input(BaseModel):
    """A floating-point input of the tower, of which only the shape is kept."""

    model_config = ConfigDict(extra="forbid")
    shape: list[PositiveInt]
    dtype: Literal["float32", "bfloat16", "float16"]

    @field_validator("shape")
    @classmethod
    def _of_an_image(cls, shape: list[int]) -> list[int]:
        if prod(shape) > _MOST_ELEMENTS:
            raise ValueError(f"no image has {prod(shape)} elements")
        return shape


class _Facts(BaseModel):
    """What a replay file says of itself.

    `pixels` per image, `subjects` numbers them within the file, `names` are digests of what they were called: in an
    encrypted file alone, because whoever guesses a name could confirm it.
    """

    model_config = ConfigDict(extra="forbid")
    schema_: str
    layer: str
    base: str
    shape: list[PositiveInt] = Field(min_length=2, max_length=3)
    subjects: list[int]
    pixels: list[dict[str, _Input]]
    names: list[str] = []


@dataclass(frozen=True)
class ReplayedImage:
    """What was kept of one image.

    Attributes:
        file: The replay file.
        subject: Who is on it: digest of the file and number within it.
        activation: [N, D] in bfloat16.
        copies: The same of altered copies, by their `Sample.variant`.
        shape: How the tower lays an activation out, see `KeptActivations`.
        inputs: What else the tower is given with it, ones in the place of pixels.
    """

    file: Path
    subject: str
    activation: Tensor
    copies: dict[int, Tensor]
    shape: tuple[int, ...]
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Replay:
    """Activations of images that earlier requests forgot.

    Attributes:
        layer: The last frozen layer, which returned them.
        base: Digest of the visual weights that the requests started from.
        images: What was kept of each image.
        digest: SHA-256 over the files' contents, in hex.
        names: Digests of what their subjects were called, see `name_digest`; without those of files in the clear.
    """

    layer: str
    base: str
    images: tuple[ReplayedImage, ...]
    digest: str
    names: frozenset[str] = frozenset()

    @property
    def subjects(self) -> int:
        """How many subjects they show."""
        return len({image.subject for image in self.images})


def write_replay(
    path: Path,
    base: str,
    term: DistillationTerm,
    kept: KeptActivations,
    key: Path | None,
) -> None:
    """Keep the activations of a run's forget images for later requests.

    Args:
        path: The file to write; only its owner may read it.
        base: Digest of the visual weights that the run started from.
        term: The forget term.
        kept: What frozen layers returned for its images.
        key: A file with 32 bytes to encrypt with; None writes it in the clear.

    Raises:
        UserError: The key is not valid.
    """
    pixels: list[dict[str, _Input]] = []
    own = _own(term)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in _kept(term, kept).items()}
    known = {name: number for number, name in enumerate(dict.fromkeys(term.samples.subjects[each] for each in own))}
    for index in own:
        inputs = term.samples.prepared(index).inputs
        floating = {name: value for name, value in inputs.items() if value.is_floating_point()}
        tensors |= {
            f"{index} {_INPUT} {name}": value.contiguous() for name, value in inputs.items() if name not in floating
        }
        pixels.append(
            {
                name: _Input.model_validate({"shape": list(value.shape), "dtype": _name(value)})
                for name, value in floating.items()
            }
        )
    facts = _Facts(
        schema_=_SCHEMA,
        layer=kept.layer,
        base=base,
        shape=list(kept.shape),
        subjects=[known[term.samples.subjects[index]] for index in own],
        pixels=pixels,
        names=[] if key is None else sorted(name_digest(subject, base) for subject in known if subject != NO_SUBJECT),
    )
    content = save(tensors, metadata={_FACTS: facts.model_dump_json()})
    write_whole(path, content if key is None else seal(content, key), private=True)


def replay_bytes(term: DistillationTerm, kept: KeptActivations) -> int:
    """How much `write_replay` would write, without names and facts.

    Args:
        term: The forget term.
        kept: What frozen layers returned for its images.
    """
    activations = sum(value.numel() for value in _kept(term, kept).values()) * torch.bfloat16.itemsize
    return activations + sum(
        each.nbytes
        for index in _own(term)
        for each in term.samples.prepared(index).inputs.values()
        if not each.is_floating_point()
    )


def _own(term: DistillationTerm) -> list[int]:
    # Each request keeps its own.
    samples = term.samples.samples[: term.originals]
    return [index for index, sample in enumerate(samples) if not isinstance(sample, ReplayedSample)]


def _kept(term: DistillationTerm, kept: KeptActivations) -> dict[str, Tensor]:
    """Activations of own images, [N, D], and of those of their altered copies that have as many tokens, by name."""
    samples = term.samples.samples
    originals = {samples[index].digest: index for index in _own(term)}
    found: dict[str, Tensor] = {}
    for index, sample in enumerate(samples):
        original = originals.get(sample.digest)
        if original is None:
            continue
        value = kept.store.one(kept.layer, index)
        # Originals come before all copies.
        if value.shape == found.get(_activation_name(original, 0), value).shape:
            found[_activation_name(original, sample.variant)] = value
    return found


def _activation_name(index: int, variant: int) -> str:
    return f"{index} {_ACTIVATION}" + (f" {variant}" if variant else "")


def read_replays(paths: Sequence[Path], key: Path | None) -> Replay:
    """Read what earlier requests kept.

    Args:
        paths: Their files, or folders of them; at least one file.
        key: The file with the bytes that they were encrypted with.

    Raises:
        UserError: A file is missing, damaged, encrypted with another key, or of other layers than the first one.
    """
    found = [_read(file, key) for file in _files(paths)]
    # A folder and a file of it may be named together; in whatever order they are named, runs are equal.
    found = [each for _, each in sorted({each.digest: each for each in found}.items())]
    first = found[0]
    for each in found:
        if (each.layer, each.base) != (first.layer, first.base):
            raise UserError(
                "two replay files come from different bases, or from runs that trained different layers",
                where=each.images[0].file,
                expected=f"the base and the layers of {first.images[0].file}",
            )
    return Replay(
        first.layer,
        first.base,
        tuple(image for each in found for image in each.images),
        _joined(each.digest for each in found),
        frozenset().union(*(each.names for each in found)),
    )


def replay_digest(paths: Sequence[Path]) -> str:
    """The `digest` that `read_replays` finds, for which no key is needed.

    Args:
        paths: Files, or folders of them; at least one file.

    Raises:
        UserError: A file is missing, or cannot be read.
    """
    return _joined({hashlib.sha256(_content(file)).hexdigest() for file in _files(paths)})


def _files(paths: Sequence[Path]) -> list[Path]:
    files = [file for path in paths for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    if not files:
        raise UserError("no replay file", where=paths[0], expected="files that `save_replay` wrote")
    return files


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def name_digest(subject: str, base: str) -> str:
    """What stands for a subject's name in an encrypted replay file, in hex: HMAC-SHA-256.

    Args:
        subject: Its name in the records.
        base: Digest of the visual weights, as key: the same name has the same digest in all files of one base.
    """
    return hmac.new(base.encode(), subject.encode("utf-8", "backslashreplace"), hashlib.sha256).hexdigest()


def _content(path: Path) -> bytes:
    try:
        # Devices and pipes have no end.
        if path.exists() and not path.is_file():
            raise UserError(
                "the replay file is no regular file", where=path, expected="a file that `save_replay` wrote"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError("the replay file cannot be read", where=path, value=error.strerror) from None


def _read(path: Path, key: Path | None) -> Replay:
    content = _content(path)
    digest = hashlib.sha256(content).hexdigest()
    content = unseal(content, key, path)
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        facts = _Facts.model_validate_json(json.loads(content[8 : 8 + length])["__metadata__"][_FACTS])
        activations = tuple(_activations(tensors, index) for index in range(len(facts.pixels)))
        inputs = tuple(_inputs(tensors, index, pixels) for index, pixels in enumerate(facts.pixels))
        if not activations or len(facts.subjects) != len(activations):
            raise ValueError(f"{len(activations)} activations of {len(facts.subjects)} images")
        for found in activations:
            if not all(each.dim() == 2 and bool(torch.isfinite(each).all()) for each in found.values()):
                raise ValueError("activations that are no [tokens, width] of finite numbers")
            if len({(each.shape, each.dtype) for each in found.values()}) > 1:
                raise ValueError("copies of an image that are not of its shape")
    except (SafetensorError, ValidationError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(
            "this is no replay file, or it is damaged",
            where=path,
            value=reason,
            expected="a file that `save_replay` wrote",
        ) from None
    if facts.schema_ != _SCHEMA:
        raise UserError("this is no replay file", where=path, value=facts.schema_, expected=_SCHEMA)
    names = [f"{digest[:16]} {subject}" for subject in facts.subjects]
    shape = tuple(facts.shape)
    images = tuple(
        ReplayedImage(path, name, found.pop(0), found, shape, each)
        for name, found, each in zip(names, activations, inputs, strict=True)
    )
    return Replay(facts.layer, facts.base, images, digest, frozenset(facts.names))


def _activations(tensors: Mapping[str, Tensor], index: int) -> dict[int, Tensor]:
    """Those of an image and of its altered copies, by variant."""
    start = _activation_name(index, 0)
    copies = {int(name.removeprefix(start)): each for name, each in tensors.items() if name.startswith(start + " ")}
    return {0: tensors[start], **copies}


def _inputs(tensors: Mapping[str, Tensor], index: int, pixels: Mapping[str, _Input]) -> dict[str, Tensor]:
    start = f"{index} {_INPUT} "
    found = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    # Some towers leave images of zeros out, as padding.
    return found | {name: torch.ones(each.shape, dtype=getattr(torch, each.dtype)) for name, each in pixels.items()}


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
