"""Altered copies: small changes, the same each time, of the same size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_subject
from vkdsurgeon.data.augment import variants, varied
from vkdsurgeon.data.samples import Sample


def sample(variant: int = 1, digest: str = "0123456789abcdef" * 4) -> Sample:
    return Sample(Path("/p.png"), "subject", digest, "set:1", variant)


def test_copies_come_after_each_other_and_name_their_variant() -> None:
    first, second = sample(0), sample(0, "f" * 64)
    made = variants([first, second], [1], 2)
    assert [(copy.digest[0], copy.variant) for copy in made] == [("f", 1), ("f", 2)]
    assert variants([first, second], [0, 1], 0) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("size", [(32, 32), (31, 47), (1, 1)])
def test_a_copy_is_a_little_different_and_always_the_same(mode: str, size: tuple[int, int]) -> None:
    image = draw_subject(1, 1).resize(size).convert(mode)
    copy = varied(image, sample())
    assert copy.mode == "RGB"
    assert copy.size == size
    assert np.array_equal(np.asarray(copy), np.asarray(varied(image, sample())))
    if size == (32, 32):
        original = np.asarray(image.convert("RGB"), dtype=float)
        assert 0.5 < np.abs(original - np.asarray(copy, dtype=float)).mean() < 60
        assert not np.array_equal(np.asarray(copy), np.asarray(varied(image, sample(2))))
        assert not np.array_equal(np.asarray(copy), np.asarray(varied(image, sample(1, "e" * 64))))


def test_the_original_is_left_alone() -> None:
    image = draw_subject(2, 1)
    before = image.tobytes()
    varied(image, sample())
    assert image.tobytes() == before
    assert isinstance(image, Image.Image)
