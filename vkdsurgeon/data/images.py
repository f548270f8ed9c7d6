"""Images from untrusted files: bounded, fully decoded, always RGB."""

from __future__ import annotations

import io
import threading
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vkdsurgeon.data.content import POINTER, no_content, same_as_before
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

MAX_PIXELS = 64_000_000
MAX_RATIO = 200
# An allow-list: other decoders of Pillow start programs (EPS) or are seldom exercised.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "PCX", "SGI", "ICO")
# Those that are told by their content for certain.
_MARKED = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000")
# Filters of warnings belong to the process, and images are opened by several threads.
_FILTERING = threading.Lock()
_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def open_image(
    path: Path, *, where: str | None = None, max_pixels: int = MAX_PIXELS, digest: str | None = None
) -> Image.Image:
    """Decode one image as a person would see it.

    Args:
        path: The file.
        where: `file:line` of the record that names it, for messages.
        max_pixels: Bound on width x height, checked before anything is decoded.
        digest: SHA-256 that the file's bytes had when the set was read, in hex.

    Returns:
        An RGB image in memory: first frame of an animation, EXIF orientation applied, transparency over white,
        16-bit grey scaled to 8 bits.

    Raises:
        UserError: The file is missing, no image, truncated, too large or has floating-point pixels.
        SurgeryError: The file was changed after the set was read.
    """
    place = f"{where} ({path})" if where else str(path)
    source = path if digest is None else same_as_before(path, place, digest, "image")
    opened = _opened(source, place, max_pixels)
    with opened:
        _check_size(opened.size, place, max_pixels)
        try:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            if upright.mode == "F":
                raise UserError(
                    "the image has floating-point pixels without a known white value",
                    where=place,
                    expected="8 or 16 bits",
                    remedy="save it with 8 or 16 bits",
                )
            return _to_rgb(upright, place)
        except UserError:
            raise
        except OSError as error:
            raise machine_or(_unreadable(place, error), error) from None
        except Exception as error:
            raise _unreadable(place, error) from None


@cache
def _known(formats: tuple[str, ...]) -> tuple[str, ...]:
    # Without this Pillow knows a handful; which others it can decode depends on how it was built.
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _opened(source: Path | io.BytesIO, place: str, max_pixels: int) -> Image.Image:
    try:
        # Pillow's own limit is a global that only warns in a range; ours is checked by the caller.
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(source, formats=_known(_FORMATS))
    except FileNotFoundError:
        raise UserError("the image does not exist", where=place) from None
    except Image.DecompressionBombError:
        raise UserError("the image is too large", where=place, expected=f"at most {max_pixels} pixels") from None
    except OSError as error:
        if error.errno is None:
            raise _unreadable(place, error, source) from None
        # Nothing is wrong with the image itself.
        raise machine_or(UserError("the image cannot be read", where=place, value=error.strerror), error) from None
    except Exception as error:
        # Pillow's parsers raise nearly any exception on hostile files.
        raise _unreadable(place, error) from None


def check_header(path: Path, *, where: str) -> tuple[str, tuple[int, int]]:
    """Look at an image's header alone.

    Args:
        path: The file.
        where: `file:line` of the record that names it, for messages.

    Returns:
        Its mode and size.

    Raises:
        UserError: As `open_image`, as far as the header tells.
    """
    place = f"{where} ({path})"
    with _opened(path, place, MAX_PIXELS) as opened:
        _check_size(opened.size, place, MAX_PIXELS)
        return opened.mode, opened.size


def looks_like_an_image(path: Path) -> bool:
    """Whether a file's content says that it is an image, whatever its name says."""
    try:
        with _FILTERING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=_known(_MARKED)).close()
    except Exception:
        # Pillow's parsers raise nearly any exception on what is none.
        return False
    return True


def _check_size(size: tuple[int, int], place: str, max_pixels: int) -> None:
    if min(size) < 1:
        raise UserError("the image has no pixels", where=place, value=list(size))
    if size[0] * size[1] > max_pixels:
        raise UserError(
            "the image is too large", where=place, value=list(size), expected=f"at most {max_pixels} pixels"
        )
    if max(size) > MAX_RATIO * min(size):
        # Processors scale the shorter side up to hundreds of pixels, and the longer one with it.
        raise UserError(
            "the image is too long and narrow",
            where=place,
            value=list(size),
            expected=f"one side at most {MAX_RATIO} times as long as the other",
        )


def _unreadable(place: str, error: Exception, source: Path | io.BytesIO | None = None) -> UserError:
    if isinstance(error, UnidentifiedImageError):
        # What Pillow says names an object in memory.
        return _no_image(place, _beginning(source))
    return UserError(
        f"the image cannot be decoded: {type(error).__name__}: {error}",
        where=place,
        expected=f"a whole file in one of {', '.join(_FORMATS)}",
    )


def _no_image(place: str, beginning: bytes) -> UserError:
    if beginning.startswith(POINTER):
        return no_content(place, "image")
    return UserError(
        f"the image cannot be decoded: the file {'is not an image of a known format' if beginning else 'is empty'}",
        where=place,
        value=beginning[:16] or None,
        expected=f"a whole file in one of {', '.join(_FORMATS)}",
    )


def _beginning(source: Path | io.BytesIO | None) -> bytes:
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return file.read(len(POINTER))
        return b"" if source is None else source.getvalue()[: len(POINTER)]
    except OSError:
        return b""


def _to_rgb(image: Image.Image, place: str) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        if image.mode == "I" and values.max() > 65535:
            raise UserError(
                "the image has 32-bit pixels without a known white value",
                where=place,
                value=int(values.max()),
                expected="8 or 16 bits",
                remedy="save it with 8 or 16 bits",
            )
        values = np.clip(values, 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()
