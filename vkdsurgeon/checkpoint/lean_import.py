"""What transformers imports for every model, and only models that detect objects ever call."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

_NAME = "scipy.optimize"


class _Later(ModuleType):
    """Stands for `scipy.optimize` while it is imported from; the real one is loaded when a function of it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # The import system asks for some that a plain module lacks.
            raise AttributeError(name)
        if name != "linear_sum_assignment":
            sys.modules.pop(_NAME, None)
            return getattr(import_module(_NAME), name)

        def call(*arguments: Any, **named: Any) -> Any:
            return getattr(import_module(_NAME), name)(*arguments, **named)

        return call


def spare_scipy() -> None:
    """Import transformers' losses without `scipy.optimize`, which is a tenth of what `inspect` takes.

    They match boxes with one function of it, and still can.
    """
    if _NAME in sys.modules or "transformers.loss.loss_utils" in sys.modules:
        return
    later = _Later(_NAME)
    sys.modules[_NAME] = later
    try:
        # Another version may have them elsewhere.
        with suppress(ImportError):
            import transformers.loss.loss_utils  # noqa: F401
    finally:
        if sys.modules.get(_NAME) is later:
            del sys.modules[_NAME]
