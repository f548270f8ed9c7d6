"""A checkpoint holds the whole model that its config promises, or it is refused by name, and soon."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from benchmarks.families.tiny import build_checkpoint
from tests.checkpoint.conftest import edit_json, edit_tensors
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.shard_index import INDEX
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.errors import UserError


def _refused(root: Path, words: str) -> UserError:
    with pytest.raises(UserError, match=words) as refused:
        split_checkpoint(take_inventory(root))
    return refused.value


@pytest.mark.parametrize("part", ["lm_head", "layers.1.", "embed_tokens", "layers.0.mlp.up_proj", "model.norm"])
def test_part_of_the_language_model_is_missing(single: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        gone = [name for name in tensors if part in name and "vision" not in name]
        assert gone
        for name in gone:
            del tensors[name]

    edit_tensors(single / "model.safetensors", drop)
    split = split_checkpoint(take_inventory(single))
    assert all(part.strip(".") in name for name in split.missing)
    assert run(["inspect", str(single)]) == 0
    told = capsys.readouterr().err
    assert f"{len(split.missing)} tensors of the language model are missing" in told
    with pytest.raises(UserError, match="of the language model are missing"):
        split.refuse_missing()


def test_what_the_index_promises_and_no_shard_holds_is_missing(single: Path) -> None:
    shard = single / "model.safetensors"
    names = [*take_inventory(single).tensors]
    gone = next(name for name in names if "layers.1.mlp.up_proj" in name and "vision" not in name)
    edit_tensors(shard, lambda tensors: tensors.pop(gone))
    shard.rename(single / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (single / INDEX).write_text(json.dumps(index))
    error = _refused(single, "of the language model are missing")
    assert "layers.1.mlp.up_proj" in str(error.value)


def test_a_class_that_wraps_the_model_once_more_misses_nothing(tmp_path: Path) -> None:
    split = split_checkpoint(take_inventory(build_checkpoint("shieldgemma2", tmp_path)))
    assert split.missing == ()
    assert len(split.warnings) == 1


def test_values_that_float32_does_not_hold_are_refused_by_inspect(
    single: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def widen(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "vision_tower" in name]:
            tensors[name] = tensors[name].double()

    edit_tensors(single / "model.safetensors", widen)
    assert run(["inspect", str(single)]) == 0
    edit_tensors(single / "model.safetensors", lambda tensors: next(
        tensors[name] for name in tensors if "vision_tower" in name and "weight" in name
    ).mul_(1e300))  # fmt: skip
    assert run(["inspect", str(single)]) == 2
    told = capsys.readouterr().err
    assert "would change when it is written back" in told
    assert "save the checkpoint in float32" in told


def test_tied_heads_need_no_tensor_of_their_own(single: Path) -> None:
    edit_json(single / "config.json", lambda config: config.update(tie_word_embeddings=True))
    edit_tensors(single / "model.safetensors", lambda tensors: [tensors.pop(n) for n in [*tensors] if "lm_head" in n])
    assert split_checkpoint(take_inventory(single)).missing == ()


@pytest.mark.parametrize("count", [2_000, 10**9, 10**400, -1, 2.5, True, "two"])
@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_layers_are_counted_before_they_are_built(single: Path, section: str, count: Any) -> None:
    edit_json(single / "config.json", lambda config: config[section].update(num_hidden_layers=count))
    begun = time.monotonic()
    error = _refused(single, "promises layers that the checkpoint does not hold")
    assert f"{section}.num_hidden_layers" in str(error)
    assert time.monotonic() - begun < 5


def test_a_few_layers_too_many(single: Path) -> None:
    edit_json(single / "config.json", lambda config: config["text_config"].update(num_hidden_layers=5))
    assert any("layers.2." in name for name in split_checkpoint(take_inventory(single)).missing)


@pytest.mark.parametrize("place", ["", "text_config", "vision_config"])
@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_experts_implementation"])
@pytest.mark.parametrize("value", ["org/kernel", "org/kernel@main:function", {"": "org/kernel"}])
def test_kernels_of_a_hub_are_refused(single: Path, place: str, key: str, value: Any) -> None:
    def edit(config: dict[str, Any]) -> None:
        (config[place] if place else config)[key] = value

    edit_json(single / "config.json", edit)
    error = _refused(single, "not part of transformers, and is never loaded")
    assert error.remedy == "remove the line"


@pytest.mark.parametrize("value", ["eager", "sdpa", None])
def test_kernels_of_transformers_are_taken(single: Path, value: str | None) -> None:
    edit_json(single / "config.json", lambda config: config.update(_attn_implementation=value))
    split_checkpoint(take_inventory(single))


def test_no_environment_brings_the_hub_back(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert run(["inspect", str(single)]) == 0
    assert constants.HF_HUB_OFFLINE is True
