"""Images come out as a person would see them, or are refused before they cost memory."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vkdsurgeon.data.images import open_image
from vkdsurgeon.errors import UserError


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = open_image(path)
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def save(tmp_path: Path, image: Image.Image, name: str = "a.png", **options: object) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("1", (2, 2), 1), "a.png", (255, 255, 255)),
        (Image.new("L", (2, 2), 90), "a.png", (90, 90, 90)),
        (Image.new("LA", (2, 2), (0, 0)), "a.png", (255, 255, 255)),
        (Image.new("RGB", (2, 2), (10, 20, 30)), "a.bmp", (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), "a.png", (10, 20, 30)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "a.png", (255, 255, 255)),
        (Image.new("RGB", (2, 2), (250, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), "a.gif", (250, 20, 30)),
        (Image.new("CMYK", (2, 2), (0, 0, 0, 0)), "a.tif", (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 0x8080, dtype=np.uint16)), "a.png", (128, 128, 128)),
        (Image.fromarray(np.full((2, 2), 65535, dtype=np.int32)), "a.tif", (255, 255, 255)),
    ],
    ids=["1", "L", "LA", "RGB", "RGBA", "RGBA-clear", "P", "CMYK", "I;16", "I"],
)
def test_every_mode_becomes_rgb(tmp_path: Path, image: Image.Image, name: str, expected: tuple[int, ...]) -> None:
    assert pixel(save(tmp_path, image, name)) == expected


def test_a_transparent_palette_entry_shows_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([0, 0, 0] * 256)
    assert pixel(save(tmp_path, image, transparency=0)) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path, image, exif=exif)
    assert open_image(path).size == (2, 4)
    assert pixel(path, 1, 0) == (255, 0, 0)


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in ((200, 0, 0), (0, 200, 0))]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert pixel(path) == (200, 0, 0)


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 11_000, 60_000])
def test_decompression_bombs_are_refused_by_their_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(UserError, match=r"forget\.jsonl:3 .*bomb\.png.*too large"):
        open_image(path, where="forget.jsonl:3")


def test_the_bound_is_exact(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("RGB", (5, 4)))
    assert open_image(path, max_pixels=20).size == (5, 4)
    with pytest.raises(UserError, match="too large"):
        open_image(path, max_pixels=19)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.bmp"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be decoded"):
        open_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="cannot be decoded"):
        open_image(tmp_path / "a.png")


def test_floating_point_pixels_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "a.tif")
    with pytest.raises(UserError, match="floating-point"):
        open_image(path)
    with pytest.raises(UserError, match="does not exist"):
        open_image(tmp_path / "none.png")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["a.png", "a.jpg", "a.gif", "a.webp", "a.tif"]))
def test_damaged_files_give_an_image_or_a_user_error(tmp_path: Path, data: st.DataObject, name: str) -> None:
    path = save(tmp_path, Image.new("RGB", (6, 6), (1, 2, 3)), name)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        mode = open_image(path).mode
    except UserError as error:
        mode, told = "RGB", str(error)
    else:
        told = str(path)
    assert mode == "RGB"
    assert str(path) in told


@pytest.mark.parametrize(
    ("content", "words", "remedy"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "Git LFS pointer", "git lfs pull"),
        (b"<html>not found</html>", "is not an image", None),
        (b"", "is empty", None),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told_by_its_name(tmp_path: Path, content: bytes, words: str, remedy: str | None) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for digest in (None, hashlib.sha256(content).hexdigest()):
        with pytest.raises(UserError, match=words) as refused:
            open_image(path, where="forget.jsonl:3", digest=digest)
        assert "forget.jsonl:3" in str(refused.value)
        assert "object at 0x" not in str(refused.value)
        assert refused.value.remedy is None if remedy is None else remedy in str(refused.value.remedy)
