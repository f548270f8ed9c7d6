"""Saliency: which weights the forget set pulls on hardest."""

from vkdsurgeon_kernels.saliency.functional import GRANULARITIES, accumulate_scores, select_top_fraction

__all__ = ["GRANULARITIES", "accumulate_scores", "select_top_fraction"]
