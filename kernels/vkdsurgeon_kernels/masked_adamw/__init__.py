"""AdamW that moves the selected elements only and keeps state for nothing else."""

from vkdsurgeon_kernels.masked_adamw.optimizer import MaskedAdamW
from vkdsurgeon_kernels.masked_adamw.rows import restrict_weight_gradients

__all__ = ["MaskedAdamW", "restrict_weight_gradients"]
