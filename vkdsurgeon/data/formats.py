"""The three shapes a row may have: flat, LLaVA conversation, chat messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from vkdsurgeon.data.modality import NOUNS, Modality
from vkdsurgeon.data.paths import media_path
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.rows import Row
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import did_you_mean

_PLACEHOLDERS: dict[Modality, str] = {"image": "<image>", "audio": "<audio>"}
# As Qwen-VL's own training files name an image, inside of what is said.
_INSIDE = re.compile(r"<img>.*?</img>", re.DOTALL)
_MEANT = {
    **dict.fromkeys(("image_path", "image_file", "img", "img_path", "picture", "file_name", "filename"), "image"),
    **dict.fromkeys(("audio_path", "audio_file", "wav", "wav_path", "sound", "clip", "speech"), "audio"),
    **dict.fromkeys(("query", "prompt", "instruction", "input"), "question"),
    **dict.fromkeys(("response", "output", "answers", "label", "caption", "text"), "answer"),
    **dict.fromkeys(("choices", "candidates"), "options"),
    **dict.fromkeys(("name", "person", "identity"), "subject"),
}
"""What other tools call the keys of a record."""
Schema = TypeVar("Schema", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _FlatRow(_Strict):
    id: str | int | None = None
    image: str | None = None
    audio: str | None = None
    question: str | None = None
    answer: str | None = None
    options: list[str] = Field(default_factory=list)
    subject: str | None = None
    task: str | None = None


class _Lenient(BaseModel):
    # Tools write much beside what is needed; a misspelt key is found by its likeness, see `_refuse_misspelt`.
    model_config = ConfigDict(extra="ignore", strict=True)


class _Turn(_Lenient):
    speaker: Literal["human", "gpt", "user", "assistant", "system"] = Field(
        validation_alias=AliasChoices("from", "role")
    )
    value: str = Field(validation_alias=AliasChoices("value", "content"))


class _ConversationRow(_Lenient):
    id: str | int | None = None
    image: str | None = None
    audio: str | None = None
    conversations: list[_Turn]
    subject: str | None = None
    task: str | None = None


class _Url(_Lenient):
    url: str


class _Part(_Lenient):
    type: Literal[
        "text", "input_text", "output_text", "image", "image_url", "input_image", "audio", "audio_url", "input_audio"
    ]
    text: str | None = None
    path: str | None = None
    image: str | None = None
    audio: str | None = None
    url: str | None = None
    image_url: str | _Url | None = None
    audio_url: str | _Url | None = None

    @property
    def modality(self) -> Modality:
        """Of what it names, where it is no text."""
        return "audio" if "audio" in self.type else "image"

    @property
    def named(self) -> list[str]:
        """The files it names, under whichever key."""
        urls = [url.url if isinstance(url, _Url) else url for url in (self.image_url, self.audio_url)]
        return [name for name in (self.path, self.image, self.audio, self.url, *urls) if name is not None]


class _Message(_Lenient):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_Part]


class _ChatRow(_Lenient):
    id: str | int | None = None
    image: str | None = None
    audio: str | None = None
    messages: list[_Message]
    subject: str | None = None
    task: str | None = None


def format_of(row: Row) -> Literal["conversations", "messages", "flat"]:
    """Tell a row's shape by its keys."""
    if "conversations" in row.value:
        return "conversations"
    return "messages" if "messages" in row.value else "flat"


def records_of(row: Row, folder: Path) -> Iterator[Record]:
    """Turn one row into records; a conversation of several turns becomes several, each asked alone.

    Args:
        row: The row as read.
        folder: What a relative image path is relative to.

    Raises:
        UserError: The row's keys, types or values are wrong.
    """
    shape = format_of(row)
    if shape == "conversations":
        yield from _from_conversation(_validate(_ConversationRow, row), row, folder)
    elif shape == "messages":
        yield from _from_chat(_validate(_ChatRow, row), row, folder)
    else:
        flat = _validate(_FlatRow, row)
        if flat.image is None and flat.audio is None and flat.question is None:
            raise UserError("a record needs an image, a clip or a question", where=row.source, value=sorted(row.value))
        yield _record(
            row,
            **_media(flat, folder, row),
            question=flat.question,
            answer=flat.answer,
            options=tuple(flat.options),
            subject=flat.subject,
            task=flat.task,
        )


