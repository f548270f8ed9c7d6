"""Models that hear: their tower is found, its features are those of the model's own pass, and nothing else moves."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig

import vkdsurgeon
from benchmarks.families.tiny import tiny_config
from tests.voices import FAMILIES, LARGE, build_checkpoint, build_seeing_too, voice, write_voices
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.checkpoint.skeleton import auto_class, loader_of
from vkdsurgeon.data.clips import Clip
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.images import ImageBatch
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack

PROJECTOR = ["model.multi_modal_projector"]
# Their tower, and what between it and the language model is no part of it.
PARTS = {
    "qwen2_audio": (["model.audio_tower"], PROJECTOR),
    "voxtral": (["model.audio_tower"], PROJECTOR),
    "audioflamingo3": (["model.audio_tower"], PROJECTOR),
    "glmasr": (["model.audio_tower"], PROJECTOR),
    "qwen2_5_omni_thinker": (["model.audio_tower"], []),
    "qwen2_5_omni": (["thinker.model.audio_tower"], []),
    "qwen3_omni_moe": (["thinker.model.audio_tower"], []),
    "gemma4": (["model.audio_tower"], ["model.embed_audio"]),
}
RECIPE = {
    "steps": 2, "extensions": 0, "forget_batch": 4, "retain_batch": 4, "copies": 1, "step_size": 0.3,
    "forget_target": "swap", "forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 1e6,
}  # fmt: skip


_MARKED = [pytest.param(name, marks=pytest.mark.campaign) if name in LARGE else name for name in FAMILIES]


@pytest.fixture(scope="module", params=_MARKED)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of one family; read-only."""
    return build_checkpoint(request.param, tmp_path_factory.mktemp("hearing") / request.param)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clips of speakers to forget and to keep."""
    folder = tmp_path_factory.mktemp("voices")
    return {
        "forget": write_voices(folder, "forget", range(2), takes=3),
        "retain": write_voices(folder, "retain", range(10, 13), takes=3),
    }


@pytest.fixture(scope="module")
def patched(model: Path, voices: dict[str, Path]) -> Path:
    """The same checkpoint after a few steps."""
    out = model.parent / "patched"
    vkdsurgeon.unlearn(
        model, voices["forget"], out, retain=voices["retain"], recipe=RECIPE, modality="audio", device="cpu"
    )
    return out


def heard(whole: Any, inputs: dict[str, torch.Tensor], tokens: int) -> torch.Tensor:
    """What a model's own forward pass puts in the places of the audio tokens, [tokens, D]."""
    caught: list[torch.Tensor] = []
    whole = getattr(whole, "thinker", whole)
    language = whole.get_decoder()
    hook = language.register_forward_pre_hook(
        lambda module, args, named: caught.append(named["inputs_embeds"]), with_kwargs=True
    )
    ids = torch.full((1, tokens + 2), whole.config.audio_token_id)
    ids[0, 0] = ids[0, -1] = 5
    with torch.no_grad():
        whole(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs)
    hook.remove()
    return caught[0][0, 1:-1]


def test_tower_and_projector_are_found(model: Path) -> None:
    found = vkdsurgeon.inspect(model, modality="audio")
    assert found.modality == "audio"
    parts = {part.part: part.modules for part in found.parts}
    assert (parts["tower"], parts["projector"]) == PARTS[model.name]
    assert found.layers in (["layer.0", "layer.1", "projector"], ["layer.0", "layer.1", "layer.2", "projector"])


def test_only_tower_and_projector_move_and_the_record_says_what_they_hear(model: Path, patched: Path) -> None:
    found = vkdsurgeon.diff(model, patched, modality="audio")
    assert found.language_identical
    assert {tensor.part for tensor in found.changed} == ({"tower", "projector"} if PARTS[model.name][1] else {"tower"})
    assert json.loads((patched / "vkdsurgeon.json").read_text())["modality"] == "audio"


def test_features_are_those_of_the_models_own_forward_pass(model: Path, patched: Path) -> None:
    before, after = (load_visual_stack(root, device="cpu", modality="audio") for root in (model, patched))
    prepared = after.prepare(Clip(voice(0, 0), 8_000))
    features = _features(after, prepared)
    whole: Any = auto_class(after.split.config).from_pretrained(patched, dtype=torch.float32).eval()
    torch.testing.assert_close(features[0], heard(whole, prepared.inputs, features.shape[1]))
    assert not torch.allclose(features, _features(before, prepared))


