"""Bytes that only the owner of a key can read: AES-256-GCM (NIST SP 800-38D)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.optional import optional

_MAGIC = b"vkdsurgeon sealed 1\n"
_KEY_BYTES, _NONCE_BYTES = 32, 12


def seal(content: bytes, key: Path) -> bytes:
    """Encrypt and authenticate.

    Args:
        content: What to hide.
        key: A file with 32 random bytes.

    Raises:
        UserError: The key is not valid, or the library is not installed.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _MAGIC + nonce + bytes(_cipher(key).encrypt(nonce, content, _MAGIC))


def unseal(content: bytes, key: Path | None, where: Path) -> bytes:
    """What `seal` was given; content that is not sealed is returned as it is.

    Args:
        content: The file's bytes.
        key: The key's file; None where there is none.
        where: The file, for messages.

    Raises:
        UserError: There is no key, it is another one, or the content was changed.
    """
    if not content.startswith(_MAGIC):
        return content
    if key is None:
        raise UserError("the file is encrypted", where=where, remedy="give the key that it was written with")
    start = len(_MAGIC) + _NONCE_BYTES
    cipher = _cipher(key)
    from cryptography.exceptions import InvalidTag

    try:
        return bytes(cipher.decrypt(content[len(_MAGIC) : start], content[start:], _MAGIC))
    except (InvalidTag, ValueError):
        raise UserError(
            "the file is damaged, or was encrypted with another key",
            where=where,
            value=str(key),
        ) from None


def check_key(key: Path) -> None:
    """Find out before any work whether a key can be used.

    Raises:
        UserError: As `seal`.
    """
    _cipher(key)


def _cipher(key: Path) -> Any:
    aead = optional("cryptography.hazmat.primitives.ciphers.aead", "sign", "an encrypted replay file")
    try:
        # A device would have no end.
        with key.open("rb") as file:
            content = file.read(_KEY_BYTES + 1)
    except OSError as error:
        raise UserError("the key cannot be read", where=key, value=error.strerror) from None
    if len(content) != _KEY_BYTES:
        found = f"more than {_KEY_BYTES}" if len(content) > _KEY_BYTES else len(content)
        raise UserError(
            "not a key", where=key, value=f"{found} bytes", expected=f"{_KEY_BYTES} bytes",
            remedy=f"make one: head -c {_KEY_BYTES} /dev/urandom > {key.name}",
        )  # fmt: skip
    return aead.AESGCM(content)
