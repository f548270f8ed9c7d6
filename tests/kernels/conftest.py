"""Fixtures of the kernel tests."""

import sys

import pytest
import torch


def _poisoned(allocate):
    def allocate_poisoned(*args, **kwargs):
        made = allocate(*args, **kwargs)
        if sys._getframe(1).f_globals.get("__name__", "").startswith("vkdsurgeon_kernels"):
            if made.is_floating_point():
                made.fill_(float("nan"))
            elif made.dtype != torch.bool:
                made.fill_(torch.iinfo(made.dtype).max)
        return made

    return allocate_poisoned


@pytest.fixture
def poisoned_empty(monkeypatch):
    """Memory that the package takes without initialising it holds NaN (integers: their largest value)."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
