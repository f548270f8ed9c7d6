"""The built-in miniature: drawn people who do not exist, a small LLaVA that knows them, one that never saw some."""

from vkdsurgeon.data.miniature.unpack import MiniaturePaths, read_card, unpack, unpack_generic

__all__ = ["MiniaturePaths", "read_card", "unpack", "unpack_generic"]
