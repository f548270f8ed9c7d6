"""The split: each tensor has one part, the map is one to one, and what cannot be edited safely is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM

from tests.checkpoint.conftest import edit_json, edit_tensors, random_image
from tests.families import FAMILIES
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.checkpoint.shard_index import SINGLE
from vkdsurgeon.checkpoint.skeleton import build_skeleton
from vkdsurgeon.checkpoint.split import Split, split_checkpoint
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.load_vision import load_visual_stack


def split(root: Path, **overrides: Any) -> Split:
    return split_checkpoint(take_inventory(root), **overrides)


def refused(root: Path, message: str, **overrides: Any) -> UserError:
    with pytest.raises(UserError, match=message) as caught:
        load_visual_stack(root, device="cpu", **overrides)
    return caught.value


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_has_one_part(pristine: dict[str, Path], family: str) -> None:
    found = split(pristine[family])
    names = load_file(pristine[family] / SINGLE).keys()
    assert found.parts.keys() == names
    assert not found.other
    assert len(set(found.targets.values())) == len(found.visual)
    # The language model of every family here names its layers so; a leak into the visual part would show.
    assert all("language_model" in name or "text_model" in name or "lm_head" in name or name.startswith("model.layers")
               or name in ("model.embed_tokens.weight", "model.norm.weight") for name in found.language)  # fmt: skip
    assert not any("language_model" in name or "lm_head" in name or "text_model" in name for name in found.visual)


@pytest.mark.parametrize("family", FAMILIES)
def test_skeleton_and_loaded_model_are_placed_alike(pristine: dict[str, Path], family: str) -> None:
    loaded = AutoModelForMultimodalLM.from_pretrained(pristine[family])
    found = locate_visual(loaded, None, None)
    assert found == split(pristine[family]).placement
    everything = found.tower_parameters + found.projector_parameters + found.language_parameters
    assert sorted(everything) == sorted(name for name, _ in loaded.named_parameters())


def test_overrides(pristine: dict[str, Path]) -> None:
    rule = split(pristine["llava"])
    path = "model.multi_modal_projector"
    assert split(pristine["llava"], tower="model.vision_tower", projector=[path]).parts == rule.parts
    half = split(pristine["llava"], projector=[f"{path}.linear_1"])
    assert len(half.projector) == 2
    assert half.tower == rule.tower


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tower": "vision_tower"}, "model.vision_tower"),
        ({"tower": ""}, ""),
        ({"projector": ["nope"]}, "model.multi_modal_projector"),
        ({"tower": "model"}, "contains parts of the language model"),
        ({"tower": "model.language_model"}, "contains parts of the language model"),
        ({"projector": ["model.language_model"]}, "projector contains parts of the language model"),
    ],
)
def test_wrong_overrides_name_the_candidates(pristine: dict[str, Path], overrides: Any, message: str) -> None:
    if overrides == {"tower": ""}:
        assert split(pristine["llava"], **overrides).tower
        return
    with pytest.raises(UserError, match=message) as caught:
        split(pristine["llava"], **overrides)
    assert "model.vision_tower" in str(caught.value)


UNSPLIT = {
    "chameleon": "no gradient comes back",
    "emu3": "no gradient comes back",
    "fuyu": "one linear map",
    "gemma4_unified": "one linear map",
    "udop": "one linear map",
}


@pytest.mark.parametrize("model_type", UNSPLIT)
def test_refuses_families_without_a_tower(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    if hasattr(config, "vocabulary_map"):
        config.vocabulary_map = {"<image>": 100}
    skeleton = build_skeleton(config)
    with pytest.raises(UserError, match=UNSPLIT[model_type]) as refused:
        locate_visual(skeleton)
    assert "npo" in str(refused.value.remedy)


PLACED = {
    "git": ("git.image_encoder", ("git.visual_projection",)),
    "idefics": ("model.vision_model", ()),
    "janus": ("model.vision_model", ("model.aligner",)),
    "pi0": ("model.vlm.vision_tower", ("model.vlm.multi_modal_projector",)),
    "t5gemma2": ("model.encoder.vision_tower", ("model.encoder.multi_modal_projector",)),
    "video_llava": ("model.image_tower", ("model.multi_modal_projector",)),
}


@pytest.mark.parametrize("model_type", PLACED)
def test_parts_that_are_not_where_others_have_them(model_type: str) -> None:
    placement = locate_visual(build_skeleton(CONFIG_MAPPING[model_type]()))
    assert (placement.tower, placement.projector) == PLACED[model_type]


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no type": (lambda config: config.pop("model_type"), "no model_type"),
    "odd type": (lambda config: config.update(model_type=7), "no model_type"),
    "unknown": (lambda config: config.update(model_type="llava_of_tomorrow"), "does not know"),
    "remote code": (
        lambda config: config.update(model_type="theirs", auto_map={"AutoConfig": "c.C"}), "never executed"),
    "text only": (lambda config: config.update(model_type="llama"), "not a multimodal LLM"),
    "odd heads": (lambda config: config["vision_config"].update(num_attention_heads=5), "refuses the config"),
    "no such activation": (lambda config: config["vision_config"].update(hidden_act="x"), "built from its config"),
    "other size": (lambda config: config["vision_config"].update(intermediate_size=48), "contradicts config.json"),
    "more layers": (lambda config: config["vision_config"].update(num_hidden_layers=4), "visual tensors are missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_refuses_configs(single: Path, case: str) -> None:
    edit, message = CONFIGS[case]
    edit_json(single / "config.json", edit)
    refused(single, message)


@pytest.mark.parametrize(("text", "message"), [("", "not valid JSON"), ("[1]", "not a JSON object"), ("{", "JSON")])
def test_refuses_garbage_configs(single: Path, text: str, message: str) -> None:
    (single / "config.json").write_text(text)
    assert "config.json" in str(refused(single, message))


def first_visual(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if "vision_tower" in name and tensors[name].ndim == 2)


def rename(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    tensors[new] = tensors.pop(old)


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda tensors: tensors.pop(first_visual(tensors)), "1 visual tensors are missing"),
    "nan": (lambda tensors: tensors[first_visual(tensors)].view(-1)[3:4].fill_(float("nan")), "NaN or infinity"),
    "infinity": (lambda tensors: tensors[first_visual(tensors)].view(-1)[:1].fill_(float("inf")), "NaN or infinity"),
    "quantised": (
        lambda tensors: tensors.update({first_visual(tensors): tensors[first_visual(tensors)].to(torch.int8)}),
        "quantised",
    ),
    "float8": (
        lambda tensors: tensors.update({first_visual(tensors): tensors[first_visual(tensors)].to(torch.float8_e4m3fn)}),
        "quantised",
    ),
    "two names": (
        lambda tensors: tensors.update(
            {"model." + first_visual(tensors): tensors[first_visual(tensors)].clone()}
        ),
        "two tensors on disk for one parameter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_refuses_visual_tensors(single: Path, case: str) -> None:
    edit, message = TENSORS[case]
    edit_tensors(single / SINGLE, edit)
    assert SINGLE in str(refused(single, message)) or case == "missing"


def test_a_quantised_language_model_is_fine(single: Path) -> None:
    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            if "language_model" in name and tensors[name].ndim == 2:
                tensors[name] = torch.zeros(tensors[name].numel() // 2, 1, dtype=torch.uint8)

    edit_tensors(single / SINGLE, quantise)
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    edit_json(single / "config.json", lambda config: config.update(quantization_config=settings))
    stack = load_visual_stack(single, device="cpu")
    features = stack.features(stack.collate([stack.prepare(random_image())]))
    assert torch.isfinite(features["projector"]).all()


def test_nan_in_the_language_model_is_never_seen(single: Path) -> None:
    edit_tensors(single / SINGLE, lambda tensors: tensors["language_model.lm_head.weight"].fill_(float("nan")))
    load_visual_stack(single, device="cpu")


def test_unknown_tensors_pass_through_and_are_counted(single: Path) -> None:
    edit_tensors(single / SINGLE, lambda tensors: tensors.update({"vision_tower.position_ids": torch.arange(3)}))
    found = split(single)
    assert found.other == ("vision_tower.position_ids",)
    assert "1 tensors" in found.warnings[0]


def legacy(name: str) -> str:
    """The names under which LLaVA checkpoints lie on the hub (what transformers 5 writes differs between versions)."""
    bare = name.removeprefix("model.").replace("vision_model.", "")
    if bare.startswith("vision_tower."):
        return bare.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if bare.endswith("lm_head.weight"):
        return "language_model.lm_head.weight"
    if bare.startswith("language_model."):
        return "language_model.model." + bare.removeprefix("language_model.").removeprefix("model.")
    return bare


def test_names_of_the_hub_are_understood(single: Path) -> None:
    reference = load_visual_stack(single, device="cpu")

    def rename_all(tensors: dict[str, torch.Tensor]) -> None:
        renamed = {legacy(name): value for name, value in tensors.items()}
        assert len(renamed) == len(tensors)
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(single / SINGLE, rename_all)
    found = load_visual_stack(single, device="cpu")
    assert not found.split.other
    assert all(name.startswith("vision_tower.vision_model.") for name in found.split.tower)
    parameters = reference.visual_parameters()
    for name, value in found.visual_parameters().items():
        assert torch.equal(value, parameters[name])
    back = found.to_disk(found.visual_parameters())
    assert set(back) == set(found.split.visual)


def test_config_survives_reading(single: Path) -> None:
    before = json.loads((single / "config.json").read_text())
    split(single)
    assert json.loads((single / "config.json").read_text()) == before
