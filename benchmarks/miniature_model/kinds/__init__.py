"""The architectures that the miniature can be made of."""

from benchmarks.miniature_model.kinds.idefics3 import Idefics3
from benchmarks.miniature_model.kinds.internvl import InternVL
from benchmarks.miniature_model.kinds.kind import Kind
from benchmarks.miniature_model.kinds.llava import Llava
from benchmarks.miniature_model.kinds.mistral3 import Mistral3
from benchmarks.miniature_model.kinds.paligemma import PaliGemma
from benchmarks.miniature_model.kinds.qwen2_vl import Qwen2VL
from benchmarks.miniature_model.kinds.qwen3_vl import Qwen3VL

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Llava(), Qwen2VL(), Idefics3(), PaliGemma(), Qwen3VL(), Mistral3(), InternVL())
}

__all__ = ["KINDS", "Kind"]
