"""Clips of sound on their way to the tower."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt

from vkdsurgeon.data.clips import Clip
from vkdsurgeon.model.images import Preparer


def samples_for(extractor: Any, clip: Clip, *, cut: bool) -> npt.NDArray[np.float32]:
    """A clip at the rate that a feature extractor hears.

    Args:
        extractor: A feature extractor of transformers.
        clip: The clip.
        cut: Whether the extractor leaves out what is beyond its longest clip.

    Raises:
        ValueError: It would leave something out.
    """
    rate = int(extractor.sampling_rate)
    heard = clip.at(rate).samples
    # Whisper's extractor knows its longest clip, Gemma's has it as a default.
    bound = signature(extractor.__call__).parameters.get("max_length")
    most = getattr(extractor, "n_samples", bound.default if bound else None)
    if cut and isinstance(most, int) and len(heard) > most:
        raise ValueError(f"it hears the first {most / rate:g} seconds alone; cut the clip into several")
    return heard


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
        heard = samples_for(self.processor, content, cut=self.settings.get("truncation", True))
        # Where no processor says so, as for the thinker of an Omni model alone, models ask for the mask all the same.
        settings = {
            "return_attention_mask": True,
            **self.settings,
            "sampling_rate": self.processor.sampling_rate,
            "return_tensors": "pt",
        }
        taken = signature(self.processor.__call__).parameters.values()
        if all(each.kind is not each.VAR_KEYWORD for each in taken):
            settings = {each.name: settings[each.name] for each in taken if each.name in settings}
        produced: Mapping[str, Any] = self.processor([heard], **settings)
        return produced

    def blank(self) -> Clip:
        """A second of silence."""
        rate = int(self.processor.sampling_rate)
        return Clip(np.zeros(rate, dtype=np.float32), rate)
