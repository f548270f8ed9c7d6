"""A whole multimodal model with its processor, as `from_pretrained` gives it; no code of the checkpoint is run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vkdsurgeon_kernels.compile_cache import spare_the_import

from vkdsurgeon.checkpoint.complete import check_layer_counts
from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import Inventory, check_unchanged, take_inventory
from vkdsurgeon.checkpoint.json_file import read_json
from vkdsurgeon.checkpoint.offline import stay_offline
from vkdsurgeon.checkpoint.skeleton import loader_of, read_config
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.directories import scratch
from vkdsurgeon.files.library_errors import blaming, brief, missing_package
from vkdsurgeon.model.device import resolve_device, resolve_dtype
from vkdsurgeon.model.device_map import DeviceMap, check_held, places_of
from vkdsurgeon.model.prompts import Encoder


@dataclass
class LoadedModel:
    """A model that is ready to be asked.

    Attributes:
        root: Its directory.
        model: The transformers model, in `eval` mode.
        encoder: Turns questions and images into its inputs.
        device: Where its inputs go, and its outputs come from.
        dtype: What its weights are held in.
        model_type: Architecture, such as `llava`.
        digest: SHA-256 over its weight files, in hex.
        places: Where its weights lie, for a result: `cpu`, or `cuda:0, cpu, disk`.
        inventory: Its files as they were when it was loaded; weights on disk are read from them later.
        release: Removes what was written to disk to hold it; also done when the model is collected. It cannot be used
            afterwards.
    """

    root: Path
    model: Any
    encoder: Encoder
    device: torch.device
    dtype: torch.dtype
    model_type: str
    digest: str
    places: str
    inventory: Inventory
    release: Callable[[], object]


def load_model(
    root: Path, *, device: str = "auto", dtype: str = "auto", device_map: DeviceMap | None = None
) -> LoadedModel:
    """Load a checkpoint directory, language model included.

    Args:
        root: A Hugging Face checkpoint directory with safetensors weights.
        device: `auto`, `cpu`, `cuda`, `cuda:1` ...
        dtype: `float32`, `bfloat16`, or `auto`: the checkpoint's own on a GPU, float32 on a CPU.
        device_map: Where the weights may lie, in place of `device`; None for one device.

    Raises:
        UserError: The directory is no complete checkpoint of a known multimodal architecture, or its processor needs
            something that is not installed.
        SurgeryError: A file of it changed while it was loaded.
    """
    stay_offline()
    spare_the_import()
    from transformers import GenerationConfig

    place = resolve_device(device) if device_map is None else device_map.entrance
    kind: torch.dtype | None = None if dtype == "auto" else resolve_dtype(dtype)
    inventory = take_inventory(root)
    check_layer_counts(read_json(root / "config.json"), len(inventory.tensors), root / "config.json")
    config = read_config(root)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError("encoder-decoder models are not evaluated", where=root, value=config.model_type)
    if kind is None and place.type == "cpu":
        kind = torch.float32
    encoder = Encoder(load_processor(root))
    specials = _special_tokens(root, config)
    with ExitStack() as held:
        if device_map is None:
            model = _load_weights(root, config, kind).to(place).eval()
        else:
            model = _load_weights(root, config, kind, **device_map.loading(held.enter_context(scratch()))).eval()
        # A generation config of our own: whatever else the checkpoint's says would change what is measured.
        model.generation_config = GenerationConfig(**specials)
        digest = weights_digest(inventory.root, inventory.shards)
        # Else the digest may name other weights than those that are asked.
        check_unchanged(inventory)
        release = weakref.finalize(model, held.pop_all().close)
    places = places_of(model)
    return LoadedModel(
        root=root,
        model=model,
        encoder=encoder,
        device=place if device_map is None else _entrance(places),
        dtype=model.dtype,
        model_type=str(config.model_type),
        digest=digest,
        places=", ".join(places),
        inventory=inventory,
        release=release,
    )


def _entrance(places: Sequence[str]) -> torch.device:
    return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))


def load_processor(root: Path) -> Any:
    """The checkpoint's processor for images, or clips, and text.

    Raises:
        UserError: The processor is missing or broken, or it needs a package that is not installed.
    """
    from transformers import AutoProcessor

    def refused(error: BaseException) -> UserError:
        if isinstance(error, UnicodeEncodeError):
            return UserError(
                "the path of the model is not UTF-8, and the library that reads tokenizers cannot open it",
                where=root,
                expected="a path that is UTF-8",
                remedy="rename the directory, or give a link to it whose path is",
            )
        if (absent := missing_package("the processor of this model", error, root)) is not None:
            return absent
        return UserError(
            f"transformers cannot load the processor: {brief(error)}",
            where=root,
            expected="processor, image processor and tokenizer files beside the weights",
            remedy="restore them from the original checkpoint",
        )

    with blaming(root, refused):
        processor = AutoProcessor.from_pretrained(root, trust_remote_code=False, local_files_only=True)
    others = (getattr(processor, name, None) for name in ("image_processor", "feature_extractor"))
    if getattr(processor, "tokenizer", None) is None or not any(others):
        raise UserError(
            "there is no processor for both images and text",
            where=root,
            value=type(processor).__name__,
            expected="processor_config.json, an image processor and a tokenizer",
        )
    if "patch_size" in vars(processor) and processor.patch_size is None:
        raise UserError(
            "the processor does not know how large a patch of an image is",
            where=root / "processor_config.json",
            value="patch_size: null",
            expected="the patch_size of vision_config in config.json",
            remedy="put that number there",
        )
    return processor


def _special_tokens(root: Path, config: Any) -> dict[str, int | list[int]]:
    """Ids of the tokens that begin, end and fill up an answer, and nothing else of the checkpoint's generation config.

    Raises:
        UserError: The file is broken, or an id is none.
    """
    path = root / "generation_config.json"
    settings = read_json(path) if path.exists() else {}
    found: dict[str, int | list[int]] = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        sources = (settings.get(name), getattr(config, name, None), getattr(config.get_text_config(), name, None))
        value = next((each for each in sources if each is not None), None)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(type(each) is int and each >= 0 for each in ids):
            raise UserError(
                f"{name} is not a token id",
                where=path if settings.get(name) is not None else root / "config.json",
                value=value,
                expected="a number from 0, or a list of such numbers",
                remedy="restore the file from the original checkpoint",
            )
        found[name] = ids if name == "eos_token_id" else ids[0]
    if "eos_token_id" in found and "pad_token_id" not in found:
        ends = found["eos_token_id"]
        found["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
    return found


def _load_weights(root: Path, config: Any, dtype: torch.dtype | None, **places: Any) -> Any:
    from transformers import GenerationConfig
    from transformers.utils import logging

    # Its bar would land on stderr even where that is a log.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()

    def refused(error: BaseException) -> UserError:
        return UserError(f"transformers cannot load the model: {brief(error)}", where=root)

    try:
        with blaming(root, refused):
            model, report = loader_of(config)(
                root,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                # Without one, the checkpoint's is read and judged.
                generation_config=GenerationConfig(),
                **places,
            )
    finally:
        if shown:
            logging.enable_progress_bar()
    # from_pretrained only warns and fills such tensors at random, which would measure noise.
    for kind in ("missing_keys", "mismatched_keys"):
        absent = sorted(str(key) for key in report.get(kind) or ())
        if absent:
            raise UserError(
                f"{len(absent)} tensors of the model are not in its files, or have other shapes",
                where=root,
                value=absent[0],
                expected="a complete checkpoint",
            )
    return model


def train_only(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Let some parameters ask for gradients, and no other.

    Args:
        model: The model.
        names: Names of the parameters.

    Returns:
        These by name, in the order of the names.

    Raises:
        UserError: One of them is not on the device.
    """
    names = [*names]
    check_held(model, names, "training")
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    chosen = {name: parameters[name] for name in names}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen
