"""Saliency: which weights the forget set pulls on hardest."""

from vkdsurgeon_kernels.saliency.face import accumulate_scores, select_top_fraction

__all__ = ["accumulate_scores", "select_top_fraction"]
