"""Signatures by OpenSSF model signing v1, with a local key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.optional import optional


def sign_checkpoint(model: Path, private_key: Path, signature: Path) -> None:
    """Sign every file of a checkpoint.

    Args:
        model: The directory.
        private_key: An elliptic-curve key as PEM, without a password.
        signature: The file to write: a sigstore bundle. It is not among the signed files.

    Raises:
        UserError: The extra `sign` is missing, or the key is none.
    """
    tool = _tool("signing")
    _check_outside(model, signature)
    try:
        config = tool.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key("--sign", private_key, error) from error
    config.sign(model, signature)


def check_signature(model: Path, signature: Path, public_key: Path) -> str | None:
    """What is wrong with a signature; None where it is good for exactly these files.

    Args:
        model: The directory.
        signature: The bundle.
        public_key: The signer's key as PEM.

    Raises:
        UserError: The extra `sign` is missing, the key is none, or there is no such signature.
    """
    tool = _tool("verifying")
    _check_outside(model, signature)
    if not signature.is_file():
        raise UserError("no such signature", where="--signature", value=str(signature), expected="a file")
    try:
        config = tool.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key("--public-key", public_key, error) from error
    try:
        config.verify(model, signature)
    except Exception as error:
        # A bundle that is none, another key and another file are all the same answer.
        return " ".join(str(error).split())[:300] or type(error).__name__
    return None


def _tool(part: str) -> Any:
    where = "--sign" if part == "signing" else "--signature"
    return optional(f"model_signing.{part}", "sign", "a signature", where=where)


def _check_outside(model: Path, signature: Path) -> None:
    if model.resolve() in signature.resolve().parents:
        raise UserError(
            "the signature lies inside the model, which it would have to cover itself",
            where=signature,
            remedy="keep it beside the model's directory",
        )


def _no_key(option: str, path: Path, error: Exception) -> UserError:
    return UserError(
        f"not a key: {error}",
        where=option,
        value=str(path),
        expected="an elliptic-curve key as PEM, such as `openssl ecparam -name prime256v1 -genkey` writes",
    )
