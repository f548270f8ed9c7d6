"""Unlearn in a tiny checkpoint of one family, and check by transformers alone what came out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from benchmarks.families.tiny import build_checkpoint, needs_torchvision
from vkdsurgeon import UserError, inspect, unlearn
from vkdsurgeon.checkpoint.skeleton import loader_of
from vkdsurgeon.model.image_features import ADAPTERS, image_features
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack

# Families of transformers' multimodal mapping that take no images.
WITHOUT_IMAGES = frozenset(
    {"evolla", "fun_asr_nano", "glmasr", "granite_speech", "granite_speech_plus", "kyutai_speech_to_text", "mistral4",
     "moss_transcribe_diarize", "nemo_speechlm", "qwen2_audio", "qwen3_asr", "vibevoice_asr", "voxtral",
     "voxtral_realtime"}
)  # fmt: skip
# A few steps that the stop rule passes whatever they reach: what is asked here is whether it works, not how well.
RECIPE = {
    "steps": 2, "extensions": 0, "forget_batch": 4, "retain_batch": 4, "copies": 0, "step_size": 0.3,
    "forget_target": "swap", "forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 1e6,
}  # fmt: skip


@dataclass
class Row:
    """What was found of one family.

    Attributes:
        model_type: As in config.json.
        works: Everything below was as it should be.
        stage: Where it ended: `build`, `inspect`, `unlearn`, `check`, or `done`.
        reason: Why it does not work.
        refused: The tool said so by itself, with status 2.
        tower: Module path.
        projector: Module paths.
        layers: How many layers of the tower can be tapped.
        outputs: How many outputs the language model reads.
        adapter: The file that knows the family; empty where the general rule does.
        rebuilt: Visual tensors on disk that transformers rebuilds while loading.
        changed: Tensors on disk that have changed.
        language_same: Every tensor outside of tower and projector has its bytes, and so has every other file.
        features_same: The features of the patched tower, here and in the model that transformers loads, are equal.
        features_moved: They are others than before.
        text_same: The logits of a text without an image are those of the base to the bit; None where the family has
            no such text, or the auto class does not find its language model in the files.
        batch_error: Largest difference of features alone and in a batch, over their largest magnitude.
        needs: Packages beyond those the tool depends on.
        transformers: Its version.
        seconds: Of the whole.
    """

    model_type: str
    works: bool = False
    stage: str = "build"
    reason: str = ""
    refused: bool = False
    tower: str = ""
    projector: list[str] = field(default_factory=list)
    layers: int = 0
    outputs: int = 0
    adapter: str = ""
    rebuilt: int = 0
    changed: int = 0
    language_same: bool = False
    features_same: bool = False
    features_moved: bool = False
    text_same: bool | None = None
    batch_error: float = 0.0
    needs: list[str] = field(default_factory=list)
    transformers: str = transformers.__version__
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For one line of JSON."""
        return asdict(self)