def test_a_clip_is_heard_alike_alone_and_in_a_batch(model: Path) -> None:
    stack = load_visual_stack(model, device="cpu", modality="audio")
    one, two, longer = (
        stack.prepare(Clip(voice(speaker, 0, seconds=seconds), 8_000))
        for speaker, seconds in ((0, 0.5), (1, 0.5), (1, 0.9))
    )
    assert one.signature == two.signature
    together = stack.features(stack.collate([one, two]))["projector"]
    alone = torch.cat([_features(stack, one), _features(stack, two)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    if model.name == "qwen2_audio":
        # The language model reads no frame that only pads, so a longer clip is more tokens.
        assert longer.signature != two.signature
        assert _features(stack, longer).shape[1] > together.shape[1]


def _features(stack: VisualStack, prepared: Any) -> torch.Tensor:
    with torch.no_grad():
        return stack.features(stack.collate([prepared]))["projector"]


def test_the_wrong_modality_is_named(voices: dict[str, Path], tmp_path: Path) -> None:
    model = build_checkpoint("qwen2_audio", tmp_path / "model")
    with pytest.raises(UserError, match=r"no vision tower found in (?s:.*)model.audio_tower: modality audio"):
        vkdsurgeon.inspect(model)
    with pytest.raises(UserError, match=r"the forget set has no images(?s:.*)it has clips: modality audio"):
        vkdsurgeon.unlearn(model, voices["forget"], tmp_path / "out", retain=voices["retain"])
    assert not (tmp_path / "out").exists()


def test_what_hears_nothing_is_refused(llava: Path) -> None:
    with pytest.raises(UserError, match=r"no audio tower found in llava(?s:.*)model.vision_tower: modality image"):
        vkdsurgeon.inspect(llava, modality="audio")


def test_without_clips_to_keep_nothing_is_begun(voices: dict[str, Path], tmp_path: Path, llava: Path) -> None:
    with pytest.raises(UserError, match="no clips to keep"):
        vkdsurgeon.unlearn(llava, voices["forget"], tmp_path / "out", modality="audio")


@pytest.mark.parametrize(("family", "most"), [("qwen2_audio", 1), ("gemma4", 60)])
def test_a_clip_that_would_be_cut_off_is_refused(family: str, most: int, tmp_path: Path) -> None:
    stack = load_visual_stack(build_checkpoint(family, tmp_path / "model"), device="cpu", modality="audio")
    with pytest.raises(UserError, match=rf"hears the first {most} seconds alone(?s:.*){most}\.50 s"):
        stack.prepare(Clip(np.zeros(most * 8_000 + 4_000, dtype=np.float32), 8_000), "set:1")


def test_granite_speech_is_heard_once_its_library_is_there(tmp_path: Path) -> None:
    config = tiny_config("granite_speech")
    torch.manual_seed(0)
    auto_class(config).from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    extractor = {"feature_extractor_type": "GraniteSpeechFeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(extractor))
    stack = load_visual_stack(tmp_path, device="cpu", modality="audio")
    assert (stack.split.placement.tower, stack.split.placement.projector) == ("model.encoder", ("model.projector",))
    # What its extractor, which needs torchaudio, would make of a clip.
    frames = torch.randn(2, 1, 30, config.encoder_config.input_dim)
    one, two = ({"input_features": each} for each in frames)
    together = stack.features(ImageBatch({"input_features": frames[:, 0]}, 2))["projector"]
    whole: Any = auto_class(config).from_pretrained(tmp_path)
    for given, features in zip((one, two), together, strict=True):
        given["input_features_mask"] = torch.ones(1, len(features)).bool()
        theirs = heard(whole.eval(), given, len(features))
        torch.testing.assert_close(features, theirs, rtol=1e-4, atol=1e-5)
    if importlib.util.find_spec("torchaudio") is None:
        with pytest.raises(UserError, match=r"the feature extractor (needs|refuses)(?s:.*)torchaudio"):
            vkdsurgeon.inspect(tmp_path, modality="audio")


def test_music_flamingo_is_refused_with_the_reason(tmp_path: Path) -> None:
    config = CONFIG_MAPPING["musicflamingo"]()
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    with pytest.raises(UserError, match="cannot be unlearned by its audio tower: the angles"):
        locate_visual(model, modality="audio")


def test_both_towers_of_one_model_forget_one_after_the_other(
    voices: dict[str, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    model = build_seeing_too(tmp_path / "model")
    seeing, hearing = tmp_path / "seeing", tmp_path / "hearing"
    vkdsurgeon.unlearn(model, sets["forget"], seeing, retain=sets["retain"], recipe=RECIPE, device="cpu")
    second = vkdsurgeon.unlearn(
        seeing, voices["forget"], hearing, retain=voices["retain"], recipe=RECIPE, modality="audio", device="cpu"
    )
    assert not [
        warning for warning in second.plan.warnings if "earlier run" in warning or "unlearned before" in warning
    ]
    found = {modality: vkdsurgeon.diff(seeing, hearing, modality=modality) for modality in ("image", "audio")}
    assert {tensor.part for tensor in found["audio"].changed} == {"tower"}
    assert {tensor.part for tensor in found["image"].changed} == {"language"}
    whole = vkdsurgeon.diff(model, hearing, modality="audio")
    assert {tensor.tensor.split(".")[0] for tensor in whole.changed} == {"audio_tower", "visual"}


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen2_audio"])
def test_a_whole_model_is_loaded_and_what_its_files_lack_is_told(family: str, tmp_path: Path) -> None:
    """Qwen2.5-Omni's own loader fails where a report of what was loaded is asked for."""
    root = build_checkpoint(family, tmp_path / "model")
    model, report = loader_of(AutoConfig.from_pretrained(root))(root, dtype=torch.float32, output_loading_info=True)
    assert type(model).__name__ == AutoConfig.from_pretrained(root).architectures[0]
    assert not report["missing_keys"]
