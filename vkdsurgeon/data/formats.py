"""The three shapes a row may have: flat, LLaVA conversation, chat messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from vkdsurgeon.data.paths import picture_path
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.rows import Row
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.problems import did_you_mean

_PLACEHOLDER = "<image>"
# As Qwen-VL's own training files name an image, inside of what is said.
_INSIDE = re.compile(r"<img>.*?</img>", re.DOTALL)
_MEANT = {
    **dict.fromkeys(("image_path", "image_file", "img", "img_path", "picture", "file_name", "filename"), "image"),
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
    conversations: list[_Turn]
    subject: str | None = None
    task: str | None = None


class _Url(_Lenient):
    url: str


class _Part(_Lenient):
    type: Literal["text", "input_text", "output_text", "image", "image_url", "input_image"]
    text: str | None = None
    path: str | None = None
    image: str | None = None
    url: str | None = None
    image_url: str | _Url | None = None

    @property
    def pictures(self) -> list[str]:
        """What it names, under whichever key."""
        url = self.image_url.url if isinstance(self.image_url, _Url) else self.image_url
        return [name for name in (self.path, self.image, self.url, url) if name is not None]


class _Message(_Lenient):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[_Part]


class _ChatRow(_Lenient):
    id: str | int | None = None
    image: str | None = None
    messages: list[_Message]
    subject: str | None = None
    task: str | None = None


def format_of(row: Row) -> Literal["conversations", "messages", "flat"]:
    """Tell a row's shape by its keys."""
    if "conversations" in row.value:
        return "conversations"
    return "messages" if "messages" in row.value else "flat"


def records_of(row: Row, folder: Path, default_task: str) -> Iterator[Record]:
    """Turn one row into records; a conversation of several turns becomes several, each asked alone.

    Args:
        row: The row as read.
        folder: What a relative image path is relative to.
        default_task: Task of a record with an image that names none.

    Raises:
        UserError: The row's keys, types or values are wrong.
    """
    shape = format_of(row)
    if shape == "conversations":
        yield from _from_conversation(_validate(_ConversationRow, row), row, folder, default_task)
    elif shape == "messages":
        yield from _from_chat(_validate(_ChatRow, row), row, folder, default_task)
    else:
        flat = _validate(_FlatRow, row)
        if flat.image is None and flat.question is None:
            raise UserError("a record needs an image or a question", where=row.source, value=sorted(row.value))
        yield _record(
            row,
            image=_picture(flat.image, folder, row),
            question=flat.question,
            answer=flat.answer,
            options=tuple(flat.options),
            subject=flat.subject,
            task=flat.task,
            default_task=default_task,
        )


def _from_conversation(parsed: _ConversationRow, row: Row, folder: Path, default_task: str) -> Iterator[Record]:
    image = _picture(parsed.image, folder, row)
    turns: list[tuple[str, str]] = []
    for turn in parsed.conversations:
        if turn.speaker == "system":
            # What a model is told before every question is the template's business.
            continue
        text = turn.value
        if _PLACEHOLDER in text and image is None:
            raise UserError(
                f"a turn holds {_PLACEHOLDER} and the record names no image",
                where=row.source,
                expected="the image's path as `image`; videos are not read",
                remedy=_OTHERWISE,
            )
        turns.append(("user" if turn.speaker in ("human", "user") else "assistant", text.replace(_PLACEHOLDER, "")))
    for question, answer in _pairs(turns, row):
        yield _record(
            row,
            image=image,
            question=question,
            answer=answer,
            subject=parsed.subject,
            task=parsed.task,
            default_task=default_task,
        )


def _from_chat(parsed: _ChatRow, row: Row, folder: Path, default_task: str) -> Iterator[Record]:
    pictures: list[str] = []
    shown, turns = 0, list[tuple[str, str]]()
    for message in parsed.messages:
        if message.role in ("system", "developer"):
            continue
        parts = [_Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        texts = []
        for part in parts:
            if part.type.endswith("text"):
                if part.text is None or part.pictures:
                    raise UserError("a text part needs `text` and no image", where=row.source)
                texts.append(part.text if parsed.image is None else part.text.replace(_PLACEHOLDER, ""))
                continue
            named, shown = part.pictures, shown + 1
            if message.role != "user" or part.text or len(named) > 1 or not (named or parsed.image):
                raise UserError(
                    "an image part needs exactly one of `path`, `image`, `url`, `image_url`, or none where the record "
                    "has `image` or `images`, in a message of the user",
                    where=row.source,
                )
            pictures += named
        turns.append((message.role, "\n".join(texts)))
    if len(pictures) > 1 or shown > 1 or (pictures and parsed.image not in (None, *pictures)):
        raise UserError("several images in one conversation", where=row.source, expected="at most one image")
    image = _picture(pictures[0] if pictures else parsed.image, folder, row)
    for question, answer in _pairs(turns, row):
        yield _record(
            row,
            image=image,
            question=question,
            answer=answer,
            subject=parsed.subject,
            task=parsed.task,
            default_task=default_task,
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


def _picture(name: str | None, folder: Path, row: Row) -> Path | None:
    return None if name is None else picture_path(name, folder, row.source)


def _record(row: Row, *, task: str | None, default_task: str, **values: Any) -> Record:
    if task is None:
        task = default_task if values["image"] is not None else "text"
    try:
        return Record(source=row.source, task=task, **values)
    except ValidationError as error:
        raise _explain(error, row, None) from None


def _as_told(row: Row) -> dict[str, Any]:
    """The row with one way of saying that something is absent, and one of naming its image."""
    value = {key: found for key, found in row.value.items() if found is not None}
    named = [key for key in ("image", "images") if value.get(key) not in (None, [])]
    if len(named) > 1:
        raise UserError("the record has both `image` and `images`", where=row.source, remedy="leave one of them out")
    found = value.get(named[0]) if named else None
    if isinstance(found, list):
        if len(found) > 1:
            raise UserError(
                "several images in one record", where=row.source, value=len(found), expected="at most one image"
            )
        found = found[0]
    if isinstance(found, dict):
        if not isinstance(found.get("path"), str):
            raise UserError(
                "the image lies in the record itself, or its path is missing",
                where=row.source,
                value=sorted(found),
                expected="the path of a file",
                remedy="write the images to files, and name those",
            )
        found = found["path"]
    value = {key: each for key, each in value.items() if key not in ("image", "images")}
    return value if found is None else {**value, "image": found}


def _refuse_misspelt(schema: type[BaseModel], value: dict[str, Any], row: Row) -> None:
    """Of keys that are passed over, refuse one that is nearly a known one: its content would be lost."""
    known = set(schema.model_fields)
    for key in sorted(value.keys() - known):
        near = difflib.get_close_matches(key, known - value.keys(), n=1, cutoff=0.8)
        if _MEANT.get(key) == "image" and "image" not in value:
            near = ["image"]
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
