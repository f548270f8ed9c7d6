"""Libraries that few runs need: they come with an extra of the package, and their absence is told before any work."""

from __future__ import annotations

import importlib
from typing import Any

from vkdsurgeon.errors import UserError


def optional(module: str, extra: str, what: str, *, where: str | None = None, otherwise: str | None = None) -> Any:
    """Import a library that the base installation leaves out.

    Args:
        module: What to import, such as `optuna` or `model_signing.signing`.
        extra: The extra that brings it.
        what: Who needs it, to begin the message with.
        where: The option or setting that asks for it.
        otherwise: What to do without it, as the rest of a sentence.

    Returns:
        The module.

    Raises:
        UserError: It cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise UserError(
            f"{what} needs the library {library}, which cannot be imported: {error}",
            where=where,
            remedy=f"install it: pip install 'vkdsurgeon[{extra}]'" + (f"; or {otherwise}" if otherwise else ""),
        ) from error
