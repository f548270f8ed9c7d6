"""What lies in a patch file: for each changed tensor a bitmask and the new values, and whole files without weights.

A patch is a safetensors file. Tensor NAME has `mask:NAME` (U8, one bit per element, the first in the lowest bit) and
`values:NAME` (the new values in the tensor's dtype, in row-major order); file PATH has `file:PATH` (U8). With zstd each
of them is one frame of U8. Values that are replaced are nowhere in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vkdsurgeon.checkpoint.read_tensor import TORCH_DTYPES

MASK, VALUES, FILE = "mask:", "values:", "file:"
METADATA_KEY = "vkdsurgeon"
# Level 3 is zstd's own default; higher ones gain under a percent on weights.
_LEVEL = 3

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Change:
    """The new values of one tensor.

    Attributes:
        mask: [elements] bool, True where there is a new value.
        values: [changed, itemsize] uint8, the new values as they lie on disk.
    """

    mask: npt.NDArray[np.bool_]
    values: Bytes

    def laid_over(self, old: bytes | bytearray) -> Bytes:
        """The tensor with its new values, [elements, itemsize] uint8.

        Args:
            old: Its bytes so far.
        """
        new = np.frombuffer(old, dtype=np.uint8).reshape(len(self.mask), -1).copy()
        new[self.mask] = self.values
        return new

    def kept_digest(self, whole: bytes | bytearray) -> str:
        """SHA-256 of the elements that stay, in hex.

        Args:
            whole: The tensor's bytes, before or after.
        """
        rows = np.frombuffer(whole, dtype=np.uint8).reshape(len(self.mask), -1)
        return hashlib.sha256(rows[~self.mask].tobytes()).hexdigest()

    def packed_mask(self) -> bytes:
        """The mask, one bit per element."""
        return np.packbits(self.mask, bitorder="little").tobytes()

    def content_digest(self) -> str:
        """SHA-256 of mask and values, in hex."""
        return content_digest(self.packed_mask(), self.values.tobytes())


def content_digest(mask: bytes, values: bytes) -> str:
    """SHA-256 of a packed mask and the values after it, in hex."""
    return hashlib.sha256(mask + values).hexdigest()


def itemsize(dtype: str) -> int:
    """Bytes of an element.

    Args:
        dtype: As safetensors spells it; one that torch can hold.
    """
    return TORCH_DTYPES[dtype].itemsize


def mask_bytes(elements: int) -> int:
    """Length of a packed mask."""
    return (elements + 7) // 8


def compressed(data: bytes) -> bytes:
    """One zstd frame."""
    import pyarrow

    return bytes(pyarrow.Codec("zstd", compression_level=_LEVEL).compress(data, asbytes=True))


def decompressed(data: bytes, size: int) -> bytes:
    """What a zstd frame holds.

    Args:
        data: The frame.
        size: The length that it must come to; no more memory than that is taken.

    Raises:
        OSError: The data is damaged or has the wrong length.
    """
    import pyarrow

    return bytes(pyarrow.Codec("zstd").decompress(data, size, asbytes=True))
