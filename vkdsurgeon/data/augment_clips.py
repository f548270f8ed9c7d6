"""Altered copies of clips: who speaks stays, and how it was recorded does not."""

from __future__ import annotations

import numpy as np

from vkdsurgeon.data.augment import generator_of
from vkdsurgeon.data.clips import Clip
from vkdsurgeon.data.samples import Sample

_SPEED, _SHIFT, _GAIN_DB, _NOISE_DB = (0.97, 1.03), 0.05, (-6.0, 6.0), (25.0, 40.0)


def varied_clip(clip: Clip, sample: Sample) -> Clip:
    """The clip as its variant sounds, the same each time and of the same length.

    Played 3 % slower to faster, begun up to a twentieth of a second later, 6 dB quieter to louder, and with white noise
    25 to 40 dB below the sound: usual alterations (speed: Ko et al., Interspeech 2015), much milder. The length stays,
    so that the layout of tokens does.

    Args:
        clip: The original.
        sample: Whose digest and variant decide.
    """
    generator = generator_of(sample)
    length = len(clip.samples)
    places = np.arange(length) * generator.uniform(*_SPEED) - generator.uniform(0.0, _SHIFT) * clip.rate
    made = np.interp(places, np.arange(length), clip.samples, left=0.0, right=0.0)
    made *= 10 ** (generator.uniform(*_GAIN_DB) / 20)
    loudness = float(np.sqrt(np.mean(made**2))) * 10 ** (-generator.uniform(*_NOISE_DB) / 20)
    return Clip((made + loudness * generator.standard_normal(length)).astype(np.float32), clip.rate)
