"""Answers that were measured before, in a directory; an interrupted evaluation goes on where it was.

An entry holds the numbers of one chunk of questions of one model. It is found by a keyed digest over everything that
decides them: weights, configuration, tokenizer and processor; images, questions and answers; settings, device and
versions. What anybody asked or said is not in it, nor in its name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.samples import asked_content, protocol_content
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.answered import Answered, Scoring
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.library_errors import machine_or
from vkdsurgeon.model.multimodal import LoadedModel

# Raise it whenever a metric changes its meaning.
_SCHEMA = "vkdsurgeon/answers/2"
_SALT = "vkdsurgeon-cache.salt"
_PART = ".part"
_NO_PART_OF_THE_MODEL = frozenset({".safetensors", ".md", ".png", ".jpg", ".py", ".bin", ".gguf"})


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    values: dict[str, float]
    said: str
    log_likelihoods: list[float]
    truth_ratio: float | None
    silent: bool | None


class _Chunk(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_: str
    key: str
    answers: list[_Entry]


class AnswerCache:
    """A directory of answers from earlier evaluations.

    Args:
        root: The directory; made where missing.
        warn: Gets a sentence about every entry that is passed over because it is damaged.

    Raises:
        UserError: The directory cannot be used, or holds something else.
    """

    def __init__(self, root: Path, warn: Callable[[str], None]) -> None:
        self.root = root
        self.warn = warn
        self.salt = _salt_of(root)
        self._warned = False

    def cannot_keep(self, path: Path, error: OSError) -> None:
        """Tell, once, that answers are not kept."""
        if not self._warned:
            self.warn(
                f"cache: {error.filename or path}: {error.strerror}; the evaluation goes on, and what is not kept is "
                "asked again the next time"
            )
        self._warned = True

    def of(self, loaded: LoadedModel, encoder_root: Path, scoring: Scoring) -> ModelCache:
        """The answers of one model.

        Args:
            loaded: The model.
            encoder_root: Directory of the checkpoint whose processor makes its inputs.
            scoring: How answers are obtained.
        """
        facts = [
            _SCHEMA,
            loaded.digest,
            _small_files(loaded.root),
            _small_files(encoder_root),
            loaded.places,
            torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else "",
            str(loaded.dtype),
            asdict(scoring),
            {**versions(), **_more_versions()},
        ]
        return ModelCache(self, hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())

    def digest(self, text: str) -> str:
        """Keyed digest of a value, in hex."""
        return hmac.new(self.salt, text.encode(), hashlib.sha256).hexdigest()


class ModelCache:
    """The part of an `AnswerCache` that belongs to one model under one set of settings."""

    def __init__(self, store: AnswerCache, model: str) -> None:
        self._store = store
        self._model = model
        self._media: dict[Path, str] = {}
        self.reused = 0
        self.asked = 0

    def find(self, records: Sequence[Record]) -> list[Answered] | None:
        """Answers to exactly these records in this order, or None."""
        key = self._key(records)
        entries = self._read(self._path(key), key, len(records))
        if entries is None:
            return None
        self.reused += len(records)
        return [
            Answered(record, entry.values, entry.said, tuple(entry.log_likelihoods), entry.truth_ratio, entry.silent)
            for record, entry in zip(records, entries, strict=True)
        ]

    def keep(self, answers: Sequence[Answered]) -> list[Answered]:
        """Store answers.

        Returns:
            The same as a later `find` will give them: with digests in place of what was said.
        """
        kept = [replace(answer, said=self._store.digest(answer.said)) for answer in answers]
        key = self._key([answer.record for answer in answers])
        entries = [
            {
                "values": answer.values,
                "said": answer.said,
                "log_likelihoods": list(answer.log_likelihoods),
                "truth_ratio": answer.truth_ratio,
                "silent": answer.silent,
            }
            for answer in kept
        ]
        content: dict[str, Any] = {"schema_": _SCHEMA, "key": key, "answers": entries}
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"sha256": _checksum(content), "content": content}) + "\n")
        except OSError as error:
            # The answers are here; that they must be asked again another time is no reason to lose them.
            self._store.cannot_keep(path, error)
        self.asked += len(answers)
        return kept

    def summary(self, role: str) -> str:
        """One sentence about what was reused."""
        return f"cache: {role}: {self.reused} answers reused, {self.asked} asked and kept"

    def _key(self, records: Sequence[Record]) -> str:
        rows = [[*asked_content(each, self._media), *protocol_content(each, self._media)] for each in records]
        return self._store.digest(json.dumps([self._model, rows]))

    def _path(self, key: str) -> Path:
        return self._store.root / key[:2] / f"{key}.json"

    def _read(self, path: Path, key: str, count: int) -> list[_Entry] | None:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            content = document["content"]
            chunk = _Chunk.model_validate(content)
            if _checksum(content) == document["sha256"] and chunk.key == key and len(chunk.answers) == count:
                return chunk.answers
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
            pass
        self._store.warn(f"cache: the entry {path.name[:12]} is damaged; its {count} questions are asked again")
        return None


def _salt_of(root: Path) -> bytes:
    path = root / _SALT
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise UserError("the directory of the cache is not writable", where=root)
        if not any(_is_no_leftover(name) for name in os.listdir(root)):
            _make_salt(path)
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError("this is not a directory", where=root, expected="a directory for `cache`") from error
    except FileNotFoundError:
        raise UserError(
            "the directory is not empty and not a cache",
            where=root,
            expected="a new or empty directory, or one that an earlier `cache` made",
        ) from None
    except UserError:
        raise
    except OSError as error:
        told = UserError(
            "the directory of the cache cannot be used",
            where=error.filename or root,
            value=error.strerror,
            remedy="name another one with `cache`, or leave it out",
        )
        raise machine_or(told, error) from error
    except ValueError:
        salt = b""
    if len(salt) != 16:
        raise UserError(
            "the salt of the cache is damaged", where=path, remedy="delete the directory; everything is measured anew"
        )
    return salt


def _is_no_leftover(name: str) -> bool:
    # A process that was killed, or has not come further yet, leaves the salt under the name it is written with.
    return not (name.startswith(f".{_SALT}.") and name.endswith(_PART))


def _make_salt(path: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(16))
            file.flush()
            # A name without content, as a power cut may leave it, would make the cache useless for ever.
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never replaces: of two evaluations that start at once, one salt wins.
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            # Not every file system has links.
            if not path.exists():
                os.rename(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _small_files(root: Path) -> list[list[str]]:
    """Digests of what lies beside the weights and decides answers: configuration, tokenizer, processor, templates."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or path.suffix in _NO_PART_OF_THE_MODEL or name.name.startswith("vkdsurgeon") or not path.is_file():
            continue
        found.append([name.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()])
    return found


def _more_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("tokenizers", "rouge-score", "nltk")}
