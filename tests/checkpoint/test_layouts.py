"""What lies in a checkpoint's place and is none is told by its name, with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from vkdsurgeon_cli.main import run

from tests.checkpoint.conftest import edit_json, edit_tensors
from tests.tiny_llava import build, write_records
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.skeleton import read_config
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.errors import UserError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 14130712\n"


def _pointer(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(POINTER)


def _gguf(root: Path) -> None:
    (root / "model.safetensors").rename(root / "model-Q4_K_M.GGUF")


def _mistral(root: Path) -> None:
    (root / "model.safetensors").rename(root / "consolidated.safetensors")
    (root / "config.json").rename(root / "params.json")


def _zero3(root: Path) -> None:
    def empty(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: torch.empty(0) for name in tensors if "language" in name})

    edit_tensors(root / "model.safetensors", empty)


def _adapter(root: Path) -> None:
    (root / "adapter_config.json").write_text("{}")
    save_file({"lora": torch.ones(1)}, root / "adapter_model.safetensors")


def _adapter_alone(root: Path) -> None:
    _adapter(root)
    (root / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "words", "remedy"),
    [
        (_pointer("model.safetensors"), "Git LFS pointer", "git lfs pull"),
        (_pointer("config.json"), "Git LFS pointer", "git lfs pull"),
        (_pointer("tokenizer.model"), "Git LFS pointer", "git lfs pull"),
        (_gguf, "the weights are GGUF", "made from"),
        (_mistral, "Mistral's own layout", "convert"),
        (_zero3, "ZeRO-3", "zero_to_fp32"),
        (_adapter, "a PEFT adapter lies beside whole weights", "merge"),
        (_adapter_alone, "this is a PEFT adapter, not a whole model", "merge"),
    ],
)
def test_it_is_told_by_its_name(single: Path, spoil: Callable[[Path], object], words: str, remedy: str) -> None:
    spoil(single)
    with pytest.raises(UserError, match=words) as refused:
        take_inventory(single)
    assert remedy in str(refused.value.remedy)


@pytest.mark.parametrize("leaves", [("qweight", "qzeros", "scales"), ("qweight", "qzeros", "scales", "g_idx")])
def test_a_tower_of_awq_or_gptq_is_called_quantised(single: Path, leaves: tuple[str, ...]) -> None:
    def pack(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".weight") and "vision_tower" in name and "mlp" in name]:
            rows, columns = tensors.pop(name).shape
            module = name.removesuffix("weight")
            tensors |= {f"{module}{leaf}": torch.ones(columns, rows // 8, dtype=torch.int32) for leaf in leaves}

    edit_tensors(single / "model.safetensors", pack)
    method = "awq" if len(leaves) == 3 else "gptq"
    edit_json(
        single / "config.json",
        lambda config: config.update(quantization_config={"quant_method": method, "bits": 4, "group_size": 32}),
    )
    with pytest.raises(UserError, match="the tower is quantised"):
        split_checkpoint(take_inventory(single))


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sets = build(tmp_path / "model"), write_records(tmp_path)
    edit_json(
        root / "processor_config.json",
        lambda config: config["image_processor"].update(image_processor_type="Llama4ImageProcessor"),
    )
    for words in (["inspect", str(root)], ["eval", str(root), "--forget", str(sets["forget"])]):
        assert run(words) == 2
        told = capsys.readouterr().err
        assert "pip install torchvision" in told
        assert "copy the file" not in told


def test_a_pointer_in_the_documentation_is_no_obstacle(single: Path) -> None:
    (single / "image.png").write_text(POINTER)
    take_inventory(single)


def test_the_layout_of_the_original_llava(single: Path) -> None:
    edit_json(
        single / "config.json",
        lambda config: config.update(model_type="llava_llama", mm_vision_tower="openai/clip-vit-large-patch14-336"),
    )
    with pytest.raises(UserError, match="original LLaVA") as refused:
        read_config(single)
    assert "-hf" in str(refused.value.remedy)


def test_a_size_of_null_in_the_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build(tmp_path / "model")
    edit_json(root / "config.json", lambda config: config["vision_config"].update(patch_size=None))
    assert run(["inspect", str(root)]) == 2
    told = capsys.readouterr().err
    assert "vision_config.patch_size: null" in told
    assert "config.json" in told


def test_a_patch_size_of_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build(tmp_path / "model")
    sets = write_records(tmp_path)
    edit_json(root / "processor_config.json", lambda config: config.update(patch_size=None))
    assert json.loads((root / "processor_config.json").read_text())["patch_size"] is None
    assert run(["eval", str(root), "--forget", str(sets["forget"])]) == 2
    told = capsys.readouterr().err
    assert "patch_size: null" in told
    assert "processor_config.json" in told
