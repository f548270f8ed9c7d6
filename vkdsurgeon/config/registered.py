"""Words that a program adds to the closed lists of recipe keys, so that a recipe can name code of its own."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vkdsurgeon.errors import UserError

_WORDS: dict[str, set[str]] = {"forget_target": set(), "saliency": set()}


def register_word(key: str, word: str, known: Collection[str]) -> None:
    """Let a recipe key take one more word, in this process.

    Args:
        key: `forget_target` or `saliency`.
        word: What recipes then say; registering a word of one's own again is allowed.
        known: The words that ship with the package.

    Raises:
        UserError: The word is one of these, or no identifier.
    """
    if not word.isidentifier() or word in known:
        raise UserError(
            f"not a valid name for the recipe key {key!r}",
            where="register",
            value=word,
            expected="letters, digits and _, and none of " + ", ".join(sorted(known)),
        )
    _WORDS[key].add(word)


def is_registered(key: str, word: Any) -> bool:
    """Whether a program added this word."""
    return isinstance(word, str) and word in _WORDS[key]
