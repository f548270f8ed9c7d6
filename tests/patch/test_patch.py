"""Patch files: bit-identical to what they were exported from, refused by any other base, never with old values."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.checkpoint.conftest import edit_header, edit_json, edit_tensors, files_of, leftovers
from tests.families import build_checkpoint
from tests.patch.conftest import Case, operate
from vkdsurgeon.checkpoint import stage
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.files import copy as copy_module
from vkdsurgeon.patch import export
from vkdsurgeon.patch.apply import apply_patches
from vkdsurgeon.patch.export import export_patch
from vkdsurgeon.patch.read import open_patch
from vkdsurgeon.patch.state import verify_patches


def test_what_comes_out_is_bit_identical(case: Case, tmp_path: Path) -> None:
    result = apply_patches(case.base, [case.patch], tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(case.patched)
    assert result.differing == []
    assert result.warnings == []
    assert leftovers(tmp_path) == ["out"]
    # Nothing but the weight files that hold visual tensors and the record differ from the base.
    base, out = files_of(case.base), files_of(tmp_path / "out")
    shards = {tensor.file for tensor in open_patch(case.patch).facts.tensors.values()}
    assert {path for path in out if base.get(path) != out[path]} == {*shards, "vkdsurgeon.json"}


def test_patches_stack_in_order(case: Case, tmp_path: Path) -> None:
    apply_patches(case.base, [case.patch, case.second], tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(case.again)
    with pytest.raises(UserError, match="does not follow on"):
        apply_patches(case.base, [case.second, case.patch], tmp_path / "wrong")
    with pytest.raises(UserError, match="is not the base of this patch"):
        apply_patches(case.base, [case.second], tmp_path / "wrong")
    assert leftovers(tmp_path) == ["out"]


def test_file_names_that_are_no_utf_8(case: Case, copy: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (copy / name).write_text("before")
    patched = Path(shutil.copytree(case.patched, tmp_path / "patched"))
    (patched / name).write_text("after")
    export_patch(copy, patched, tmp_path / "patch")
    apply_patches(copy, [tmp_path / "patch"], tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(patched)


def test_one_file_in_float32_and_removed_files(tmp_path: Path) -> None:
    base = build_checkpoint("qwen2_5_vl", tmp_path / "base")
    (base / "old.bin").write_bytes(b"x" * 10)
    operate(base, tmp_path / "patched", "vkdsurgeon.json", 3)
    (tmp_path / "patched" / "old.bin").unlink()
    (tmp_path / "patched" / "README.md").write_text("changed")
    for compression in ("none", "zstd"):
        patch = tmp_path / f"{compression}.safetensors"
        result = export_patch(base, tmp_path / "patched", patch, compression=compression)
        assert result.removed == ["old.bin"]
        apply_patches(base, [patch], tmp_path / compression)
        assert files_of(tmp_path / compression) == files_of(tmp_path / "patched")
    assert (tmp_path / "zstd.safetensors").stat().st_size < (tmp_path / "none.safetensors").stat().st_size


def test_a_patch_holds_new_values_alone(case: Case) -> None:
    """Every value in it is one of the result, at a place where the base had another."""
    facts = open_patch(case.patch).facts
    for name, tensor in facts.tensors.items():
        change = open_patch(case.patch).change(name)
        old = load_file(case.base / tensor.file)[name].reshape(-1)[torch.from_numpy(change.mask)]
        new = load_file(case.patched / tensor.file)[name].reshape(-1)[torch.from_numpy(change.mask)]
        with safe_open(case.patch, "pt") as opened:
            held = opened.get_tensor(f"values:{name}")
        assert torch.equal(held, new)
        assert bool((held != old).all())
        assert tensor.changed == len(held) < old.new_empty(tensor.shape).numel()
    keys = {f"{kind}:{name}" for name in facts.tensors for kind in ("mask", "values")}
    with safe_open(case.patch, "pt") as opened:
        assert set(opened.keys()) == keys | {"file:vkdsurgeon.json"}
        # What else is told are digests and places.
        assert set(opened.metadata()) == {"vkdsurgeon"}


def test_the_size_follows_what_changed(case: Case) -> None:
    changed = sum(tensor.changed for tensor in open_patch(case.patch).facts.tensors.values())
    elements = sum(take_inventory(case.base).tensors[name].elements for name in open_patch(case.patch).facts.tensors)
    header = int.from_bytes(case.patch.read_bytes()[:8], "little")
    record = (case.patched / "vkdsurgeon.json").stat().st_size
    masks = case.patch.stat().st_size - 8 - header - record - 2 * changed
    assert elements / 8 <= masks <= elements / 8 + len(open_patch(case.patch).facts.tensors)


@pytest.mark.parametrize("what", ["language", "tower", "settings", "missing"])
def test_another_base_is_refused(case: Case, copy: Path, tmp_path: Path, what: str) -> None:
    inventory = take_inventory(copy)
    words = {"language": "language_model", "tower": "vision_tower"}
    if what == "settings":
        edit_json(copy / "config.json", lambda config: config.update(torch_dtype="float16"))
    elif what == "missing":
        (copy / "generation_config.json").unlink()
    else:
        name = next(name for name in inventory.tensors if words[what] in name)
        entry = inventory.tensors[name]
        with (copy / entry.file).open("r+b") as stream:
            stream.seek(entry.begin)
            stream.write(bytes([stream.read(1)[0] ^ 1]))
            stream.seek(entry.begin)
            stream.write(b"\x01")
    before = files_of(copy)
    with pytest.raises(UserError, match="is not the base of this patch"):
        apply_patches(copy, [case.patch], tmp_path / "out")
    with pytest.raises(UserError, match="is not the base of this patch"):
        vkdsurgeon.patch_checkpoint(copy, case.patch, None)
    assert leftovers(tmp_path) == ["copy"]
    assert files_of(copy) == before


def test_documentation_of_the_base_may_differ(case: Case, copy: Path, tmp_path: Path) -> None:
    (copy / "README.md").write_text("# Another text\n")
    (copy / "notes.txt").write_text("of my own")
    result = apply_patches(copy, [case.patch], tmp_path / "out")
    assert set(result.differing) == {"README.md", "notes.txt"}
    assert len(result.warnings) == 2
    wanted = {**files_of(case.patched), "README.md": b"# Another text\n", "notes.txt": b"of my own"}
    assert files_of(tmp_path / "out") == wanted


@pytest.mark.parametrize("place", ["mask", "values", "file", "zstd"])
def test_a_damaged_patch_changes_nothing(case: Case, copy: Path, tmp_path: Path, place: str) -> None:
    source, base = (case.second, case.patched) if place == "zstd" else (case.patch, copy)
    patch = tmp_path / "damaged.safetensors"
    shutil.copy(source, patch)
    key = next(key for key in open_patch(patch).entries if key.startswith({"zstd": "values"}.get(place, place) + ":"))
    entry = open_patch(patch).entries[key]
    with patch.open("r+b") as stream:
        stream.seek(entry.end - 1)
        byte = stream.read(1)[0]
        stream.seek(entry.end - 1)
        stream.write(bytes([byte ^ 1]))
    before = files_of(base)
    for out in (tmp_path / "out", None):
        with pytest.raises(UserError, match="damaged"):
            vkdsurgeon.patch_checkpoint(base, patch, out)
    assert files_of(base) == before
    assert leftovers(tmp_path) == ["copy", "damaged.safetensors"]


def edit_facts(patch: Path, key: str, value: object) -> None:
    def edit(header: dict) -> None:
        facts = json.loads(header["__metadata__"]["vkdsurgeon"])
        facts[key] = value(facts[key]) if callable(value) else value
        header["__metadata__"]["vkdsurgeon"] = json.dumps(facts)

    edit_header(patch, edit)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("removed", ["../escaped"], "outside the model"),
        ("removed", ["/etc/passwd"], "outside the model"),
        ("files", {}, "do not agree"),
        ("tensors", {}, "do not agree"),
        ("compression", "zstd", "damaged"),
        ("compression", "rar", "broken"),
        ("schema", "vkdsurgeon/patch/9", "another kind"),
        ("base", {"weights_digest": "short", "files": {}}, "broken"),
        ("tensors", lambda found: {n: {**t, "changed": t["changed"] + 1} for n, t in found.items()}, "wrong length"),
        ("tensors", lambda found: {n: {**t, "shape": [2**40]} for n, t in found.items()}, "wrong length"),
    ],
)
def test_hostile_metadata_is_refused(
    case: Case, copy: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    patch = tmp_path / "hostile.safetensors"
    shutil.copy(case.patch, patch)
    edit_facts(patch, key, value)
    before = files_of(copy)
    with pytest.raises(UserError, match=message):
        vkdsurgeon.patch_checkpoint(copy, patch, None)
    with pytest.raises(UserError, match=message):
        vkdsurgeon.patch_checkpoint(copy, patch, tmp_path / "out")
    assert files_of(copy) == before
    assert leftovers(tmp_path) == ["copy", "hostile.safetensors"]


def test_files_that_are_no_patches(case: Case, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is a folder"),
        (next(case.base.glob("*.safetensors")), "not a patch"),
        (case.base / "config.json", "header"),
    ):
        with pytest.raises(UserError, match=message):
            open_patch(path)


def test_another_layout_has_no_patch(case: Case, tmp_path: Path) -> None:
    other = build_checkpoint("llava", tmp_path / "other", dtype=torch.bfloat16)
    with pytest.raises(UserError, match="do not lie where the base has them"):
        export_patch(case.base, other, tmp_path / "fix.safetensors")
    with pytest.raises(UserError, match="the output exists"):
        export_patch(case.base, case.patched, case.patch)
    assert leftovers(tmp_path) == ["other"]


def test_a_failed_export_leaves_nothing(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "fsync", full)
    with pytest.raises(SurgeryError, match="No space left"):
        export_patch(case.base, case.patched, tmp_path / "fix.safetensors")
    assert leftovers(tmp_path) == []


def test_verify_tells_base_result_and_other(case: Case, copy: Path) -> None:
    both = [case.patch, case.second]
    assert verify_patches(case.base, both).state == "base"
    assert verify_patches(case.again, both).state == "result"
    middle = verify_patches(case.patched, both)
    assert middle.state == "other"
    assert middle.differing
    edit_json(copy / "config.json", lambda config: config.update(torch_dtype="float16"))
    assert verify_patches(copy, both).differing == ["config.json"]


def test_the_commands(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fix, out = str(tmp_path / "fix.safetensors"), str(tmp_path / "out")
    base, patched = str(case.base), str(case.patched)
    assert run(["patch", "export", base, patched, "-o", fix, "--compression", "zstd", "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["bytes"] == Path(fix).stat().st_size < exported["model_bytes"]
    assert run(["patch", "info", fix]) == 0
    assert "values in" in capsys.readouterr().out
    assert run(["patch", "apply", base, fix]) == 2
    assert run(["patch", "apply", base, fix, "-o", out]) == 0
    assert run(["patch", "verify", out, fix]) == 0
    assert run(["patch", "verify", out, fix, str(case.second)]) == 3
    assert files_of(Path(out)) == files_of(case.patched)
    assert run(["patch", "apply", out, fix, "-o", str(tmp_path / "twice")]) == 2
    assert "applied to this checkpoint already" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["auto", torch.float32])
def test_a_loaded_model_gets_the_same_weights(case: Case, dtype: str | torch.dtype) -> None:
    model = AutoModelForImageTextToText.from_pretrained(case.base, dtype=dtype)
    count = vkdsurgeon.apply_patch(model, [case.patch, case.second])
    facts = [open_patch(path).facts for path in (case.patch, case.second)]
    assert count == sum(tensor.changed for each in facts for tensor in each.tensors.values())
    wanted = AutoModelForImageTextToText.from_pretrained(case.again, dtype=dtype).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    # Twice would be another base, and changes nothing.
    with pytest.raises(UserError, match="is not the base of this patch"):
        vkdsurgeon.apply_patch(model, case.patch)
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_a_loaded_model_in_a_narrower_dtype_is_refused(tmp_path: Path) -> None:
    base = build_checkpoint("llava", tmp_path / "base")
    operate(base, tmp_path / "patched", "vkdsurgeon.json", 3)
    export_patch(base, tmp_path / "patched", tmp_path / "fix.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
    with pytest.raises(UserError, match="another form than the checkpoint"):
        vkdsurgeon.apply_patch(model, tmp_path / "fix.safetensors")


def test_memory_is_bounded_by_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tensors change; what is held at once is a small multiple of the largest of them."""
    for module in (copy_module, stage):
        monkeypatch.setattr(module, "CHUNK", 1 << 16)
    base = tmp_path / "base"
    shutil.copytree(build_checkpoint("llava", tmp_path / "any", text={"vocab_size": 128}), base)
    names = [f"model.vision_tower.more.{count}" for count in range(40)]
    edit_tensors(base / "model.safetensors", lambda t: t.update({name: torch.ones(64, 1024) for name in names}))
    inventory = take_inventory(base)
    changes = {name: read_tensor(inventory, name) + (torch.arange(1024) % 5 == 0) for name in names}
    write_patched(inventory, changes, tmp_path / "patched")
    del changes
    largest = max(entry.nbytes for entry in inventory.tensors.values())
    visual = len(names) * largest
    peaks = []
    for job in (
        lambda: export_patch(base, tmp_path / "patched", tmp_path / "fix.safetensors"),
        lambda: apply_patches(base, [tmp_path / "fix.safetensors"], tmp_path / "out"),
    ):
        tracemalloc.start()
        job()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < 10 * largest < visual / 3, (peaks, largest)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "patched")


def test_the_output_gets_the_umask(case: Case, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        export_patch(case.base, case.patched, tmp_path / "fix.safetensors")
    finally:
        os.umask(mask)
    assert (tmp_path / "fix.safetensors").stat().st_mode & 0o777 == 0o640
