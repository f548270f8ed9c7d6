"""Visual unlearning for multimodal checkpoints: make a model forget what someone or something looks like.

    from vkdsurgeon import evaluate, unlearn

All public names are in `vkdsurgeon.api`; they are looked up there on first use. Importing this package loads neither
torch nor transformers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vkdsurgeon.api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    import importlib

    api = importlib.import_module("vkdsurgeon.api")
    public = [*api.__all__, "__version__"]
    if name == "__all__":
        return public
    if name not in public:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(api, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))
