"""Keeps libraries from contacting the hub, whatever the environment says."""

from __future__ import annotations

import os
import sys


def stay_offline() -> None:
    """Keep the libraries of Hugging Face from the network: the checkpoint on disk is all there is."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # It looks at the environment once, when it is imported.
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
