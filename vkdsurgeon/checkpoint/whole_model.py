"""What is no complete model of safetensors files, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from vkdsurgeon.checkpoint.header import TensorEntry
from vkdsurgeon.checkpoint.shard_index import INDEX, SINGLE
from vkdsurgeon.errors import UserError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def refuse_incomplete_models(root: Path, names: set[str]) -> None:
    """Refuse adapters, pickles and other formats, and directories without weights or configuration.

    Args:
        root: The checkpoint.
        names: Every file of it.

    Raises:
        UserError: It is no whole model.
    """
    whole = SINGLE in names or INDEX in names
    if "adapter_config.json" in names and whole:
        raise UserError(
            "a PEFT adapter lies beside whole weights: some readers apply it, and some do not",
            where=root / "adapter_config.json",
            expected="a checkpoint that is the same to every reader",
            remedy="merge the adapter (merge_and_unload, then save_pretrained), or move its files elsewhere",
        )
    if "adapter_config.json" in names:
        raise UserError(
            "this is a PEFT adapter, not a whole model",
            where=root / "adapter_config.json",
            expected="a checkpoint with the model's own weights",
            remedy="merge the adapter first (merge_and_unload, then save_pretrained)",
        )
    if not whole and (quantised := sorted(name for name in names if name.lower().endswith(".gguf"))):
        raise UserError(
            "the weights are GGUF, in which they are packed for another program",
            where=root / quantised[0],
            expected=f"{SINGLE} or {INDEX}",
            remedy="use the checkpoint that the GGUF was made from",
        )
    if "config.json" not in names and "params.json" in names:
        raise UserError(
            "the checkpoint has Mistral's own layout alone",
            where=root / "params.json",
            expected=f"config.json with {SINGLE} or {INDEX}",
            remedy="use the checkpoint's version for transformers, or convert it with transformers' conversion script",
        )
    if "config.json" not in names:
        raise UserError("no such file", where=root / "config.json", expected="a Hugging Face checkpoint directory")
    if SINGLE in names or INDEX in names:
        return
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    if pickles:
        raise UserError(
            "the weights are pickles, which are never opened",
            where=root,
            value=pickles[0],
            expected=f"{SINGLE} or {INDEX}",
            remedy="convert the checkpoint to safetensors (save_pretrained does) where its origin is trusted",
        )
    raise UserError("no weights found", where=root, expected=f"{SINGLE} or {INDEX}")


def refuse_emptied(root: Path, tensors: dict[str, TensorEntry]) -> None:
    """Refuse tensors without a value.

    Raises:
        UserError: There are some.
    """
    empty = [name for name, entry in tensors.items() if 0 in entry.shape]
    if empty:
        raise UserError(
            f"{len(empty)} tensors hold no value, as DeepSpeed ZeRO-3 saves them where nobody gathers the parts",
            where=root / tensors[empty[0]].file,
            value=empty[0],
            expected="every parameter whole",
            remedy="save with stage3_gather_16bit_weights_on_model_save, or join the parts with zero_to_fp32.py",
        )