def image_types() -> list[str]:
    """Every type of transformers' multimodal mapping that takes images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    return [name for name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES if name not in WITHOUT_IMAGES]


def survey(model_type: str, build: Callable[[str, Path], Path] = build_checkpoint) -> Row:
    """Build, inspect, unlearn, load again, compare.

    Args:
        model_type: One of `image_types`.
        build: Writes the checkpoint.
    """
    row, started = Row(model_type, adapter=ADAPTERS.get(model_type, "")), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="families-") as folder:
        try:
            _survey(row, Path(folder), build)
        except UserError as error:
            row.reason, row.refused = str(error).replace(folder, "").replace("\n", "; "), True
        except Exception as error:
            row.reason = f"{type(error).__name__}: {error}".replace("\n", " ")
    row.seconds = round(time.monotonic() - started, 1)
    return row


def _survey(row: Row, folder: Path, build: Callable[[str, Path], Path]) -> None:
    base, patched = build(row.model_type, folder / "base"), folder / "patched"
    row.needs = ["torchvision"] if needs_torchvision(row.model_type) else []
    row.stage = "inspect"
    found = inspect(base)
    parts = {part.part: part for part in found.parts}
    row.tower, row.projector = parts["tower"].modules[0], parts["projector"].modules
    row.layers = sum(layer.startswith("layer.") for layer in found.layers)
    row.outputs = len(found.layers) - row.layers
    row.stage = "unlearn"
    forget, retain = _images(folder / "forget", range(2)), _images(folder / "retain", range(10, 14))
    unlearn(base, forget, patched, retain=retain, recipe=RECIPE, device="cpu")
    row.stage = "check"
    _check(row, base, patched)
    row.stage = "done"
    row.works = (
        row.changed > 0
        and row.language_same
        and row.features_same
        and row.features_moved
        and row.text_same is not False
        and row.batch_error < 1e-3
    )


def _check(row: Row, base: Path, patched: Path) -> None:
    stack = load_visual_stack(base, device="cpu")
    if any("timm" in type(module).__module__ for module in stack.model.modules()):
        row.needs = [*row.needs, "timm"]
    row.rebuilt = sum(len(group.sources) for group in stack.split.rebuilt)
    row.changed, row.language_same = _compare_bytes(base, patched, set(stack.split.visual))
    images = [stack.prepare(_image(subject, 0)) for subject in range(3)]
    images = [image for image in images if image.signature == images[0].signature]
    with torch.no_grad():
        before = stack.features(stack.collate(images), stack.outputs)
        alone = [stack.features(stack.collate([image]), stack.outputs) for image in images]
        row.batch_error = max(
            _difference(before[name], torch.cat([each[name] for each in alone])) for name in stack.outputs
        )
        student = load_visual_stack(patched, device="cpu")
        after = student.features(student.collate(images), student.outputs)
        model, whole = _loaded(patched)
        theirs = _features_of(model, student, student.collate(images))
    row.features_moved = all(not torch.equal(before[name], after[name]) for name in stack.outputs)
    row.features_same = all(torch.equal(after[name], theirs[name]) for name in stack.outputs)
    row.text_same = _same_text(_loaded(base)[0], model) if whole else None


def _compare_bytes(base: Path, patched: Path, visual: set[str]) -> tuple[int, bool]:
    """Tensors that have changed, and whether everything that must not change is the same; read by safetensors."""
    ours, theirs = _read_all(base), _read_all(patched)
    raw = {
        name: tuple(side[name].reshape(-1).contiguous().view(torch.uint8) for side in (ours, theirs)) for name in ours
    }
    changed = {name for name, (left, right) in raw.items() if not torch.equal(left, right)}
    others = [
        file.read_bytes() == (patched / file.name).read_bytes()
        for file in base.iterdir()
        if file.is_file() and file.suffix != ".safetensors"
    ]
    return len(changed), ours.keys() == theirs.keys() and changed <= visual and all(others)


def _read_all(root: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(root.glob("*.safetensors")) for name, value in load_file(file).items()}


def _features_of(model: Any, stack: VisualStack, batch: Any) -> dict[str, torch.Tensor]:
    """The same features by the whole model that transformers loads."""
    from vkdsurgeon.model.vision import by_image

    inputs = {name: value.float() if value.is_floating_point() else value for name, value in batch.inputs.items()}
    made = image_features(model, stack.split)(inputs)
    return {name: by_image(made[name], batch.size) for name in stack.outputs}


def _loaded(root: Path) -> tuple[Any, bool]:
    """The model, and whether all of it comes from the files: the class of some families has names of its own."""
    from transformers import AutoConfig

    load = loader_of(AutoConfig.from_pretrained(root))
    model, report = load(root, dtype=torch.float32, output_loading_info=True)
    return model.float().eval(), not report["missing_keys"]


def _same_text(base: Any, patched: Any) -> bool | None:
    if _drawn_from_images_alone(base):
        return None
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    owner = getattr(base, "thinker", base), getattr(patched, "thinker", patched)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if base.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    else:
        # Tiny models may have only layers that no cache is made for.
        inputs["use_cache"] = False
    logits = []
    for model in owner:
        # Models that fill in blanks start from noise.
        torch.manual_seed(0)
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    left, right = logits
    return bool(torch.isfinite(left).all()) and torch.equal(left, right)


def _drawn_from_images_alone(model: Any) -> bool:
    """Whether the forward pass has no text without an image."""
    needs_image = model.config.model_type in ("idefics",)
    return needs_image or model.main_input_name in ("pixel_values", "flattened_patches", "state")


def _difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max() / left.abs().max().clamp_min(1e-12))


def _image(subject: int, view: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Colours belong to the subject, texture to the view."""
    blocks = np.random.default_rng(subject).integers(20, 236, (4, 4, 3))
    noise = np.random.default_rng(1000 + 100 * subject + view).integers(-20, 21, (size[1], size[0], 3))
    pixels = np.kron(blocks, np.ones((size[1] // 4, size[0] // 4, 1), dtype=np.int64)) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _images(folder: Path, subjects: range) -> Path:
    for subject in subjects:
        (folder / str(subject)).mkdir(parents=True)
        for view in range(4):
            _image(subject, view).save(folder / str(subject) / f"{view}.png")
    return folder


@contextmanager
def quiet() -> Iterator[None]:
    """transformers says nothing about tiny configs, and its processors ask for few patches, as long as this lasts."""
    from transformers import Kosmos2_5Processor, Pix2StructProcessor
    from transformers.utils import logging

    # These two ask for thousands, whatever the image processor's file says.
    asked = [kind.images_kwargs for kind in (Kosmos2_5Processor, Pix2StructProcessor)]
    kept, level = [dict(each) for each in asked], logging.get_verbosity()
    for each in asked:
        each["max_patches"] = 16
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        for each, before in zip(asked, kept, strict=True):
            each.clear()
            each.update(before)
        logging.set_verbosity(level)
        logging.enable_progress_bar()
