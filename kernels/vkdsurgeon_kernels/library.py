"""Registration with torch: every operation has a schema, a fake and one kernel per device key.

The operators are opaque to `torch.compile`: a compiled program calls them without a graph break, and which
implementation runs is decided inside, at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "vkdsurgeon"
# Devices beyond these two take the composite key, where only plain PyTorch can run.
DISPATCH_KEYS = ("CPU", "CUDA", "CompositeExplicitAutograd")

_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


def define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> str:
    """Register an operator.

    Args:
        schema: `name(arguments) -> results` in torch's schema language. Give no defaults: autograd formulas see the
            arguments as called.
        kernel: Computes the operator; chooses among its implementations.
        fake: Makes results of the right shape and dtype without data; does nothing for an in-place operator.

    Returns:
        The qualified name, for `register_autograd` and `torch.ops`.
    """
    _LIBRARY.define(schema)
    name = f"{NAMESPACE}::{schema.partition('(')[0]}"
    signature = torch._C.parse_schema(f"{NAMESPACE}::{schema}")
    written = [
        place
        for place, argument in enumerate(signature.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    for key in DISPATCH_KEYS:
        _LIBRARY.impl(name.rpartition("::")[2], _as_torch_would(kernel, written), key)
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    return name


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Give a functional operator its backward formula; see `torch.library.register_autograd`."""
    torch.library.register_autograd(name, backward, setup_context=setup_context, lib=_LIBRARY)


@contextmanager
def surroundings(tensor: Tensor) -> Iterator[None]:
    """The context in which an operator's kernel runs: on the GPU of its tensors, in the dtypes that it states."""
    # Triton launches on the current GPU, which need not be the one that holds the tensors.
    with torch.cuda.device_of(tensor):
        if torch.is_autocast_enabled(tensor.device.type):
            # The caller's autocast would reach the operators inside and halve the precision of sums.
            with torch.autocast(tensor.device.type, enabled=False):
                yield
        else:
            yield


def _as_torch_would(kernel: Callable[..., Any], written: Sequence[int]) -> Callable[..., Any]:
    """The kernel in its `surroundings`, with its writes made known to autograd."""

    def run(*arguments: Any) -> Any:
        with surroundings(next(_tensors(arguments))):
            result = kernel(*arguments)
        # torch does not see what Triton writes: a backward pass through values that moved would be wrong in silence.
        torch.autograd.graph.increment_version(_tensors(arguments[place] for place in written))
        return result

    return run


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, (list, tuple)):
            yield from _tensors(argument)