def _from_conversation(parsed: _ConversationRow, row: Row, folder: Path) -> Iterator[Record]:
    media = _media(parsed, folder, row)
    turns: list[tuple[str, str]] = []
    for turn in parsed.conversations:
        if turn.speaker == "system":
            # What a model is told before every question is the template's business.
            continue
        text = turn.value
        for modality, mark in _PLACEHOLDERS.items():
            if mark in text and modality not in media:
                raise UserError(
                    f"a turn holds {mark} and the record names no {NOUNS[modality]}",
                    where=row.source,
                    expected=f"the {NOUNS[modality]}'s path as `{modality}`; videos are not read",
                    remedy=_OTHERWISE,
                )
            text = text.replace(mark, "")
        turns.append(("user" if turn.speaker in ("human", "user") else "assistant", text))
    for question, answer in _pairs(turns, row):
        yield _record(
            row,
            **media,
            question=question,
            answer=answer,
            subject=parsed.subject,
            task=parsed.task,
        )


def _from_chat(parsed: _ChatRow, row: Row, folder: Path) -> Iterator[Record]:
    given: dict[Modality, str | None] = {"image": parsed.image, "audio": parsed.audio}
    found: list[tuple[Modality, str]] = []
    shown, turns = 0, list[tuple[str, str]]()
    for message in parsed.messages:
        if message.role in ("system", "developer"):
            continue
        parts = [_Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        texts = []
        for part in parts:
            if part.type.endswith("text"):
                if part.text is None or part.named:
                    raise UserError("a text part needs `text` and no image", where=row.source)
                text = part.text
                for modality, mark in _PLACEHOLDERS.items():
                    text = text if given[modality] is None else text.replace(mark, "")
                texts.append(text)
                continue
            named, shown, kind = part.named, shown + 1, part.modality
            if message.role != "user" or part.text or len(named) > 1 or not (named or given[kind]):
                raise UserError(
                    f"an {kind} part needs exactly one of `path`, `{kind}`, `url`, `{kind}_url`, or none where the "
                    f"record has `{kind}` or `{kind}s`, in a message of the user",
                    where=row.source,
                )
            found += [(kind, name) for name in named]
        turns.append((message.role, "\n".join(texts)))
    if len(found) > 1 or shown > 1 or any(given[kind] not in (None, name) for kind, name in found):
        raise UserError("several images in one conversation", where=row.source, expected="at most one image")
    media = _media(parsed.model_copy(update=dict(found)), folder, row)
    for question, answer in _pairs(turns, row):
        yield _record(
            row,
            **media,
            question=question,
            answer=answer,
            subject=parsed.subject,
            task=parsed.task,
        )


def _pairs(turns: list[tuple[str, str]], row: Row) -> list[tuple[str, str]]:
    roles = [role for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(
            "questions and answers do not alternate",
            where=row.source,
            value=roles,
            expected="pairs of one question and one answer, the question first",
            remedy=_OTHERWISE,
        )
    for _, text in turns:
        if _INSIDE.search(text):
            raise UserError(
                "a turn names an image in the midst of its text, where none is looked for",
                where=row.source,
                value=text,
                remedy="give the image's path as `image`, and write <image> in its place",
            )
    texts = [text.strip() for _, text in turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _media(parsed: BaseModel, folder: Path, row: Row) -> dict[str, Path]:
    """The file that a row names, by its modality."""
    named = {modality: getattr(parsed, modality) for modality in NOUNS}
    return {
        modality: media_path(name, folder, row.source, NOUNS[modality])
        for modality, name in named.items()
        if name is not None
    }


def _record(row: Row, *, task: str | None, **values: Any) -> Record:
    if task is None:
        task = "vqa" if NOUNS.keys() & values.keys() else "text"
    try:
        return Record(source=row.source, task=task, **values)
    except ValidationError as error:
        raise _explain(error, row, None) from None


def _as_told(row: Row) -> dict[str, Any]:
    """The row with one way of saying that something is absent, and one of naming its image or clip."""
    value = {key: found for key, found in row.value.items() if found is not None}
    for modality, noun in NOUNS.items():
        found = _one_file(value, modality, noun, row)
        value = {key: each for key, each in value.items() if key not in (modality, f"{modality}s")}
        value |= {} if found is None else {modality: found}
    return value


def _one_file(value: Mapping[str, Any], modality: Modality, noun: str, row: Row) -> Any:
    """What a row names as its image or clip, in whichever of the usual ways; None where it names none."""
    named = [key for key in (modality, f"{modality}s") if value.get(key) not in (None, [])]
    if len(named) > 1:
        raise UserError(
            f"the record has both `{modality}` and `{modality}s`", where=row.source, remedy="leave one of them out"
        )
    found = value.get(named[0]) if named else None
    if isinstance(found, list):
        if len(found) > 1:
            raise UserError(
                f"several {noun}s in one record", where=row.source, value=len(found), expected=f"at most one {noun}"
            )
        found = found[0]
    if isinstance(found, dict):
        if not isinstance(found.get("path"), str):
            raise UserError(
                f"the {noun} lies in the record itself, or its path is missing",
                where=row.source,
                value=sorted(found),
                expected="the path of a file",
                remedy=f"write the {noun}s to files, and name those",
            )
        found = found["path"]
    return found


def _refuse_misspelt(schema: type[BaseModel], value: dict[str, Any], row: Row) -> None:
    """Of keys that are passed over, refuse one that is nearly a known one: its content would be lost."""
    known = set(schema.model_fields)
    for key in sorted(value.keys() - known):
        near = difflib.get_close_matches(key, known - value.keys(), n=1, cutoff=0.8)
        if (meant := _MEANT.get(key)) in NOUNS and meant not in value:
            near = [str(meant)]
        if near:
            raise UserError(f"unknown key {key!r}", where=row.source, remedy=f"did you mean {near[0]!r}?")


def _validate(schema: type[Schema], row: Row) -> Schema:
    value = _as_told(row)
    if schema.model_config.get("extra") == "ignore":
        _refuse_misspelt(schema, value, row)
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _explain(error, row, schema) from None


def _explain(error: ValidationError, row: Row, schema: type[BaseModel] | None) -> UserError:
    found = error.errors(include_url=False)
    # Of content that may be a text or parts, parts were meant where it is a list.
    first = next((each for each in found if not ("str" in each["loc"] and isinstance(each["input"], list))), found[0])
    place = ".".join(str(step) for step in first["loc"] if step not in ("str", "list[_Part]"))
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = list(schema.model_fields) if schema else []
        hint = f"did you mean {_MEANT[key]!r}?" if key in _MEANT else did_you_mean(key, known, most=1)
        if isinstance(first["input"], list) and first["input"] and isinstance(first["input"][0], dict):
            return UserError(
                f"unknown key {place!r}, which holds a list of objects",
                where=row.source,
                expected=f"the keys {', '.join(known)}",
                remedy="where these are the records, write the list to a file of its own",
            )
        return UserError(
            f"unknown key {place!r}",
            where=row.source,
            expected=f"the keys {', '.join(known)}" if len(first["loc"]) == 1 else None,
            remedy=hint if hint and len(first["loc"]) == 1 else "rename or remove the key",
        )
    message = str(first["msg"]).removeprefix("Value error, ")
    if not place:
        letter = "is not among the options" in message
        remedy = "write the option's own words, not its letter or number" if letter else _OTHERWISE
        return UserError(message, where=row.source, remedy=remedy)
    if first["input"] is None:
        return UserError(f"{place}: null is no value here", where=row.source, remedy="leave the record out")
    remedy = _REMEDIES.get(first["type"], _OTHERWISE)
    return UserError(f"{place}: {message}", where=row.source, value=first["input"], remedy=remedy)


_OTHERWISE = "correct the record, or leave it out"
_REMEDIES = {
    "string_type": "write it as one text, in quotes",
    "list_type": 'write it as a list, such as ["Ada", "Bela"]',
    "missing": "add it to the record",
}
