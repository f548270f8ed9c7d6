"""What a model's sight and its hearing are called in transformers."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.data.modality import Modality


@dataclass(frozen=True)
class Sense:
    """How the tower of one modality is found.

    Attributes:
        tower: What messages call it.
        method: The method by which a model turns images or sound into what its language model reads.
        others: What `get_encoder` calls the towers of other modalities.
        foreign: Words in the names of modules that lie beside the projector and belong to something else.
        feature_layer: Key of the config that chooses the layer whose features are read, where a family has one.
        example: Families that have such a tower.
    """

    tower: str
    method: str
    others: tuple[str, ...]
    foreign: tuple[str, ...]
    feature_layer: str | None
    example: str


_SPEAKS = ("talker", "token2wav", "code2wav")
SENSES: dict[Modality, Sense] = {
    "image": Sense(
        tower="vision tower",
        method="get_image_features",
        others=("audio", "video"),
        foreign=("audio", "speech", "sound", *_SPEAKS),
        feature_layer="vision_feature_layer",
        example="LLaVA or Qwen-VL",
    ),
    "audio": Sense(
        tower="audio tower",
        method="get_audio_features",
        others=("image", "video"),
        foreign=("vision", "visual", "image", "video", *_SPEAKS),
        feature_layer=None,
        example="Qwen2-Audio or Voxtral",
    ),
}
