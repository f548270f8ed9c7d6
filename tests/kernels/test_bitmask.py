"""One bit per element."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vkdsurgeon_kernels.bitmask import BLOCK, BitMask, word_count

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [(), (1,), (31,), (32,), (33,), (1023,), (1024,), (1025,), (63, 100), (2, 3, 577), (0,), (5, 0)]


def drawn(shape: tuple[int, ...], density: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=60, deadline=None)
@given(shape=st.sampled_from(SHAPES), density=st.sampled_from([0.0, 0.01, 0.5, 1.0]), seed=st.integers(0, 99))
def test_bits_say_what_bools_say(device, shape, density, seed):
    truth = drawn(shape, density, seed)
    mask = BitMask.from_bool(truth.to(device))
    assert torch.equal(mask.to_bool().cpu(), truth)
    assert mask.words.shape == (word_count(truth.numel()),)
    assert mask.words.dtype == torch.int32
    assert mask.count == int(truth.sum())
    assert mask.density == pytest.approx(float(truth.float().mean()) if truth.numel() else 0.0)
    assert torch.equal(mask.indices().cpu(), truth.reshape(-1).nonzero().view(-1).to(torch.int32))
    blocks = [int(part.sum()) for part in truth.reshape(-1).split(BLOCK)] if truth.numel() else []
    assert mask.block_counts.tolist() == blocks


def test_bit_i_of_word_w_is_element_32_w_plus_i():
    flags = torch.zeros(3000, dtype=torch.bool)
    flags[[0, 31, 32, 1024 + 33, 2999]] = True
    words = BitMask.from_bool(flags).words.tolist()
    set_bits = [32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1]
    assert set_bits == [0, 31, 32, 1024 + 33, 2999]
    assert len(words) == 3 * BLOCK // 32, "padded to whole blocks"


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_order_is_row_major_whatever_the_strides(layout):
    plain = drawn((40, 60), 0.3)
    other = plain.t().contiguous().t() if layout == "transposed" else plain.repeat_interleave(2, dim=1)[:, ::2]
    assert not other.is_contiguous()
    assert BitMask.from_bool(other) == BitMask.from_bool(plain)


def test_whole_rows_are_found_and_only_those():
    rows = torch.tensor([True, False, True, True])
    assert BitMask.from_bool(rows.unsqueeze(1).expand(4, 7)).rows().tolist() == [0, 2, 3]
    assert BitMask.from_bool(torch.zeros(4, 7, dtype=torch.bool)).rows().tolist() == []
    broken = rows.unsqueeze(1).repeat(1, 7)
    broken[1, 3] = True
    assert BitMask.from_bool(broken).rows() is None
    broken[1, 3] = False
    broken[0, 0] = False
    assert BitMask.from_bool(broken).rows() is None
    assert BitMask.from_bool(rows).rows() is None, "a vector has no rows"


def test_masks_are_equal_by_bits_and_shape():
    flags = drawn((6, 8), 0.5)
    mask = BitMask.from_bool(flags)
    assert mask == BitMask.from_bool(flags.clone())
    assert mask != BitMask.from_bool(~flags)
    assert mask != BitMask.from_bool(flags.view(8, 6))
    assert mask != flags
    assert mask.to("cpu") == mask
    assert repr(mask) == f"BitMask((6, 8), {int(flags.sum())} selected, cpu)"


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        (torch.zeros(31, dtype=torch.int32), (1024,), r"\[32\] int32 words, got \(31,\)"),
        (torch.zeros(32, dtype=torch.int32), (1025,), r"\[64\] int32 words"),
        (torch.zeros(32, dtype=torch.int64), (1024,), "torch.int64"),
        (torch.zeros(1, 32, dtype=torch.int32), (1024,), r"got \(1, 32\)"),
    ],
)
def test_words_must_fit_the_shape(words, shape, message):
    with pytest.raises(ValueError, match=message):
        BitMask(words, shape)


def test_only_bools_are_packed():
    with pytest.raises(ValueError, match=r"bool tensor, got torch\.uint8"):
        BitMask.from_bool(torch.ones(3, dtype=torch.uint8))
