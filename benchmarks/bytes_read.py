"""How much of a checkpoint is read, and how much memory is held, on a model whose language part dwarfs the visual part.

    python benchmarks/bytes_read.py [--language-mib 1200] [--work DIR]

Builds a random LLaVA (bfloat16, several shards), runs the main job on it, and prints one JSON line: bytes read through
system calls (`rchar` of /proc/self/io, Linux) before staging starts, against the bytes of the visual tensors, headers
and images; and the peak resident memory of each stage. Everything is imported and run once on a tiny checkpoint
first, so that importing libraries is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

# torch.compile reads hundreds of megabytes of its own code and caches, which are not the checkpoint's.
os.environ["TORCH_COMPILE_DISABLE"] = "1"

import torch
from transformers import AutoModelForMultimodalLM, CLIPVisionConfig, LlamaConfig, LlavaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.conftest import write_set
from tests.families import build_checkpoint
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate

RECIPE = Recipe(steps=2, extensions=0, forget_batch=4, retain_batch=4)
MIB = 1 << 20


def bytes_read() -> int:
    """Bytes that this process has read through system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def peak_mib(reset: bool = False) -> float:
    """Peak resident memory since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def build_large(root: Path, language_mib: int) -> None:
    """A LLaVA with about 80 MB of visual weights and a language model of the given size."""
    layer = 4 * 1024**2 + 3 * 1024 * 2816
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, image_size=28,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=1000, hidden_size=1024, intermediate_size=2816, num_attention_heads=8,
            num_hidden_layers=max(1, language_mib * MIB // 2 // layer),
        ),
        image_token_id=999,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForMultimodalLM.from_config(config).save_pretrained(root, max_shard_size="300MB")
    torch.set_default_dtype(torch.float32)


def main() -> None:
    """Build, run, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--language-mib", type=int, default=1200)
    parser.add_argument("--work", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        place = Path(scratch)
        forget = write_set(place, "forget", range(2))
        retain = write_set(place, "retain", range(10, 14))
        tiny = build_checkpoint("llava", place / "tiny", dtype=torch.bfloat16)
        large = place / "large"
        build_large(large, arguments.language_mib)
        for name in ("preprocessor_config.json",):
            (large / name).write_bytes((tiny / name).read_bytes())

        def job(model: Path) -> Job:
            sets = [samples_of(read_records(path, role="set"), role="set") for path in (forget, retain)]
            return Job(model, *sets, [], RECIPE)

        operate(prepare(job(tiny)), unheard)

        before_mib, start = peak_mib(reset=True), bytes_read()
        prepared = prepare(job(large))
        outcome = operate(prepared, unheard)
        read, working_mib = bytes_read() - start, peak_mib()

        inventory, split = prepared.stack.inventory, prepared.stack.split
        visual = sum(inventory.tensors[name].nbytes for name in (*split.tower, *split.projector))
        tensors = sum(entry.nbytes for entry in inventory.tensors.values())
        headers = sum((large / shard).stat().st_size for shard in inventory.shards) - tensors
        small = sum(file.size for file in inventory.files if file.path.endswith(".json"))
        images = sum(path.stat().st_size for path in place.rglob("*.png"))
        budget = visual + headers + small + images

        del prepared
        peak_mib(reset=True)
        report = write_patched(take_inventory(large), outcome.changes, place / "patched")
        print(
            json.dumps(
                {
                    "checkpoint_bytes": inventory.size,
                    "visual_bytes": visual,
                    "header_json_and_picture_bytes": headers + small + images,
                    "bytes_read_before_staging": read,
                    "read_over_budget": round(read / budget, 3),
                    "resident_mib_before": round(before_mib),
                    "peak_mib_until_staging": round(working_mib),
                    "peak_mib_while_writing": round(peak_mib()),
                    "write_seconds": round(report.seconds, 2),
                    "elements_changed": report.elements_changed,
                }
            )
        )


if __name__ == "__main__":
    main()
