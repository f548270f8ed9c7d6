"""`vkdsurgeon doctor` tells what runs, what could, and what is in the way of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from vkdsurgeon_cli.main import run
from vkdsurgeon_kernels.backend import OPERATIONS, compile_obstacle, obstacle


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    compile_obstacle.cache_clear()
    yield
    compile_obstacle.cache_clear()


def _kernels(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["kernels"]


def test_every_implementation_can_run_or_has_an_obstacle(capsys: pytest.CaptureFixture[str]):
    kernels = _kernels(capsys)
    assert set(kernels) == set(OPERATIONS)
    for operation, names in OPERATIONS.items():
        kernel = kernels[operation]
        assert sorted([*kernel["able"], *kernel["obstacles"]]) == sorted(names)
        assert kernel["implementation"] in kernel["able"]
        assert "reference" in kernel["able"]
        assert kernel["obstacles"]["triton"] == obstacle("triton", torch.device("cpu"))


def test_an_obstacle_moves_the_choice_and_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    kernel = _kernels(capsys)["masked_adamw"]
    assert kernel["implementation"] == "reference"
    assert kernel["able"] == ["reference"]
    assert kernel["obstacles"]["compiled"] == "TORCH_COMPILE_DISABLE=1"
    assert "TORCH_COMPILE_DISABLE=1" in kernel["reason"]


def test_the_table_tells_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "can run too: reference" in text
    assert "cannot run: compiled (TORCH_COMPILE_DISABLE=1)" in text
    assert "cannot run: triton (" in text
