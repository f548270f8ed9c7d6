"""A tiny model that knows people."""

from __future__ import annotations

import pytest

from tests.tiny_llava import World, world


@pytest.fixture(scope="session")
def facts() -> World:
    return world()
