"""The architectures that the miniature can be made of."""

from vkdsurgeon.personas.kinds.idefics3 import Idefics3
from vkdsurgeon.personas.kinds.kind import Kind
from vkdsurgeon.personas.kinds.llava import Llava
from vkdsurgeon.personas.kinds.paligemma import PaliGemma
from vkdsurgeon.personas.kinds.qwen2_vl import Qwen2VL

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Llava(), Qwen2VL(), Idefics3(), PaliGemma())}

__all__ = ["KINDS", "Kind"]
