"""A checkpoint that names another processor than its family's is prepared as that one prepares."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.miniature_model.kinds import KINDS
from benchmarks.miniature_model.model import Shape, save_checkpoint
from benchmarks.miniature_model.pen import SIDE
from vkdsurgeon.model.load_vision import load_visual_stack


def test_the_processor_that_is_named_decides_what_is_asked_of_the_image_processor(tmp_path: Path) -> None:
    """InternVL's own asks for tiles, which the CLIP processor beside this tower knows nothing of."""
    kind = KINDS["internvl"]
    tokenizer = kind.build_tokenizer(["word"])
    save_checkpoint(
        kind.build_model(tokenizer, Shape(32, 2, 48, 2, 32, 2, 48, 2)), kind.build_processor(tokenizer), tmp_path
    )
    prepared = load_visual_stack(tmp_path, device="cpu").prepare(Image.new("RGB", (SIDE, SIDE)))
    assert prepared.inputs["pixel_values"].shape == (1, 3, SIDE, SIDE)
