"""The visual half of a multimodal LLM, alive; the language model never is."""

from vkdsurgeon.visual.batch import ImageBatch, PreparedImage
from vkdsurgeon.visual.load import load_visual_stack
from vkdsurgeon.visual.stack import VisualStack

__all__ = ["ImageBatch", "PreparedImage", "VisualStack", "load_visual_stack"]
