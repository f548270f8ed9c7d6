"""`torch._dynamo` makes the directory of compiled code as soon as it is imported, and fails where it cannot.

Optimizers of PyTorch and models of transformers import it whether or not anything is ever compiled.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def spare_the_import() -> None:
    """Import `torch._dynamo` although the directory of compiled code cannot be made.

    A trial of `torch.compile` then says what is wrong, and the reference runs; nothing else needs the directory.
    """
    if "torch._dynamo" in sys.modules:
        return
    named = os.environ.get(_VARIABLE)
    try:
        os.makedirs(_default() if named is None else os.path.abspath(named), exist_ok=True)
        return
    except OSError:
        os.environ[_VARIABLE] = tempfile.gettempdir()
    try:
        import torch._dynamo  # noqa: F401
    finally:
        if named is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = named


def _default() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, ModuleNotFoundError, OSError):
        user = f"uid_{os.getuid()}"
    return os.path.join(tempfile.gettempdir(), f"torchinductor_{user}")
