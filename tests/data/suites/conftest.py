"""Benchmarks and the miniature on disk, once a session; read-only for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.suites.layouts import write_clear, write_mllmu
from vkdsurgeon.data.miniature.unpack import MiniaturePaths, unpack


@pytest.fixture(scope="session")
def mllmu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mllmu(tmp_path_factory.mktemp("suites") / "mllmu", retained=3)


@pytest.fixture(scope="session")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clear(tmp_path_factory.mktemp("suites") / "clear", retained=3)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> MiniaturePaths:
    return unpack(tmp_path_factory.mktemp("miniature"))
