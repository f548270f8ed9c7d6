"""Input altered at random, many times, each case from its own seed: taken or refused, and never a crash.

`CAMPAIGNS=FILE` keeps the outcomes of long campaigns as JSON lines, from which docs/reference/campaigns.md is made.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vkdsurgeon.errors import SurgeryError, UserError

SHORT, LONG = 150, 5_000
COUNTS = [SHORT, pytest.param(LONG, marks=pytest.mark.campaign)]
STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    10**30,
    0.5,
    1e308,
    "",
    "x",
    "\ud800",
    "a/b",
    [],
    {},
    [None],
    {"": 1},
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, each in items for place in _places(each, (*path, key))]


def altered(value: Any, draw: random.Random) -> Any:
    """A JSON value with something else at one place, or with that place gone."""
    value = json.loads(json.dumps(value))
    path = draw.choice(_places(value))
    node = value
    for step in path[:-1]:
        node = node[step]
    if draw.random() < 0.2:
        del node[path[-1]]
    else:
        node[path[-1]] = draw.choice(STRANGE)
    return value


def altered_bytes(content: bytes, draw: random.Random) -> bytes:
    kind, at = draw.randrange(3), draw.randrange(len(content))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    return content[:at] + draw.randbytes(8) + content[at:]


def campaign(what: str, count: int, seed: int, once: Callable[[random.Random], None]) -> None:
    """Do it so many times.

    Args:
        what: Name of the campaign.
        count: Number of cases.
        seed: Seed of all of them; with the number of a case it makes that case again.
        once: One case, from its source of draws.

    Raises:
        AssertionError: A case ended in something else than success or an error that names its cause, or took 30 s.
    """
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        begun = time.monotonic()
        try:
            once(random.Random(f"{seed} {number}"))
            outcomes["taken"] += 1
        except (UserError, SurgeryError) as error:
            outcomes[type(error).__name__] += 1
        except Exception as error:
            raise AssertionError(f"case {number} of seed {seed}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 30
    if count == LONG and "CAMPAIGNS" in os.environ:
        with Path(os.environ["CAMPAIGNS"]).open("a", encoding="utf-8") as file:
            refused = outcomes["UserError"] + outcomes["SurgeryError"]
            file.write(
                json.dumps({"what": what, "cases": count, "taken": outcomes["taken"], "refused": refused}) + "\n"
            )
