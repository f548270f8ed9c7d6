"""A command line that a launcher such as torchrun has started several times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from vkdsurgeon.errors import UserError
from vkdsurgeon_cli import streams


def several() -> bool:
    """Whether a launcher has started several processes."""
    return os.environ.get("WORLD_SIZE", "") not in ("", "1")


def follows() -> bool:
    """Whether this is one of several processes, and not the one that writes and speaks."""
    return several() and os.environ.get("RANK") != "0"


def refuse_several(what: str) -> None:
    """Refuse what one process does alone.

    Raises:
        UserError: A launcher has started several.
    """
    if several():
        raise UserError(
            f"{what} runs in one process",
            where="WORLD_SIZE",
            value=os.environ["WORLD_SIZE"],
            expected="1, or no such variable",
            remedy="start it without torchrun: only unlearn, without --method, divides its work among processes",
        )


@contextmanager
def together() -> Iterator[bool]:
    """Join the processes that were started with this one; of all of them, the one that fails first tells why.

    Yields:
        Whether this process writes and speaks.
    """
    if not several():
        yield True
        return
    from vkdsurgeon.model.process_group import joined

    with joined() as launched:
        try:
            yield launched.processes.first
        except BaseException as error:
            if not launched.failed(error):
                streams.hush(stdout=False)
            elif not launched.processes.first:
                streams.speak()
            raise
