"""Questions and images (or clips of sound) as model inputs, the same for every model that is compared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vkdsurgeon.data.clips import Clip
from vkdsurgeon.data.media import medium_of
from vkdsurgeon.data.modality import Modality, modality_of, noun_of
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import blaming, brief
from vkdsurgeon.model.clips import samples_for

# What a processor returns per token; everything else belongs to the image or clip.
_PER_TOKEN = frozenset(
    {
        "input_ids",
        "attention_mask",
        "token_type_ids",
        "mm_token_type_ids",
        "qformer_input_ids",
        "qformer_attention_mask",
    }
)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One question as the model gets it, up to where the answer begins.

    Attributes:
        text: The text after the chat template.
        tokens: Per-token inputs, int64 [1, T] each, `input_ids` among them.
        media: The image's or clip's inputs as the processor made them; empty without either.
        signature: Equal for prompts that may share a batch without any padding.
    """

    text: str
    tokens: dict[str, Tensor]
    media: dict[str, Tensor]
    signature: Hashable

    @functools.cached_property
    def ids(self) -> tuple[int, ...]:
        """The tokens."""
        return tuple(self.tokens["input_ids"][0].tolist())


class Encoder:
    """A processor that encodes each image or clip and each wording once.

    Args:
        processor: A transformers processor with a tokenizer and an image processor, a feature extractor, or both.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self._template = getattr(processor, "chat_template", None)
        self._both_ways = type(processor).__name__ == "PaliGemmaProcessor"
        self._media: dict[Path, tuple[dict[str, Tensor], Hashable]] = {}
        self._tokens: dict[Hashable, dict[str, Tensor]] = {}
        self._wordings: dict[tuple[str, Modality | None, str], str] = {}
        self._continuations: dict[tuple[str, str], tuple[int, ...]] = {}
        self._opened: tuple[Path, Any] | None = None
        self._alter: Callable[[Any, Path], Any] | None = None
        self._beginning = ""

    @property
    def format(self) -> str:
        """Where the wording around a question comes from."""
        if self._template:
            return "chat template of the processor"
        return "chat template of the tokenizer" if getattr(self.tokenizer, "chat_template", None) else "plain"

    @property
    def image_mark(self) -> str:
        """What stands for an image in the text of a prompt."""
        return self.mark_of("image")

    def mark_of(self, modality: Modality) -> str:
        """What stands for an image or a clip in the text of a prompt."""
        name = f"{modality}_token"
        return str(getattr(self.processor, name, None) or getattr(self.tokenizer, name, None) or f"<{modality}>")

    def prompt(self, question: str, media: Path | None, where: str) -> Prompt:
        """Encode one question.

        Args:
            question: Text of the question.
            media: The image or clip it is about.
            where: `file:line` of the record, for messages.

        Raises:
            UserError: The image or clip cannot be decoded, or the processor or its template refuses the input.
        """
        text = self._wording(question, None if media is None else modality_of(media), where)
        if media is None:
            tokens = self._tokens.get((None, text)) or self._call(text, None, where)
            self._tokens[None, text] = tokens
            return Prompt(text, tokens, {}, (tokens["input_ids"].shape[1], None))
        if media in self._media:
            inputs, key = self._media[media]
            tokens = self._tokens.get((key, text)) or _split(self._call(text, media, where))[0]
        else:
            tokens, inputs = _split(self._call(text, media, where))
            key = _key(inputs)
            self._media[media] = inputs, key
        self._tokens[key, text] = tokens
        return Prompt(text, tokens, inputs, (tokens["input_ids"].shape[1], key))

    def continuation(self, prompt: Prompt, answer: str) -> tuple[int, ...]:
        """The token ids of an answer right after a prompt; never empty.

        Raises:
            UserError: The tokenizer makes nothing of the answer.
        """
        known = self._continuations.get((prompt.text, answer))
        if known is None:
            known = self._continue(prompt.text, answer)
            self._continuations[prompt.text, answer] = known
        return known

    def drop_media(self) -> None:
        """Let go of encoded images; what else is known stays."""
        self._media.clear()
        self._opened = None

    @contextmanager
    def altered(self, *, media: Callable[[Any, Path], Any] | None = None, beginning: str = "") -> Iterator[None]:
        """Encode otherwise for a while, as attacks on the input do.

        Args:
            media: What every decoded image (RGB) goes through before the processor sees it; gets its path too.
            beginning: Words that the answer is made to begin with; what follows is the answer.
        """
        kept = self._alter, self._beginning
        self.drop_media()
        self._alter, self._beginning = media, beginning
        try:
            yield
        finally:
            self.drop_media()
            self._alter, self._beginning = kept

    def _continue(self, text: str, answer: str) -> tuple[int, ...]:
        gap = _gap(text)
        start = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(text + gap + answer, add_special_tokens=False)["input_ids"]
        if whole[: len(start)] == start and len(whole) > len(start):
            return tuple(whole[len(start) :])
        ids = tuple(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        if not ids:
            raise UserError("the tokenizer turns this answer into no tokens", value=answer)
        return ids

    def _wording(self, question: str, modality: Modality | None, where: str) -> str:
        key = question, modality, self._beginning
        if key not in self._wordings:
            self._wordings[key] = self._worded(question, modality, where)
        return self._wordings[key]

    def _worded(self, question: str, modality: Modality | None, where: str) -> str:
        mark = self.mark_of(modality or "image")
        if mark in question:
            raise UserError(f"a question contains the model's {modality or 'image'} token", where=where, value=mark)
        parts: list[dict[str, str]] = [] if modality is None else [{"type": modality}]
        parts.append({"type": "text", "text": question})
        plain = question if modality is None else f"{mark}\n{question}"

        def refused(error: BaseException) -> UserError:
            return UserError(f"the chat template refuses the question: {error}", where=where)

        with blaming(None, refused):
            if self._template:
                chat: Any = [{"role": "user", "content": parts}]
                text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            elif getattr(self.tokenizer, "chat_template", None):
                chat = [{"role": "user", "content": plain}]
                text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            else:
                text = plain + "\n"
        return f"{text}{_gap(str(text))}{self._beginning}" if self._beginning else str(text)

    def _call(self, text: str, media: Path | None, where: str) -> dict[str, Tensor]:
        if media is None:

            def unread(error: BaseException) -> UserError:
                return UserError(
                    f"the checkpoint's tokenizer cannot read the question: {brief(error)}",
                    where=where,
                    remedy="restore the tokenizer's files from the original checkpoint",
                )

            with blaming(None, unread):
                return self.encode(text, [])
        if self._opened is None or self._opened[0] != media:
            opened = medium_of(media).open(media, where=where)
            self._opened = media, opened if self._alter is None else self._alter(opened, media)

        def refused(error: BaseException) -> UserError:
            return UserError(f"the processor refuses the {noun_of(media)}: {brief(error)}", where=where, value=media)

        with blaming(None, refused):
            return self.encode(text, [self._opened[1]])

    def encode(self, text: str, media: list[Any]) -> dict[str, Tensor]:
        """A text after the chat template, and its decoded images or clips in their order, as model inputs of one row.

        Raises:
            ValueError: The processor has no use for them.
        """
        # A template that writes the start token itself must not get a second one.
        start = self.tokenizer.bos_token
        special = not (start and text.startswith(start))
        if not media:
            encoded = self.tokenizer([text], return_tensors="pt", add_special_tokens=special)
            tokens = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            # Without it, whether PaliGemma reads a text both ways is up to the implementation of attention.
            more = {"token_type_ids": torch.zeros_like(tokens["input_ids"])} if self._both_ways else {}
            return {**tokens, **more}
        given = self._clips(media) if isinstance(media[0], Clip) else {"images": media}
        encoded = self.processor(text=[text], **given, return_tensors="pt", add_special_tokens=special)
        # PaliGemma's processor gives targets of training too.
        return {name: value for name, value in encoded.items() if isinstance(value, Tensor) and name != "labels"}

    def _clips(self, clips: list[Clip]) -> dict[str, Any]:
        extractor = getattr(self.processor, "feature_extractor", None)
        if extractor is None or "audio" not in signature(type(self.processor).__call__).parameters:
            raise ValueError(f"{type(self.processor).__name__} takes no clip beside a text")
        cut = getattr(self.processor, "audio_kwargs", {}).get("truncation", True)
        heard = [samples_for(extractor, clip, cut=cut) for clip in clips]
        return {"audio": heard, "sampling_rate": int(extractor.sampling_rate)}


def as_prompt(text: str, encoded: dict[str, Tensor]) -> Prompt:
    """A prompt of what `Encoder.encode` gave."""
    tokens, inputs = _split(encoded)
    return Prompt(text, tokens, inputs, (tokens["input_ids"].shape[1], _key(inputs)))


def collate(prompts: list[Prompt]) -> dict[str, Tensor]:
    """Stack prompts of one signature along the first dimension; nothing is padded."""
    kinds = ("tokens", "media")
    return {
        name: torch.cat([getattr(prompt, kind)[name] for prompt in prompts])
        for kind in kinds
        for name in getattr(prompts[0], kind)
    }


def append(inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    """Lengthen a batch's tokens by the beginnings of answers.

    Args:
        inputs: From `collate`, on any device.
        ids: int64 [B, n]; n may be zero.
    """
    if ids.shape[1] == 0:
        return inputs
    longer = dict(inputs)
    for name in _PER_TOKEN & inputs.keys():
        if name == "input_ids":
            more = ids.to(inputs[name])
        elif name.startswith("qformer"):
            continue
        else:
            # PaliGemma: 0 is a prompt, which is read both ways; 1 an answer, which nothing before it may see. Where 1
            # stands for an image (Gemma 3), prompts without one have no types.
            ones = name == "attention_mask" or (name == "token_type_ids" and not inputs[name].any())
            more = (torch.ones_like(ids) if ones else torch.zeros_like(ids)).to(inputs[name])
        longer[name] = torch.cat([inputs[name], more], dim=1)
    return longer


def _gap(text: str) -> str:
    # `ASSISTANT:` is followed by a space in training data, a line break or a special token by nothing.
    return " " if text[-1:].isalnum() or text[-1:] in ":.,;!?" else ""


def _split(encoded: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    tokens = {name: value for name, value in encoded.items() if name in _PER_TOKEN}
    return tokens, {name: value for name, value in encoded.items() if name not in _PER_TOKEN}


def _key(inputs: dict[str, Tensor]) -> Hashable:
    """Shapes, and the values of grids and sizes: images that agree in them get the same tokens."""
    return tuple(
        (name, tuple(value.shape), None if value.is_floating_point() else tuple(value.flatten().tolist()))
        for name, value in sorted(inputs.items())
    )
