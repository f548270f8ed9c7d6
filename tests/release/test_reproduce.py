"""`reproduce`: bytes on this machine, graded differences elsewhere, and other inputs refused before the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.checkpoint.conftest import edit_json
from tests.release.conftest import Released
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.errors import UserError
from vkdsurgeon.release.reproduce import reproduce_run

NEWEST = "vkdsurgeon.2.json"


def test_bytes_on_this_machine(released: Released, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--base", str(released.base), "--forget", str(released.forget), "--retain", str(released.retain)]
    assert run(["reproduce", str(released.patched), *words, "--json"]) == 0
    assert '"grade": "bytes"' in capsys.readouterr().out


@pytest.mark.parametrize(("scale", "grade"), [(0.01, "close"), (3.0, "different")])
def test_elsewhere_the_difference_is_graded(released: Released, copy: Path, scale: float, grade: str) -> None:
    """As if another machine had made it: the changes differ a little, or are others."""
    record = copy / NEWEST
    edit_json(record, lambda found: found["environment"].update(processor="another"))
    for shard in copy.glob("*.safetensors"):
        ours, base = load_file(shard), load_file(released.base / shard.name)
        for name, value in ours.items():
            change = value.double() - base[name].double()
            # In bfloat16 a small change of some elements is a large one of few.
            noise = torch.rand(change.shape, generator=torch.Generator().manual_seed(0)) < scale / 100
            ours[name] = torch.where(noise & (change != 0), (value.double() + change).to(value.dtype), value)
            if scale > 1:
                ours[name] = torch.where(change != 0, (base[name].double() - change).to(value.dtype), value)
        save_file(ours, shard, metadata={"format": "pt"})
    found = vkdsurgeon.reproduce(copy, released.base, released.forget, retain=released.retain)
    assert found.grade == grade, found
    assert found.environment == {"processor": ["another", found.environment["processor"][1]]}
    assert found.passed == (grade == "close")
    assert found.tensors_differing > 0


def test_a_language_model_that_came_out_otherwise_is_graded_too(released: Released, copy: Path) -> None:
    """As after a decoder pass: the record declares the tensor, and this run did not change it."""
    name = next(name for name in take_inventory(copy).tensors if name.endswith("q_proj.weight") and "language" in name)
    for shard in copy.glob("*.safetensors"):
        if name in (tensors := load_file(shard)):
            save_file(tensors | {name: tensors[name] * 1.5}, shard, metadata={"format": "pt"})
            declared = {name: tensors[name].numel()}
    edit_json(copy / NEWEST, lambda found: found.update(decoder={"tensors": declared}))

    def again(base: Path, forget: Path, out: Path, **named: object) -> None:
        shutil.copytree(released.patched, out)

    sets = {"forget": released.forget, "retain": released.retain, "generic": None}
    found = reproduce_run(copy, released.base, sets, again)
    assert found.grade == "different"
    assert found.tensors_differing == 1


def test_other_inputs_are_refused_before_the_run(released: Released, llava: Path, sets: dict[str, Path]) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise AssertionError("the run began")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vkdsurgeon.api.releases.unlearn", fail)
        with pytest.raises(UserError, match="not the base of this run"):
            vkdsurgeon.reproduce(released.patched, llava, released.forget, retain=released.retain)
        with pytest.raises(UserError, match="not the forget set"):
            vkdsurgeon.reproduce(released.patched, released.base, sets["generic"], retain=released.retain)
        with pytest.raises(UserError, match="not the retain set"):
            vkdsurgeon.reproduce(released.patched, released.base, released.forget, retain=sets["generic"])
