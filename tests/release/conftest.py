"""A release of two runs in a row, made by the real thing once for all tests of this room."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import vkdsurgeon
from tests.conftest import write_set

RECIPE: Mapping[str, Any] = {
    "steps": 2, "forget_batch": 4, "retain_batch": 4, "extensions": 0, "forget_reading": 1.0, "retain_reading": 1.0,
    "retain_drift": 100, "copies": 0, "tamper_weight": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Released:
    """Paths; read-only for tests."""

    base: Path
    first: Path
    patched: Path
    forget: Path
    retain: Path


@pytest.fixture(scope="session")
def released(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """A checkpoint that was unlearned twice, the second time for another set."""
    folder = tmp_path_factory.mktemp("released")
    forget, retain = write_set(folder, "forget", range(2)), write_set(folder, "retain", range(10, 14))
    place = {"retain": retain, "recipe": RECIPE}
    vkdsurgeon.unlearn(llava, write_set(folder, "earlier", range(20, 22)), folder / "first", request_id="R-16", **place)
    vkdsurgeon.unlearn(
        folder / "first", forget, folder / "second", request_id="R-17", request_date="2026-03-01", **place
    )
    return Released(folder / "first", folder / "first", folder / "second", forget, retain)


@pytest.fixture
def copy(released: Released, tmp_path: Path) -> Path:
    """The release, to be tampered with."""
    return Path(shutil.copytree(released.patched, tmp_path / "copy"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key and its public one, as PEM."""
    folder = tmp_path_factory.mktemp("keys")
    private = ec.generate_private_key(ec.SECP256R1())
    (folder / "private.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "public.pem").write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return folder / "private.pem", folder / "public.pem"
