"""Feature distillation: how far a student's visual tokens are from their targets, and which way to go."""

from vkdsurgeon_kernels.distillation.face import DISTANCES, feature_distillation, target_power
from vkdsurgeon_kernels.distillation.fused_linear import fused_linear_distillation

__all__ = ["DISTANCES", "feature_distillation", "fused_linear_distillation", "target_power"]
