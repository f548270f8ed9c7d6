"""Feature distillation as Triton kernels: several layers, both signs, loss and gradient in one launch.

Bytes per element at bf16: student 2, target 2, gradient 2. `nmse` divides by the target's mean square, which is known
only at the end of a sample: unless the caller gives it, a launch before reads the target once more.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from vkdsurgeon_kernels.distillation.formula import SMALLEST_POWER, SMALLEST_SQUARE
from vkdsurgeon_kernels.launch import LAUNCH_OPTIONS, Variant

_LAYERS_PER_LAUNCH = 8
_TILE = 4096
_WIDEST_TILE = 8192
# Most partial sums of the target's squares per sample and layer: every program of the main launch reads all of them.
_POWER_CHUNKS = 64
_SCALE_BLOCK = 8192
# Programs per sample and layer that scale a gradient. Mostly each only finds that its factor is one, and an H200 takes
# 9 us to start one for every block of a step's 48 images.
_SCALE_PROGRAMS = 8
_FLOAT8_CAPABILITY = (8, 9)
_OPERATION = "feature_distillation"

# A kernel sees no global but a constexpr.
_SMALLEST_POWER = tl.constexpr(SMALLEST_POWER)
_SMALLEST_SQUARE = tl.constexpr(SMALLEST_SQUARE)


@triton.jit
def _of_layer(values, layer, LAYERS: tl.constexpr):
    # The address comes from a chain of selections, not from a table in memory: it keeps its known alignment.
    chosen = values[0]
    for candidate in tl.static_range(1, LAYERS):
        if layer == candidate:
            chosen = values[candidate]
    return chosen


@triton.jit
def _size_of_layer(values, layer, LAYERS: tl.constexpr):
    # A size of 1 arrives as a constant, which cannot be exchanged for another layer's variable.
    chosen = tl.cast(values[0], tl.int32)
    for candidate in tl.static_range(1, LAYERS):
        if layer == candidate:
            chosen = tl.cast(values[candidate], tl.int32)
    return chosen


@triton.jit
def _counting_tokens(mask_ptr, sample, tokens, MASKED: tl.constexpr):
    total = tokens
    if MASKED:
        count = tl.zeros((1024,), tl.int32)
        for start in range(0, tokens, 1024):
            token = start + tl.arange(0, 1024)
            count += tl.load(mask_ptr + sample * tokens + token, token < tokens, other=0).to(tl.int32)
        total = tl.maximum(tl.sum(count), 1)
    return total.to(tl.float32)


@triton.jit
def _rows(mask_ptr, sample, first, tokens, MASKED: tl.constexpr, ROWS: tl.constexpr):
    token = first + tl.arange(0, ROWS)
    exists = token < tokens
    counts = exists
    if MASKED:
        counts = tl.load(mask_ptr + sample * tokens + token, exists, other=0) != 0
    return exists, counts


@triton.jit
def _inverse_norm(squares):
    return tl.where(squares > _SMALLEST_SQUARE, tl.rsqrt(tl.maximum(squares, _SMALLEST_SQUARE)), 0.0)


@triton.jit
def _elementwise_loss(difference, quadratic, huber, SQUARED: tl.constexpr, HUBER: tl.constexpr):
    loss = tl.zeros_like(difference)
    if SQUARED:
        loss += quadratic * difference * difference
    if HUBER:
        absolute = tl.abs(difference)
        inside = tl.minimum(absolute, 1.0)
        loss += huber * inside * (absolute - 0.5 * inside)
    return tl.sum(loss, axis=1)


@triton.jit
def _elementwise_slope(difference, quadratic, huber, SQUARED: tl.constexpr, HUBER: tl.constexpr):
    slope = tl.zeros_like(difference)
    if SQUARED:
        slope += 2.0 * quadratic * difference
    if HUBER:
        slope += huber * tl.minimum(tl.maximum(difference, -1.0), 1.0)
    return slope


@triton.jit
def target_power_kernel(
    target_ptrs,  # LAYERS of [B, N, D]
    mask_ptrs,  # LAYERS of [B, N]
    power_ptrs,  # LAYERS of [B, power_chunks]
    tokens_of,
    width_of,
    power_chunks,
    LAYERS: tl.constexpr,
    MASKED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    layer = tl.program_id(1)
    program = tl.program_id(0)
    sample = (program // power_chunks).to(tl.int64)
    chunk = program % power_chunks
    target_ptr = _of_layer(target_ptrs, layer, LAYERS)
    mask_ptr = _of_layer(mask_ptrs, layer, LAYERS)
    power_ptr = _of_layer(power_ptrs, layer, LAYERS)
    tokens = _size_of_layer(tokens_of, layer, LAYERS)
    width = _size_of_layer(width_of, layer, LAYERS)
    columns = tl.arange(0, BLOCK_D)
    squares = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for first in range(chunk * ROWS, tokens, power_chunks * ROWS):
        _, counts = _rows(mask_ptr, sample, first, tokens, MASKED, ROWS)
        row_ptr = target_ptr + (sample * tokens + first) * width
        for start in range(0, width, BLOCK_D):
            column = start + columns
            at = tl.arange(0, ROWS)[:, None] * width + column[None, :]
            t = tl.load(row_ptr + at, counts[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)
            squares += t * t
    elements = _counting_tokens(mask_ptr, sample, tokens, MASKED) * width.to(tl.float32)
    tl.store(power_ptr + sample * power_chunks + chunk, tl.sum(squares) / elements)


@triton.jit
def distillation_kernel(
    student_ptrs,  # LAYERS of [B, N, D]
    target_ptrs,  # LAYERS of [B, N, D]
    gradient_ptrs,  # LAYERS of [B, N, D]
    mask_ptrs,  # LAYERS of [B, N]
    power_ptrs,  # LAYERS of [B, power_chunks]
    sample_weight_ptr,  # [B]
    loss_ptr,  # [B, LAYERS, chunks]
    tokens_of,
    width_of,
    nmse_of,
    mse_of,
    cosine_of,
    huber_of,
    chunks,
    power_chunks,
    LAYERS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    GRADIENT: tl.constexpr,
    NMSE: tl.constexpr,
    MSE: tl.constexpr,
    COSINE: tl.constexpr,
    HUBER: tl.constexpr,
    WHOLE_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    POWER_BLOCK: tl.constexpr,
):
    layer = tl.program_id(1)
    program = tl.program_id(0)
    sample = (program // chunks).to(tl.int64)
    chunk = program % chunks
    student_ptr = _of_layer(student_ptrs, layer, LAYERS)
    target_ptr = _of_layer(target_ptrs, layer, LAYERS)
    gradient_ptr = _of_layer(gradient_ptrs, layer, LAYERS)
    mask_ptr = _of_layer(mask_ptrs, layer, LAYERS)
    tokens = _size_of_layer(tokens_of, layer, LAYERS)
    width = _size_of_layer(width_of, layer, LAYERS)
    SQUARED: tl.constexpr = NMSE or MSE
    ELEMENTWISE: tl.constexpr = NMSE or MSE or HUBER

    share = 1.0 / _counting_tokens(mask_ptr, sample, tokens, MASKED)
    if WEIGHTED:
        share *= tl.load(sample_weight_ptr + sample)
    per_element = share / width.to(tl.float32)
    quadratic = per_element * 0.0
    if MSE:
        quadratic += _of_layer(mse_of, layer, LAYERS) * per_element
    if NMSE:
        part = tl.arange(0, POWER_BLOCK)
        power_ptr = _of_layer(power_ptrs, layer, LAYERS) + sample * power_chunks
        power = tl.sum(tl.load(power_ptr + part, part < power_chunks, other=0.0))
        quadratic += _of_layer(nmse_of, layer, LAYERS) * per_element / tl.maximum(power, _SMALLEST_POWER)
    huber = _of_layer(huber_of, layer, LAYERS) * per_element
    turning = _of_layer(cosine_of, layer, LAYERS) * share

    first = chunk * ROWS
    exists, counts = _rows(mask_ptr, sample, first, tokens, MASKED, ROWS)
    base = (sample * tokens + first) * width
    row = tl.arange(0, ROWS)[:, None] * width
    columns = tl.arange(0, BLOCK_D)
    if WHOLE_ROWS:
        at = base + row + columns[None, :]
        inside = (columns < width)[None, :]
        s = tl.load(student_ptr + at, counts[:, None] & inside, other=0.0).to(tl.float32)
        t = tl.load(target_ptr + at, counts[:, None] & inside, other=0.0).to(tl.float32)
        loss = tl.zeros((ROWS,), tl.float32)
        slope = tl.zeros((ROWS, BLOCK_D), tl.float32)
        if ELEMENTWISE:
            loss += _elementwise_loss(s - t, quadratic, huber, SQUARED, HUBER)
            slope += _elementwise_slope(s - t, quadratic, huber, SQUARED, HUBER)
        if COSINE:
            s_inverse = _inverse_norm(tl.sum(s * s, axis=1))
            t_inverse = _inverse_norm(tl.sum(t * t, axis=1))
            cosine = tl.sum(s * t, axis=1) * s_inverse * t_inverse
            loss += turning * tl.where(counts, 1.0 - cosine, 0.0)
            along = turning * s_inverse * cosine * s_inverse
            slope += along[:, None] * s - (turning * s_inverse * t_inverse)[:, None] * t
        if GRADIENT:
            tl.store(gradient_ptr + at, slope.to(gradient_ptr.dtype.element_ty), exists[:, None] & inside)
    else:
        loss = tl.zeros((ROWS,), tl.float32)
        s_squares = tl.zeros((ROWS,), tl.float32)
        t_squares = tl.zeros((ROWS,), tl.float32)
        product = tl.zeros((ROWS,), tl.float32)
        for start in range(0, width, BLOCK_D):
            at = base + row + (start + columns)[None, :]
            inside = (start + columns < width)[None, :]
            s = tl.load(student_ptr + at, counts[:, None] & inside, other=0.0).to(tl.float32)
            t = tl.load(target_ptr + at, counts[:, None] & inside, other=0.0).to(tl.float32)
            if ELEMENTWISE:
                loss += _elementwise_loss(s - t, quadratic, huber, SQUARED, HUBER)
            if COSINE:
                s_squares += tl.sum(s * s, axis=1)
                t_squares += tl.sum(t * t, axis=1)
                product += tl.sum(s * t, axis=1)
            elif GRADIENT:
                slope = _elementwise_slope(s - t, quadratic, huber, SQUARED, HUBER)
                tl.store(gradient_ptr + at, slope.to(gradient_ptr.dtype.element_ty), exists[:, None] & inside)
        if COSINE:
            s_inverse = _inverse_norm(s_squares)
            t_inverse = _inverse_norm(t_squares)
            cosine = product * s_inverse * t_inverse
            loss += turning * tl.where(counts, 1.0 - cosine, 0.0)
            along = (turning * s_inverse * cosine * s_inverse)[:, None]
            across = (turning * s_inverse * t_inverse)[:, None]
            if GRADIENT:
                # The norms of a row are known only now; reading it again mostly hits the cache.
                for start in range(0, width, BLOCK_D):
                    at = base + row + (start + columns)[None, :]
                    inside = (start + columns < width)[None, :]
                    s = tl.load(student_ptr + at, counts[:, None] & inside, other=0.0).to(tl.float32)
                    t = tl.load(target_ptr + at, counts[:, None] & inside, other=0.0).to(tl.float32)
                    slope = along * s - across * t
                    if ELEMENTWISE:
                        slope += _elementwise_slope(s - t, quadratic, huber, SQUARED, HUBER)
                    tl.store(gradient_ptr + at, slope.to(gradient_ptr.dtype.element_ty), exists[:, None] & inside)
    tl.store(loss_ptr + (sample * LAYERS + layer) * chunks + chunk, tl.sum(loss))


@triton.jit
def scale_kernel(
    gradient_ptrs,  # LAYERS of [B, elements]
    upstream_ptr,  # [B]
    upstream_stride,
    elements_of,
    chunks,
    LAYERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    layer = tl.program_id(1)
    program = tl.program_id(0)
    sample = (program // chunks).to(tl.int64)
    # As wide as the loss: float32, or float64 for float64 features.
    factor = tl.load(upstream_ptr + sample * upstream_stride)
    if factor != 1.0:
        gradient_ptr = _of_layer(gradient_ptrs, layer, LAYERS)
        elements = _size_of_layer(elements_of, layer, LAYERS)
        for start in range((program % chunks) * BLOCK, elements, chunks * BLOCK):
            element = start + tl.arange(0, BLOCK)
            at = gradient_ptr + sample * elements + element
            gradient = tl.load(at, element < elements, other=0.0).to(factor.dtype)
            tl.store(at, (gradient * factor).to(gradient_ptr.dtype.element_ty), element < elements)


def losses_and_gradients(
    students: list[Tensor],
    targets: list[Tensor],
    token_masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    weights: list[dict[str, float]],
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    """As `reference.losses_and_gradients`, for students in float32, bfloat16 or float16."""
    gradients = [torch.empty_like(student) for student in students] if with_gradient else []
    if sample_weights is not None:
        sample_weights = sample_weights.to(torch.float32).contiguous()
    if targets[0].dtype.itemsize == 1 and not _reads_float8(targets[0].device):
        targets = [target.to(students[0].dtype) for target in targets]
    masks = [mask.contiguous().view(torch.uint8) for mask in token_masks]
    powers = [power.to(torch.float32).contiguous() for power in powers]
    parts = [slice(start, start + _LAYERS_PER_LAUNCH) for start in range(0, len(students), _LAYERS_PER_LAUNCH)]
    losses = [
        _launch(
            students[part], targets[part], masks[part], sample_weights, powers[part], weights[part], gradients[part]
        )
        for part in parts
    ]
    return functools.reduce(torch.add, losses), gradients


def _launch(
    students: list[Tensor],
    targets: list[Tensor],
    masks: list[Tensor],
    sample_weights: Tensor | None,
    powers: list[Tensor],
    weights: list[dict[str, float]],
    gradients: list[Tensor],
) -> Tensor:
    batch, layers = students[0].shape[0], len(students)
    tokens = tuple(student.shape[1] for student in students)
    widths = tuple(student.shape[2] for student in students)
    rows, block, whole, warps = _tile(max(widths))
    nmse, mse, cosine, huber = (
        tuple(terms.get(name, 0.0) for terms in weights) for name in ("nmse", "mse", "cosine", "smooth_l1")
    )
    # Every parameter must be some pointer; the flags keep those that stand in for an absent one from being read.
    mask_ptrs = tuple(masks or students)
    chunks = triton.cdiv(max(tokens), rows)
    power_chunks = 1
    if any(nmse) and not powers:
        power_chunks = min(triton.next_power_of_2(chunks), _POWER_CHUNKS)
        scratch = students[0].new_empty((layers, batch, power_chunks), dtype=torch.float32)
        powers = list(scratch.unbind())
        target_power_kernel[(batch * power_chunks, layers)](
            tuple(targets), mask_ptrs, tuple(powers), tokens, widths, power_chunks,
            LAYERS=layers, MASKED=bool(masks), ROWS=rows, BLOCK_D=block, num_warps=warps, **LAUNCH_OPTIONS,
        )  # fmt: skip
    partial = students[0].new_empty((batch, layers * chunks), dtype=torch.float32)
    distillation_kernel[(batch * chunks, layers)](
        tuple(students), tuple(targets), tuple(gradients or students), mask_ptrs, tuple(powers or students),
        partial if sample_weights is None else sample_weights, partial, tokens, widths, nmse, mse, cosine, huber,
        chunks, power_chunks, LAYERS=layers, WEIGHTED=sample_weights is not None, MASKED=bool(masks),
        GRADIENT=bool(gradients), NMSE=any(nmse), MSE=any(mse), COSINE=any(cosine), HUBER=any(huber),
        WHOLE_ROWS=whole, ROWS=rows, BLOCK_D=block, POWER_BLOCK=power_chunks, num_warps=warps, **LAUNCH_OPTIONS,
    )  # fmt: skip
    return partial.sum(dim=1)


def _reads_float8(device: torch.device) -> bool:
    cuda = device.type == "cuda" and torch.version.hip is None
    return cuda and torch.cuda.get_device_capability(device) >= _FLOAT8_CAPABILITY


def _tile(width: int) -> tuple[int, int, bool, int]:
    """Rows and columns of a tile for the widest layer, whether it holds whole rows, and warps."""
    block = max(triton.next_power_of_2(width), 16)
    if block > _WIDEST_TILE:
        return 1, _TILE, False, 4
    return max(_TILE // block, 1), block, True, 8 if block > _TILE else 4


def scale(gradients: list[Tensor], upstream: Tensor) -> None:
    """Multiply the gradients of each sample by its upstream gradient, in place, without looking at it on the host.

    Args:
        gradients: L contiguous tensors [B, N_l, D_l].
        upstream: [B], any stride. Where it is exactly one nothing is read or written.
    """
    filled = [gradient for gradient in gradients if gradient.numel()]
    for start in range(0, len(filled), _LAYERS_PER_LAUNCH):
        part = tuple(filled[start : start + _LAYERS_PER_LAUNCH])
        batch = part[0].shape[0]
        elements = tuple(gradient.numel() // batch for gradient in part)
        chunks = min(triton.cdiv(max(elements), _SCALE_BLOCK), _SCALE_PROGRAMS)
        scale_kernel[(batch * chunks, len(part))](
            part, upstream, upstream.stride(0), elements, chunks,
            LAYERS=len(part), BLOCK=_SCALE_BLOCK, num_warps=4, **LAUNCH_OPTIONS,
        )  # fmt: skip


_TERMS = {
    "nmse": ("NMSE",),
    "cosine": ("COSINE",),
    "sum": ("NMSE", "MSE", "COSINE", "HUBER"),
}


def variants() -> list[Variant]:
    """Specialisations to compile ahead of time: features 1024 wide, aligned."""
    found = []
    rows, block, _, warps = _tile(1024)
    for dtype in ("bf16", "fp16", "fp32"):
        # 128 bits hold eight 2-byte elements or four 4-byte ones.
        vectors = _TILE // (32 * warps) * (4 if dtype == "fp32" else 2) // 16
        for layers in (1, 4):
            features = (f"*{dtype}",) * layers
            masks, powers = ("*u8",) * layers, ("*fp32",) * layers
            sizes, floats = ("i32",) * layers, ("fp32",) * layers
            aligned = ("target_ptrs", "width_of")
            for masked in (False, True):
                suffix = f"{dtype}-{layers}-layers" + ("-masked" if masked else "")
                for name, terms in _TERMS.items():
                    found.append(
                        Variant(
                            _OPERATION,
                            f"{name}-{suffix}",
                            distillation_kernel,
                            {
                                "student_ptrs": features,
                                "target_ptrs": features,
                                "gradient_ptrs": features,
                                "mask_ptrs": masks,
                                "power_ptrs": powers,
                                "sample_weight_ptr": "*fp32",
                                "loss_ptr": "*fp32",
                                "tokens_of": sizes,
                                "width_of": sizes,
                                "nmse_of": floats,
                                "mse_of": floats,
                                "cosine_of": floats,
                                "huber_of": floats,
                                "chunks": "i32",
                                "power_chunks": "i32",
                            },
                            {
                                "LAYERS": layers,
                                "WEIGHTED": True,
                                "MASKED": masked,
                                "GRADIENT": True,
                                **{flag: flag in terms for flag in _TERMS["sum"]},
                                "WHOLE_ROWS": True,
                                "ROWS": rows,
                                "BLOCK_D": block,
                                "POWER_BLOCK": _POWER_CHUNKS,
                            },
                            (*aligned, "student_ptrs", "gradient_ptrs"),
                            warps,
                            rows * block,
                            loads=2 * vectors,
                            stores=vectors,
                            options=dict(LAUNCH_OPTIONS),
                        )
                    )
                found.append(
                    Variant(
                        _OPERATION,
                        f"power-{suffix}",
                        target_power_kernel,
                        {
                            "target_ptrs": features,
                            "mask_ptrs": masks,
                            "power_ptrs": powers,
                            "tokens_of": sizes,
                            "width_of": sizes,
                            "power_chunks": "i32",
                        },
                        {"LAYERS": layers, "MASKED": masked, "ROWS": rows, "BLOCK_D": block},
                        aligned,
                        warps,
                        rows * block,
                        loads=vectors,
                        options=dict(LAUNCH_OPTIONS),
                    )
                )
            found.append(
                Variant(
                    _OPERATION,
                    f"scale-{dtype}-{layers}-layers",
                    scale_kernel,
                    {
                        "gradient_ptrs": features,
                        "upstream_ptr": "*fp32",
                        "upstream_stride": "i32",
                        "elements_of": sizes,
                        "chunks": "i32",
                    },
                    {"LAYERS": layers, "BLOCK": _SCALE_BLOCK},
                    ("gradient_ptrs", "elements_of"),
                    4,
                    _SCALE_BLOCK,
                    loads=2 * vectors,
                    stores=2 * vectors,
                    options=dict(LAUNCH_OPTIONS),
                )
            )
    return found
