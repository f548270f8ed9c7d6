"""Clips of sound on their way to the tower."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np

from vkdsurgeon.data.clips import Clip
from vkdsurgeon.model.images import Preparer


class ClipPreparer(Preparer):
    """The checkpoint's feature extractor, which makes mel spectrograms; it hears what was resampled to its rate."""

    noun, processor_name, settings_key = "clip", "feature extractor", "audio_kwargs"

    @property
    def loader(self) -> Any:
        """The class of transformers that knows every feature extractor."""
        from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

        return AutoFeatureExtractor

    def process(self, content: Clip) -> Mapping[str, Any]:
        """What the extractor makes of one clip, by the names that the model has for it.

        Raises:
            ValueError: The extractor would cut the clip off.
        """
        rate = int(self.processor.sampling_rate)
        heard = content.at(rate).samples
        most = getattr(self.processor, "n_samples", None)
        if most is not None and len(heard) > most and self.settings.get("truncation", True):
            raise ValueError(f"it hears the first {most / rate:g} seconds alone; cut the clip into several")
        settings = {**self.settings, "sampling_rate": rate, "return_tensors": "pt"}
        taken = signature(self.processor.__call__).parameters.values()
        if all(each.kind is not each.VAR_KEYWORD for each in taken):
            settings = {each.name: settings[each.name] for each in taken if each.name in settings}
        produced: Mapping[str, Any] = self.processor([heard], **settings)
        return produced

    def blank(self) -> Clip:
        """A second of silence."""
        rate = int(self.processor.sampling_rate)
        return Clip(np.zeros(rate, dtype=np.float32), rate)
