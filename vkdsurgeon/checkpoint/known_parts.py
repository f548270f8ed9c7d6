"""Families whose parts the rules of `placement` cannot tell, and families without parts to tell."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.data.modality import Modality


@dataclass(frozen=True)
class KnownParts:
    """Where tower and projector lie.

    Attributes:
        tower: Module path of the tower.
        projector: Module or parameter paths of the projector; such as a model of the family does without are left out.
    """

    tower: str
    projector: tuple[str, ...] = ()


_IMAGE: dict[str, KnownParts] = {
    "git": KnownParts("git.image_encoder", ("git.visual_projection", "git.img_temperal_embedding")),
    "idefics": KnownParts("model.vision_model", ("model.perceiver_resampler",)),
    # What draws images (`vqmodel`, `generation_*`) is not what sees them.
    "janus": KnownParts("model.vision_model", ("model.aligner",)),
    "phi4_multimodal": KnownParts(
        "model.embed_tokens_extend.image_embed.img_processor",
        tuple(
            f"model.embed_tokens_extend.image_embed.{name}"
            for name in ("img_projection_up", "img_projection_down", "sub_img_feature_extensor",
                         "global_img_feature_extensor")
        ),
    ),
    "pix2struct": KnownParts("encoder"),
    "pp_formulanet": KnownParts("model.encoder"),
    # Its video tower is another one, behind the same projector.
    "video_llava": KnownParts("model.image_tower", ("model.multi_modal_projector",)),
    "vision-encoder-decoder": KnownParts("encoder", ("enc_to_dec_proj",)),
}  # fmt: skip

_AUDIO: dict[str, KnownParts] = {
    "granite_speech": KnownParts("model.encoder", ("model.projector",)),
    "granite_speech_plus": KnownParts("model.encoder", ("model.projector",)),
}
KNOWN: dict[Modality, dict[str, KnownParts]] = {"image": _IMAGE, "audio": _AUDIO}

_DISCRETE = "it turns images into entries of a codebook, and no gradient comes back through the choice of an entry"
_LINEAR = "it has no vision tower: image patches go through one linear map straight into the language model"
# Model type -> why nothing can be unlearned in it by its tower.
WITHOUT_TOWER: dict[Modality, dict[str, str]] = {
    "image": {
        "chameleon": _DISCRETE,
        "emu3": _DISCRETE,
        "fuyu": _LINEAR,
        "gemma4_unified": _LINEAR,
        "udop": _LINEAR,
    },
    "audio": {
        "musicflamingo": "the angles that its features are turned by follow from where they stand in the text",
    },
}
