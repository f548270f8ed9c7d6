"""The visual stack: what it reads, what it holds, what it refuses."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM

from tests.checkpoint.conftest import edit_json, random_image
from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.header import LENGTH_BYTES
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.inspection import inspect_checkpoint
from vkdsurgeon.model.load_vision import load_visual_stack

COUNT_READS = """
import json, os, sys
import torch
from pathlib import Path
from typing import Any
from vkdsurgeon.model.load_vision import load_visual_stack

def read_so_far():
    return int(dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["rchar"])

root, warm = Path(sys.argv[1]), Path(sys.argv[2])
load_visual_stack(warm, device="cpu")   # modules are imported here, so that only checkpoint files are counted below
before = read_so_far()
stack = load_visual_stack(root, device="cpu")
print(json.dumps({
    "read": read_so_far() - before,
    "visual": sum(stack.inventory.tensors[name].nbytes for name in stack.split.visual),
    "language": sum(stack.inventory.tensors[name].nbytes for name in stack.split.language),
}))
"""


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux's accounting of reads")
def test_the_language_model_is_never_read(tmp_path: Path) -> None:
    root = build_checkpoint("llava", tmp_path / "big", shards=2, text={"vocab_size": 60_000, "hidden_size": 128})
    warm = build_checkpoint("llava", tmp_path / "warm")
    command = [sys.executable, "-c", COUNT_READS, str(root), str(warm)]
    counted = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    headers = sum(LENGTH_BYTES + int.from_bytes(path.read_bytes()[:LENGTH_BYTES], "little")
                  for path in root.glob("*.safetensors"))  # fmt: skip
    texts = sum(path.stat().st_size for path in root.glob("*.json"))
    assert counted["language"] > 100 * counted["visual"]
    # The config is read by us, and then by transformers, which reads files of its own, too.
    overhead = headers + 4 * texts + 100_000
    assert overhead < counted["visual"]
    assert counted["visual"] <= counted["read"] <= 1.1 * counted["visual"] + overhead


def test_gradients_reach_tower_and_projector_only(llava: Path) -> None:
    stack = load_visual_stack(llava, device="cpu")
    batch = stack.collate([stack.prepare(random_image())])
    stack.features(batch)["projector"].square().sum().backward()
    parameters = stack.visual_parameters()
    assert list(parameters) == list(stack.split.placement.visual_parameters)
    assert all(value.requires_grad for value in parameters.values())
    reached = {name for name, value in parameters.items() if value.grad is not None}
    # The last CLIP layer comes after the features that LLaVA takes, and so does the norm behind it.
    unreached = [name for name in parameters if name not in reached]
    assert unreached
    assert all("encoder.layers.2." in name or "post_layernorm" in name for name in unreached)
    language = [v for n, v in stack.model.named_parameters() if n not in parameters]
    assert not any(value.requires_grad for value in language)


def test_it_is_always_in_eval_mode(llava: Path) -> None:
    stack = load_visual_stack(llava, device="cpu").train()
    assert not any(module.training for module in stack.modules())


def test_it_moves_and_copies_without_the_language_model(llava: Path) -> None:
    stack = load_visual_stack(llava, device="cpu")
    teacher = copy.deepcopy(stack).to(torch.float64)
    assert next(iter(teacher.visual_parameters().values())).dtype == torch.float64
    first = next(iter(stack.visual_parameters().values()))
    assert first.dtype == torch.float32
    with torch.no_grad():
        first.add_(1)
    assert not torch.equal(first.double(), next(iter(teacher.visual_parameters().values())))


def test_taps_are_the_layers_own_outputs(llava: Path) -> None:
    stack = load_visual_stack(llava, device="cpu")
    batch = stack.collate([stack.prepare(random_image())])
    with torch.no_grad():
        taps = stack.features(batch, ("layer.1", "projector"))
        output = stack.model.get_image_features(**batch.inputs, return_dict=True, output_hidden_states=True)
    assert list(taps) == ["layer.1", "projector"]
    assert torch.equal(taps["layer.1"], output.hidden_states[2])
    assert not any(module._forward_hooks for module in stack.model.get_submodule("model.vision_tower").modules()
                   if isinstance(module, nn.ModuleList))  # fmt: skip
    with pytest.raises(ValueError, match=r"layer.7.*layer.0"):
        stack.features(batch, ("layer.7",))


def test_bfloat16_holds_bfloat16_and_refuses_float32(llava: Path, pristine: dict[str, Path]) -> None:
    stack = load_visual_stack(llava, device="cpu", dtype=torch.bfloat16)
    assert {value.dtype for value in stack.visual_parameters().values()} == {torch.bfloat16}
    with pytest.raises(UserError, match="would change when it is written back") as caught:
        load_visual_stack(pristine["llava"], device="cpu", dtype=torch.bfloat16)
    assert "float32" in str(caught.value)


def test_the_way_back_is_checked(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vkdsurgeon.model import vision as module

    honest = module.VisualStack.to_disk

    def transposing(self, parameters):  # type: ignore[no-untyped-def]
        tensors = honest(self, parameters)
        return {name: value.flip(0) if value.ndim == 2 else value for name, value in tensors.items()}

    monkeypatch.setattr(module.VisualStack, "to_disk", transposing)
    with pytest.raises(UserError, match="would change when it is written back"):
        load_visual_stack(llava, device="cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no image processor"), ("{", "not valid JSON"),
     ('{"image_processor_type": "Nonsense"}', "refuses the image processor")],
)  # fmt: skip
def test_refuses_processors(single: Path, text: str | None, message: str) -> None:
    names = [path for name in ("preprocessor_config.json", "processor_config.json") if (path := single / name).exists()]
    for path in names:
        path.unlink()
    if text is not None:
        (single / "preprocessor_config.json").write_text(text)
    stack = load_visual_stack(single, device="cpu")
    with pytest.raises(UserError, match=message) as caught:
        stack.prepare(random_image())
    assert str(single) in str(caught.value)


def test_refuses_an_image_that_the_processor_refuses(pristine: dict[str, Path]) -> None:
    stack = load_visual_stack(pristine["qwen2_vl"], device="cpu")
    with pytest.raises(UserError, match="refuses this image"):
        stack.prepare(random_image(size=(2000, 2)))


def tiny(model_type: str, root: Path, vision: dict[str, Any], text: dict[str, Any]) -> Path:
    """A checkpoint of a family without an image processor of ours."""
    config = CONFIG_MAPPING[model_type](vision_config=vision, text_config=text)
    AutoModelForMultimodalLM.from_config(config).save_pretrained(root)
    return root


def test_llama4_is_projected_as_its_forward_pass_does(tmp_path: Path) -> None:
    vision = {
        "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56,
        "patch_size": 14, "vision_output_dim": 48, "projector_input_dim": 48, "projector_output_dim": 48,
    }  # fmt: skip
    text = {
        "hidden_size": 32, "intermediate_size": 64, "intermediate_size_mlp": 64, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "num_local_experts": 2,
    }  # fmt: skip
    stack = load_visual_stack(tiny("llama4", tmp_path / "llama4", vision, text), device="cpu")
    arguments = inspect.signature(stack.model.get_image_features).parameters
    if "vision_feature_select_strategy" in arguments:
        pytest.skip("this version of transformers does not compute Llama 4's features from pixels alone")
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        features = stack.features(ImageBatch({"pixel_values": pixels}, 2), stack.layers)
        seen = stack.model.get_image_features(pixels, return_dict=True)
        expected = stack.model.multi_modal_projector(seen.last_hidden_state)
    assert stack.layers == ("layer.0", "layer.1", "projector")
    assert torch.equal(features["projector"], expected.reshape(2, -1, expected.shape[-1]))


def test_llama_3_2_vision_is_read_as_its_cross_attention_reads_it(tmp_path: Path) -> None:
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 4, "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [0],
        "vision_output_dim": 64, "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1,
    }  # fmt: skip
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 64, "cross_attention_layers": [1], "pad_token_id": 0,
    }  # fmt: skip
    stack = load_visual_stack(tiny("mllama", tmp_path / "mllama", vision, text), device="cpu")
    inputs = {
        "pixel_values": torch.randn(2, 1, 1, 3, 28, 28),
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.int64),
        "aspect_ratio_mask": torch.ones(2, 1, 1, dtype=torch.int64),
    }
    whole: Any = AutoModelForMultimodalLM.from_pretrained(tmp_path / "mllama", dtype=torch.float32).eval()
    read: list[torch.Tensor] = []
    whole.model.multi_modal_projector.register_forward_hook(lambda module, given, made: read.append(made))
    with torch.no_grad():
        features = stack.features(ImageBatch(inputs, 2), ("projector",))["projector"]
        whole(input_ids=torch.ones(2, 3, dtype=torch.int64), **inputs)
    assert torch.equal(features, read[0].reshape(2, -1, read[0].shape[-1]))


def _larger(root: Path) -> None:
    edit_json(
        next(root.glob("*processor_config.json")),
        lambda found: found.get("image_processor", found).update(
            crop_size={"height": 56, "width": 56}, size={"shortest_edge": 56}
        ),
    )


def _deeper(root: Path) -> None:
    edit_json(root / "config.json", lambda found: found.update(vision_feature_layer=-9))


@pytest.mark.parametrize("spoil", [_larger, _deeper])
def test_inspect_tells_what_the_tower_cannot_take(single: Path, spoil: Callable[[Path], None]) -> None:
    """It reads no weights, and finds what `unlearn` would stumble over after reading them."""
    inspect_checkpoint(single)
    spoil(single)
    with pytest.raises(UserError, match="cannot take what the image processor makes"):
        inspect_checkpoint(single)


def test_images_of_the_towers_size_need_no_resizing(single: Path) -> None:
    edit_json(
        next(single.glob("*processor_config.json")),
        lambda found: found.get("image_processor", found).update(do_resize=False, do_center_crop=False),
    )
    inspect_checkpoint(single)
