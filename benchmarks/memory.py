"""What memory unlearning takes at real sizes, by the tool's own estimate: the tables of docs/tutorials/hardware.md.

    python -m benchmarks.memory [--out FILE]

Nothing is trained and nothing is downloaded. For each model a checkpoint of its published shape is written as sparse
files of zeros, which take no room on the disk; then the estimates of `unlearn --dry-run` are asked, for 40 forget and
200 retain images of 448 x 336. Activations are those that one image leaves in the real tower, the rest follows from
sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import CONFIG_MAPPING, AutoModelForMultimodalLM

from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.samples import Sample
from vkdsurgeon.decoder_pass import plan as decoder_plan
from vkdsurgeon.model.decoder_layers import find_decoder_weights
from vkdsurgeon.model.features import SampleSet
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.vision_pass.depth import limit_depth
from vkdsurgeon.vision_pass.plan import estimate_memory

FORGET, RETAIN, SIZE = 40, 200, (448, 336)
MICRO_BATCHES = (Recipe.model_fields["micro_batch"].default, 2)
_MOST_BYTES_PER_FILE = 8 << 30


def _qwen2_vl(text: dict[str, int]) -> tuple[Any, Any]:
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": text["hidden_size"], "num_heads": 16, "mlp_ratio": 4}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24], "type": "default"}
    config = CONFIG_MAPPING["qwen2_vl"](
        vision_config={"model_type": "qwen2_vl", "patch_size": 14, **vision},
        text_config={"model_type": "qwen2_vl_text", **text, "rope_parameters": rope, "rope_scaling": rope},
        image_token_id=151655, video_token_id=151656, vision_start_token_id=151652, vision_end_token_id=151653,
    )  # fmt: skip
    return config, transformers.Qwen2VLImageProcessorPil()


def _qwen2_vl_2b() -> tuple[Any, Any]:
    return _qwen2_vl(
        {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
            "num_key_value_heads": 2, "vocab_size": 151936,
        }
    )  # fmt: skip


def _qwen2_vl_72b() -> tuple[Any, Any]:
    return _qwen2_vl(
        {
            "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "vocab_size": 152064,
        }
    )  # fmt: skip


def _llava_7b() -> tuple[Any, Any]:
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
    }  # fmt: skip
    text = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
    }  # fmt: skip
    config = CONFIG_MAPPING["llava"](
        vision_config=vision, text_config=text, image_token_index=32000, vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    return config, transformers.CLIPImageProcessorPil(**size)


MODELS = {"Qwen2-VL 2B": _qwen2_vl_2b, "LLaVA-1.5 7B": _llava_7b, "Qwen2-VL 72B": _qwen2_vl_72b}


def write_zeros(config: Any, processor: Any, root: Path) -> None:
    """Write a bfloat16 checkpoint of zeros, as sparse safetensors files and their index."""
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(config, dtype=torch.bfloat16)
    config.save_pretrained(root)
    processor.save_pretrained(root)
    shards: list[dict[str, Any]] = [{}]
    end, weight_map = 0, {}
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        if end + tensor.nbytes > _MOST_BYTES_PER_FILE:
            shards.append({})
            end = 0
        shards[-1][name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    for number, header in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
        text += b" " * (-len(text) % 8)
        with (root / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + max(entry["data_offsets"][1] for entry in header.values()))
        weight_map |= dict.fromkeys(header, file)
    (root / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def estimates(name: str, place: Path) -> dict[str, Any]:
    """The estimates of one model, in GiB: visual pass at two `micro_batch`es, decoder pass on a GPU."""
    root = place / "model"
    root.mkdir()
    config, processor = MODELS[name]()
    write_zeros(config, processor, root)
    stack = load_visual_stack(root, device="cpu")
    image = place / "image.png"
    Image.effect_noise(SIZE, 60).convert("RGB").save(image)
    sets = [_samples(stack, image, number) for number in (FORGET, RETAIN)]
    weights = sum(parameter.numel() for parameter in stack.visual_parameters().values())
    trained = sum(parameter.numel() for parameter in limit_depth(stack, Recipe().depth).values())
    visual = {}
    for micro_batch in MICRO_BATCHES:
        recipe = Recipe(micro_batch=micro_batch)
        memory, shape = estimate_memory(stack, *sets, recipe, round(recipe.density * trained))
        parts = vars(memory) | {"total": memory.total}
        visual[f"micro_batch {micro_batch}"] = {key: round(value / 1024, 2) for key, value in parts.items()}
    found = find_decoder_weights(stack.inventory, stack.split, DecoderRecipe().blocks)
    decoder = decoder_plan.estimate_memory(
        stack.inventory, found, DecoderRecipe(), stack.split.config, torch.bfloat16, True
    )
    return {
        "model": name,
        "elements": sum(entry.elements for entry in stack.inventory.tensors.values()),
        "visual_elements": weights,
        "features": list(shape),
        "visual_gib": visual,
        "decoder_gib": {key: round(value / 1024, 2) for key, value in decoder.items()},
    }


def _samples(stack: VisualStack, path: Path, number: int) -> SampleSet:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    samples = [Sample(path, f"subject {index}", digest, f"image:{index}") for index in range(number)]
    return SampleSet(stack, samples, 1 << 30)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON line per model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as place:
            line = json.dumps(estimates(name, Path(place)))
        print(line, flush=True)
        if chosen.out:
            with chosen.out.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
