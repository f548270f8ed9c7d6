"""Three operations of visual unlearning, each with interchangeable implementations behind one public function.

`feature_distillation` is the loss, `MaskedAdamW` the step, `accumulate_scores` / `select_top_fraction` the saliency
mask. Which implementation runs is decided by device and workload (`backend.choose`) and is nobody else's business.
"""

from vkdsurgeon_kernels.backend import Choice, choose, implementations
from vkdsurgeon_kernels.bitmask import BitMask
from vkdsurgeon_kernels.distillation import DISTANCES, feature_distillation, target_power
from vkdsurgeon_kernels.masked_adamw import MaskedAdamW, restrict_weight_gradients
from vkdsurgeon_kernels.saliency import accumulate_scores, select_top_fraction

__all__ = [
    "DISTANCES",
    "BitMask",
    "Choice",
    "MaskedAdamW",
    "accumulate_scores",
    "choose",
    "feature_distillation",
    "implementations",
    "restrict_weight_gradients",
    "select_top_fraction",
    "target_power",
]
