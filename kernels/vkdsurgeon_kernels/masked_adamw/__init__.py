"""AdamW that moves the selected elements only and keeps state for nothing else."""

from vkdsurgeon_kernels.masked_adamw.optimizer import MaskedAdamW

__all__ = ["MaskedAdamW"]
