"""How large a patch is beside its checkpoint, and what it takes to write and apply it.

    python -m benchmarks.patch_size BASE PATCHED        # two checkpoints
    python -m benchmarks.patch_size --synthetic 7       # of the shapes of LLaVA-1.5-7B (or 1, a small one), made here

The synthetic checkpoint has random visual weights in bfloat16, of which a tenth is changed, and a language model of
zeros, which most file systems keep as holes: 14 GB are read and need no such disk. It is exported, and applied in
place to a copy with `--apply`, which needs the disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from vkdsurgeon.patch.export import export_patch
from vkdsurgeon.patch.in_place import apply_in_place

# hidden size, width of the MLP, layers; of the tower and of the language model, and the vocabulary.
SHAPES = {7: ((1024, 4096, 24), (4096, 11008, 32), 32064), 1: ((768, 3072, 12), (2048, 5632, 16), 32064)}
SHARE = 0.1


def synthetic(root: Path, size: int, seed: int) -> None:
    """Write a checkpoint; with seed 1 a share of the visual weights is another than with seed 0."""
    (hidden, wide, layers), (width, mlp, depth), words = SHAPES[size]
    visual = {"multi_modal_projector.1": (width, hidden), "multi_modal_projector.2": (width, width)}
    for layer in range(layers):
        visual |= {f"vision_tower.{layer}.{name}": (hidden, hidden) for name in "qkvo"}
        visual |= {f"vision_tower.{layer}.up": (wide, hidden), f"vision_tower.{layer}.down": (hidden, wide)}
    language = {"language_model.embed": (words, width), "language_model.head": (words, width)}
    for layer in range(depth):
        language |= {f"language_model.{layer}.{name}": (width, width) for name in "qkvo"}
        language |= {f"language_model.{layer}.{name}": (mlp, width) for name in ("gate", "up")}
        language[f"language_model.{layer}.down"] = (width, mlp)
    root.mkdir()
    (root / "config.json").write_text('{"model_type": "llava"}')
    header, end = {}, 0
    for name, shape in (*visual.items(), *language.items()):
        begin, end = end, end + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (root / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for index, shape in enumerate(visual.values()):
            values = np.random.default_rng(index).normal(0, 0.02, shape).astype(np.float32).reshape(-1)
            if seed:
                drawn = np.random.default_rng(10_000 + index)
                values[drawn.random(values.size) < SHARE] *= 1.01 + drawn.random()
            stream.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
        stream.truncate(8 + len(text) + end)


def measure(base: Path, patched: Path, folder: Path, *, apply: bool) -> None:
    """Print a line per kind of compression."""
    for compression in ("none", "zstd"):
        fix = folder / f"{compression}.safetensors"
        started = time.perf_counter()
        found = export_patch(base, patched, fix, compression="zstd" if compression == "zstd" else "none")
        took = time.perf_counter() - started
        assert found.model_bytes is not None
        print(
            f"{compression}: {found.bytes:,} of {found.model_bytes:,} bytes ({found.bytes / found.model_bytes:.2%}), "
            f"{found.elements:,} values in {found.tensors} tensors; exported in {took:.0f} s",
            flush=True,
        )
    if apply:
        started = time.perf_counter()
        apply_in_place(base, [folder / "zstd.safetensors"])
        print(f"applied in place in {time.perf_counter() - started:.0f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process {peak:,.0f} MiB, libraries included")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="BASE PATCHED")
    parser.add_argument("--synthetic", type=int, choices=sorted(SHAPES))
    parser.add_argument("--apply", action="store_true", help="apply the patch to the synthetic base in place")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.synthetic is None:
            base, patched = given.models
            measure(base, patched, folder, apply=False)
            return
        base, patched = folder / "base", folder / "patched"
        for seed, root in enumerate((base, patched)):
            synthetic(root, given.synthetic, seed)
        measure(base, patched, folder, apply=given.apply)


if __name__ == "__main__":
    main()
