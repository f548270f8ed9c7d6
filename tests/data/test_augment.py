"""Altered copies: small changes, the same each time, of the same size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import draw_subject
from vkdsurgeon.data.augment import FREELY, variants, varied
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
@pytest.mark.parametrize("number", [1, FREELY + 1])
def test_a_copy_is_a_little_different_and_always_the_same(mode: str, size: tuple[int, int], number: int) -> None:
    image = draw_subject(1, 1).resize(size).convert(mode)
    copy = varied(image, sample(number))
    assert copy.mode == "RGB"
    assert copy.size == size
    assert np.array_equal(np.asarray(copy), np.asarray(varied(image, sample(number))))
    if size == (32, 32):
        original = np.asarray(image.convert("RGB"), dtype=float)
        assert 0.5 < np.abs(original - np.asarray(copy, dtype=float)).mean() < 60
        assert not np.array_equal(np.asarray(copy), np.asarray(varied(image, sample(number + 1))))
        assert not np.array_equal(np.asarray(copy), np.asarray(varied(image, sample(number, "e" * 64))))


def test_the_original_is_left_alone() -> None:
    image = draw_subject(2, 1)
    before = image.tobytes()
    varied(image, sample())
    assert image.tobytes() == before
    assert isinstance(image, Image.Image)


@given(st.tuples(st.integers(1, 90), st.integers(1, 90)), st.integers(FREELY + 1, FREELY + 200))
def test_turning_shows_nothing_that_is_not_in_the_image(size: tuple[int, int], number: int) -> None:
    """No black corners: a forgotten person would be told by them."""
    made = np.asarray(varied(Image.new("RGB", size, (200, 200, 200)), sample(number)), dtype=int)
    assert made.min() > 150
    assert np.ptp(made) <= 2


def test_what_is_turned_is_seen_from_other_sides() -> None:
    """Over many copies a mark in a corner moves both ways along the edge."""
    image = Image.new("L", (64, 64), 255)
    image.paste(0, (28, 4, 36, 12))
    places = []
    for number in range(FREELY + 1, FREELY + 40):
        dark = 255 - np.asarray(varied(image, sample(number)).convert("L"), dtype=float)
        places.append(float((dark.sum(axis=0) * np.arange(64)).sum() / dark.sum()) - 31.5)
    assert min(places) < -6
    assert max(places) > 6
