"""Voxtral: a clip is heard in windows of a fixed length, its last one filled up with silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vkdsurgeon.model.families import audio


class Features(audio.Features):
    """As other families, but for the windows."""

    def arranged(self, produced: Mapping[str, Any]) -> Mapping[str, Any]:
        """The windows of a clip one after the other, [windows, mel bands, frames]."""
        # The tower's convolutions halve the frames.
        frames = 2 * self.split.config.audio_config.max_source_positions
        windows = produced["input_features"][0].unflatten(-1, (-1, frames)).movedim(1, 0)
        return {**produced, "input_features": windows}
