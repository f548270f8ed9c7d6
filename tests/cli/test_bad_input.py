"""Every kind of bad input that we name: status 2, a message that helps, and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.families import build_checkpoint


class Bench:
    """A copy of model and sets that one test may break."""

    def __init__(self, place: Path, llava: Path, sets: dict[str, Path]) -> None:
        self.place = place
        self.model = place / "model"
        shutil.copytree(llava, self.model)
        shutil.copytree(sets["forget"].parent, place / "sets")
        self.forget = place / "sets" / "forget.jsonl"
        self.retain = place / "sets" / "retain.jsonl"
        self.out = place / "out"
        self.more: list[str] = []

    def shard(self) -> Path:
        return sorted(self.model.glob("*.safetensors"))[0]

    def config(self, **changes: object) -> None:
        path = self.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def first_row(self, **changes: object) -> None:
        rows = self.forget.read_text().splitlines()
        row = {**json.loads(rows[0]), **changes}
        self.forget.write_text("\n".join([json.dumps(row), *rows[1:]]) + "\n")


def _visual_nan(bench: Bench) -> None:
    for shard in bench.model.glob("*.safetensors"):
        tensors = load_file(shard)
        for name in tensors:
            if "vision_tower" in name:
                tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, shard, metadata={"format": "pt"})


def _missing_visual_tensor(bench: Bench) -> None:
    index_path = bench.model / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    name = next(name for name in index["weight_map"] if "multi_modal_projector" in name)
    shard = bench.model / index["weight_map"].pop(name)
    tensors = load_file(shard)
    del tensors[name]
    save_file(tensors, shard, metadata={"format": "pt"})
    index_path.write_text(json.dumps(index))


def _truncated_image(bench: Bench) -> None:
    image = next((bench.place / "sets" / "forget").glob("*.png"))
    image.write_bytes(image.read_bytes()[:200])


def _bomb(bench: Bench) -> None:
    image = next((bench.place / "sets" / "forget").glob("*.png"))
    Image.new("1", (12_000, 12_000)).save(image)


def _overlap(bench: Bench) -> None:
    bench.retain.write_text(bench.forget.read_text())


def _out_not_empty(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "precious.txt").write_text("keep me")


def _empty_folder(bench: Bench) -> None:
    (bench.place / "empty").mkdir()
    bench.forget = bench.place / "empty"


def _pickles(bench: Bench) -> None:
    for file in [*bench.model.glob("*.safetensors"), bench.model / "model.safetensors.index.json"]:
        file.unlink()
    (bench.model / "pytorch_model.bin").write_bytes(b"x")


def _adapter(bench: Bench) -> None:
    (bench.model / "adapter_config.json").write_text("{}")


def _language_only(bench: Bench) -> None:
    shutil.rmtree(bench.model)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(bench.model)


def _quantised_tower(bench: Bench) -> None:
    for shard in bench.model.glob("*.safetensors"):
        tensors = load_file(shard)
        for name, value in tensors.items():
            if "vision_tower" in name and value.dim() == 2:
                tensors[name] = value.to(torch.int8)
        save_file(tensors, shard, metadata={"format": "pt"})


def _other_image_size(bench: Bench) -> None:
    path = bench.model / "preprocessor_config.json"
    side = {"height": 56, "width": 56}
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"shortest_edge": 56}, "crop_size": side}))


def _linked_folder(bench: Bench) -> None:
    folder = bench.place / "sets" / "people"
    folder.mkdir()
    (folder / "eve").symlink_to(bench.place / "sets" / "forget")
    bench.forget = folder


def _heic(bench: Bench) -> None:
    (bench.place / "sets" / "forget" / "one.heic").write_bytes(b"x")
    bench.forget = bench.place / "sets" / "forget"


def _recipe(text: str) -> Callable[[Bench], None]:
    def write(bench: Bench) -> None:
        path = bench.place / "recipe.yaml"
        path.write_text(text)
        bench.more = ["--recipe", str(path)]

    return write


def _flags(*words: str) -> Callable[[Bench], None]:
    def add(bench: Bench) -> None:
        bench.more = list(words)

    return add


def _lines(text: str) -> Callable[[Bench], None]:
    return lambda bench: bench.forget.write_text(text)  # type: ignore[return-value]


CASES: dict[str, tuple[Callable[[Bench], object], str]] = {
    "model missing": (lambda b: shutil.rmtree(b.model), "no such directory"),
    "model is a file": (lambda b: (shutil.rmtree(b.model), b.model.write_text("x")), "not a directory"),
    "config missing": (lambda b: (b.model / "config.json").unlink(), "config.json"),
    "config garbage": (lambda b: (b.model / "config.json").write_text("{"), "config.json"),
    "unknown architecture": (lambda b: b.config(model_type="no_such_model"), "no_such_model"),
    "no vision tower": (_language_only, "llama"),
    "shard missing": (lambda b: b.shard().unlink(), "missing"),
    "shard truncated": (lambda b: b.shard().write_bytes(b.shard().read_bytes()[:-100]), "truncated|outside"),
    "shard garbage": (lambda b: b.shard().write_bytes(b"\xff" * 64), "header"),
    "tensor missing": (_missing_visual_tensor, "multi_modal_projector"),
    "NaN in the tower": (_visual_nan, "NaN"),
    "quantised tower": (_quantised_tower, "vision_tower"),
    "pickles only": (_pickles, "pickles"),
    "adapter": (_adapter, "merge"),
    "no image processor": (lambda b: (b.model / "preprocessor_config.json").unlink(), "processor"),
    "wrong tower": (_flags("--tower", "model.no_such_tower"), "no_such_tower"),
    "wrong projector": (_flags("--projector", "model.nothing"), "nothing"),
    "forget file missing": (lambda b: b.forget.unlink(), "forget.jsonl"),
    "forget file empty": (_lines(""), "forget.jsonl"),
    "bad JSON": (_lines('{"image": "forget/0-0.png"}\n{broken\n'), "forget.jsonl:2"),
    "unknown key": (lambda b: b.first_row(imgae="x"), "imgae"),
    "wrong type": (lambda b: b.first_row(subject=["a"]), "forget.jsonl:1"),
    "image missing": (lambda b: b.first_row(image="forget/none.png"), "forget.jsonl:1"),
    "image truncated": (_truncated_image, "png"),
    "decompression bomb": (_bomb, "pixels"),
    "image by URL": (lambda b: b.first_row(image="https://example.org/a.png"), "forget.jsonl:1"),
    "answer not among options": (
        lambda b: b.first_row(question="Who?", answer="Eve", options=["Ann", "Bob"]),
        "options",
    ),
    "folder without images": (_empty_folder, "empty"),
    "sets overlap": (_overlap, "share"),
    "output not empty": (_out_not_empty, "not empty"),
    "output inside the model": (lambda b: setattr(b, "out", b.model / "out"), "inside"),
    "output without a parent": (lambda b: setattr(b, "out", b.place / "no" / "out"), "parent"),
    "recipe with an unknown key": (_recipe("stepz: 5"), "stepz"),
    "recipe out of range": (_recipe("density: 2"), "density"),
    "recipe with an alias": (_recipe("layers: &a {projector: 1.0}\nlr: *a"), "aliases"),
    "recipe with a key twice": (_recipe("steps: 5\nsteps: 6"), "twice"),
    "recipe with a number for a key": (_recipe("1: 2"), "is not a word"),
    "recipe with a truth value for a number": (_recipe("warmup: true"), "warmup"),
    "recipe without bounds": (_recipe("retain_drift: .inf"), "retain_drift"),
    "recipe with an impossible date": (_recipe("warmup: 2024-99-99"), r"warmup.*valid number"),
    "processor of another size": (_other_image_size, "image processor"),
    "forget folder with a linked folder": (_linked_folder, "symbolic link"),
    "forget folder with an unreadable format": (_heic, "heic"),
    "output with an endless name": (lambda b: setattr(b, "out", b.place / ("x" * 300)), "too long"),
    "seed out of range": (_flags("--seed", "-1"), "seed"),
    "recipe missing": (_flags("--recipe", "/no/such/recipe.yaml"), "recipe.yaml"),
    "unknown layer": (_flags("--set", "layers=layer.99"), "layer.99"),
    "weight that is none": (_flags("--set", "layers=projector=much"), "much"),
    "mask that selects nothing": (_flags("--set", "density=1e-9"), "selects nothing"),
    "no such device": (_flags("--device", "quantum"), "quantum"),
    "no such dtype": (_flags("--dtype", "int3"), "int3"),
    "more stand-ins than people": (_flags("--set", "stand_ins=99"), "stand_ins"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_status_2_and_costs_nobody_anything(
    case: str, tmp_path: Path, llava: Path, sets: dict[str, Path], capsys: pytest.CaptureFixture[str]
):
    import re

    bench = Bench(tmp_path, llava, sets)
    breakage, message = CASES[case]
    breakage(bench)
    there = sorted(tmp_path.iterdir())
    words = ["unlearn", str(bench.model), "--forget", str(bench.forget), "--retain", str(bench.retain)]
    assert run([*words, "-o", str(bench.out), "--steps", "2", *bench.more]) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told
    assert sorted(tmp_path.iterdir()) == there, "nothing is written"
    if case == "output not empty":
        assert (bench.out / "precious.txt").read_text() == "keep me"


def test_a_tower_of_another_kind_is_refused_by_its_split(tmp_path: Path, sets: dict[str, Path]):
    model = build_checkpoint("paligemma", tmp_path / "model")
    words = ["unlearn", str(model), "--forget", str(sets["forget"]), "--retain", str(sets["retain"])]
    assert run([*words, "-o", str(tmp_path / "out"), "--tower", "model.language_model"]) == 2
    assert not (tmp_path / "out").exists()
