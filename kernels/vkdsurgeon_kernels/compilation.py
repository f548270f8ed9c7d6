"""What all uses of `torch.compile` share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch

_NUMBERS = itertools.count()


@lru_cache
def compiled(function: Callable[..., Any], variant: tuple[object, ...]) -> Callable[..., Any]:
    """A function compiled for every size, once for each variant.

    Args:
        function: A plain function.
        variant: Whatever makes torch compile it anew: dtypes, flags, which arguments are None. torch gives up on a
            function after compiling it 8 times, so that every variant needs a code object of its own.
    """
    name = f"{function.__name__}_{next(_NUMBERS)}"
    own = FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)
    # The indices that are used here come from masks of the right shape: checking each one costs a fifth of a step.
    return torch.compile(own, dynamic=True, options={"assert_indirect_indexing": False})
