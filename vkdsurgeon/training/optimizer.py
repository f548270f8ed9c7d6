"""Step sizes that carry over from a tower of width 128 to one of width 1024.

AdamW moves each element by about lr, whatever the element is. How far the output moves then depends on how large the
weight was (rms) and how many of its elements move the same output together (fan-in, of which random directions add up
like the square root). Measured in those units a step means the same at every width: lr = s rms(W) / sqrt(fan-in) for a
matrix or a convolution, lr = 0.004 s for gains and biases, which act on activations of unit size. The dependence on
width is that of maximal-update parametrisation (Yang et al., arXiv 2203.03466), with the rms standing in for what the
initialisation was. Measured: docs/method.md, "Step size".
"""

from __future__ import annotations

from torch.nn import Parameter

_VECTOR = 0.004
# A matrix of zeros has no scale of its own, and its owner meant it to learn.
_SMALLEST_RMS = 1e-3


def unit_step(parameter: Parameter) -> float:
    """Learning rate of one parameter at `step_size` 1.

    Args:
        parameter: A weight [out, in, ...] or a vector.
    """
    if parameter.dim() < 2 or parameter.numel() == 0:
        return _VECTOR
    rms = float(parameter.detach().float().square().mean().sqrt())
    fan_in = parameter[0].numel()
    return float(max(rms, _SMALLEST_RMS) / fan_in**0.5)
