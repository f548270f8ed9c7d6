"""A checkpoint holds the whole model that its config promises, or it is refused by name, and soon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.checkpoint.conftest import edit_json, edit_tensors
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.errors import UserError


def _refused(root: Path, words: str) -> UserError:
    with pytest.raises(UserError, match=words) as refused:
        split_checkpoint(take_inventory(root))
    return refused.value


@pytest.mark.parametrize("part", ["lm_head", "layers.1.", "embed_tokens", "layers.0.mlp.up_proj", "model.norm"])
def test_part_of_the_language_model_is_missing(single: Path, part: str) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        gone = [name for name in tensors if part in name and "vision" not in name]
        assert gone
        for name in gone:
            del tensors[name]

    edit_tensors(single / "model.safetensors", drop)
    error = _refused(single, "of the language model are missing")
    assert part.strip(".") in str(error.value)


def test_tied_heads_need_no_tensor_of_their_own(single: Path) -> None:
    edit_json(single / "config.json", lambda config: config.update(tie_word_embeddings=True))
    edit_tensors(single / "model.safetensors", lambda tensors: [tensors.pop(n) for n in [*tensors] if "lm_head" in n])
    split_checkpoint(take_inventory(single))


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
    _refused(single, "of the language model are missing")


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
