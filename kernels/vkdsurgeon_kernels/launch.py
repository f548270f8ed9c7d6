"""What all Triton launches share, and the description of a kernel that is to be compiled ahead of time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FP_FUSION = True
"""Whether a * b + c may become one rounding. Explicit, since Triton 3.10 changes the default and with it last bits."""

LAUNCH_OPTIONS: dict[str, Any] = {"enable_fp_fusion": FP_FUSION}
"""Passed to every launch: `kernel[grid](..., **LAUNCH_OPTIONS)`."""


@dataclass(frozen=True)
class Variant:
    """One specialisation of a kernel, complete enough to compile without a GPU.

    Attributes:
        operation: Key of the operation table.
        name: Unique within the operation, e.g. `nmse-bf16-2-layers`.
        kernel: The `triton.jit` function.
        signature: Parameter name -> type (`*bf16`, `i32`, `fp32`, `constexpr`), a tuple of types for tuple parameters.
        constants: Parameter name -> value, for each `constexpr`.
        aligned: Names of parameters (each of their members, for tuples) that a launch finds divisible by 16.
        num_warps: Launch option.
        elements: Elements of the large tensors that one program handles.
        loads: Least number of 128-bit global loads in the code.
        stores: Least number of 128-bit global stores in the code.
        options: Further launch options.
    """

    operation: str
    name: str
    kernel: Any
    signature: dict[str, str | tuple[str, ...]]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    num_warps: int
    elements: int
    loads: int = 0
    stores: int = 0
    options: dict[str, Any] = field(default_factory=dict)
