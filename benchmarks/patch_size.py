"""How large a patch is beside its checkpoint, and what it takes to write and apply it.

    python -m benchmarks.patch_size BASE PATCHED        # two checkpoints
    python -m benchmarks.patch_size --synthetic 7       # of the shapes of LLaVA-1.5-7B (or 1, a small one), made here

The synthetic checkpoint has random visual weights in bfloat16, of which a tenth is changed, and a language model of
zeros, which most file systems keep as holes: 14 GB are read and need no such disk. It is exported; with `--apply` the
patch is applied to a copy, which is verified, and in place, which needs the disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vkdsurgeon.patch.apply import apply_patches
from vkdsurgeon.patch.export import export_patch
from vkdsurgeon.patch.in_place import apply_in_place
from vkdsurgeon.patch.state import verify_patches

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
    """Print a line per kind of compression and of use, with the most memory that the process has taken so far."""
    for compression in ("none", "zstd"):
        fix = folder / f"{compression}.safetensors"
        with _timed(f"export, {compression}"):
            found = export_patch(base, patched, fix, compression="zstd" if compression == "zstd" else "none")
        assert found.model_bytes is not None
        print(
            f"{compression}: {found.bytes:,} of {found.model_bytes:,} bytes ({found.bytes / found.model_bytes:.2%}), "
            f"{found.elements:,} values in {found.tensors} tensors",
            flush=True,
        )
    if apply:
        with _timed("apply to a copy"):
            apply_patches(base, [fix], folder / "out")
        with _timed("verify the copy"):
            assert verify_patches(folder / "out", [fix]).state == "result"
        with _timed("apply in place"):
            apply_in_place(base, [fix])


@contextmanager
def _timed(what: str) -> Iterator[None]:
    started, ran = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{what}: {time.perf_counter() - started:.0f} s on the clock, {time.process_time() - ran:.0f} s of processor "
        f"time; peak so far {peak:,.0f} MiB, libraries included",
        flush=True,
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="BASE PATCHED")
    parser.add_argument("--synthetic", type=int, choices=sorted(SHAPES))
    parser.add_argument("--apply", action="store_true", help="apply the patch to the synthetic base, twice")
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
