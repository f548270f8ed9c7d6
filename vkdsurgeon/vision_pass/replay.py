"""Latent replay: those whom earlier requests forgot are forgotten again from the base, without their images.

Layers that no request trains give an image the same activations in every one of them. Those of forgotten images are
kept and enter the trained layers in later requests as the images would (latent replay: Pellegrini et al., arXiv
1912.01100; here for forgetting). Of the images themselves nothing is kept but the shapes of what the image processor
made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from vkdsurgeon.checkpoint.tensors import raw_bytes
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import brief
from vkdsurgeon.model.images import PreparedImage, signature_of
from vkdsurgeon.model.replayed import ReplayedSample, entering_of
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.objective import run_once
from vkdsurgeon.vision_pass.replay_format import Replay
from vkdsurgeon.vision_pass.teacher import visual_digest

REPLAY = "replay"


def replayed_samples(stack: VisualStack, replay: Replay, recipe: Recipe) -> list[ReplayedSample]:
    """The images of earlier requests as the forget set takes them.

    Args:
        stack: Tower and projector of the base; the layers to be trained ask for gradients.
        replay: From `read_replays`.
        recipe: The settings.

    Raises:
        UserError: The base is another one, this run trains layers that were frozen then, or the forget target needs the
            images themselves.
    """
    if recipe.forget_target == "reference" or recipe.decoder is not None:
        what = "the decoder pass" if recipe.decoder is not None else "forget target 'reference'"
        raise UserError(f"{what} needs the images that `replay` stands for", where="`replay`")
    if visual_digest(stack) != replay.base:
        raise UserError(
            "this is not the checkpoint that the earlier requests started from",
            where=stack.inventory.root,
            remedy="give the base: all are forgotten again from there, together with the new ones",
        )
    frozen = run_once(stack, recipe)
    if not frozen or frozen[-1] != replay.layer:
        raise UserError(
            "this run does not train the layers that the earlier requests trained",
            where="`replay`",
            value=f"behind {frozen[-1] if frozen else 'no layer'}",
            expected=f"behind {replay.layer}",
            remedy="use the recipe key `depth` of the earlier requests",
        )
    paths = tuple(stack.taps[name] for name in frozen)
    found = [
        ReplayedSample(
            path=image.file,
            subject=f"replayed {image.subject}",
            digest=hashlib.sha256(raw_bytes(image.activation)).hexdigest(),
            source=str(image.file),
            prepared=PreparedImage(image.inputs, (REPLAY, signature_of(image.inputs))),
            activation=image.activation,
            frozen=paths,
            shape=image.shape,
            copies=image.copies,
        )
        for image in replay.images
    ]
    _try(stack, found)
    return found


def _try(stack: VisualStack, samples: Sequence[ReplayedSample]) -> None:
    """Pass one image of each kind through the trained layers, and refuse what does not fit them."""
    kinds: dict[object, ReplayedSample] = {}
    for sample in samples:
        first = kinds.setdefault(sample.prepared.signature, sample)
        try:
            if sample.activation.shape != first.activation.shape or sample.shape[-1] != sample.activation.shape[-1]:
                raise ValueError(f"{list(sample.activation.shape)} beside {list(first.activation.shape)}")
            if sample is first:
                batch = stack.collate([sample.prepared])
                with torch.no_grad():
                    stack.features(batch.with_entering(entering_of([sample], stack.device, stack.dtype)))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            raise UserError(
                "the replay file does not fit this model",
                where=sample.source,
                value=brief(error),
                expected="a file that `save_replay` wrote for it",
            ) from error
