"""Feature distillation: how far a student's visual tokens are from their targets, and which way to go."""

from vkdsurgeon_kernels.distillation.functional import DISTANCES, feature_distillation, target_power

__all__ = ["DISTANCES", "feature_distillation", "target_power"]
