"""`verify`: an untouched release passes, and every kind of tampering is caught and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.checkpoint.conftest import edit_json
from tests.conftest import write_set
from tests.families import build_checkpoint
from tests.release.conftest import Released
from vkdsurgeon.checkpoint.digest import checkpoint_digests
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.errors import UserError
from vkdsurgeon.release.sign import sign_checkpoint
from vkdsurgeon.results.verification import VerifyResult

NEWEST = "vkdsurgeon.2.json"


def outcomes(result: VerifyResult) -> dict[str, str]:
    return {each.check: each.outcome for each in result.checks}


def flip(root: Path, part: str) -> str:
    """One bit of the first tensor of a part; its name."""
    inventory = take_inventory(root)
    entry = next(entry for name, entry in inventory.tensors.items() if part in name)
    with (root / entry.file).open("r+b") as stream:
        stream.seek(entry.begin)
        byte = stream.read(1)[0]
        stream.seek(entry.begin)
        stream.write(bytes([byte ^ 1]))
    return entry.file


def own_up(root: Path) -> None:
    """Make the record agree with the weights, as whoever tampers with them would."""
    found = checkpoint_digests(take_inventory(root))

    def edit(record: dict) -> None:
        record["weights_digest"] = found.weights
        for path in found.files:
            if path.endswith(".safetensors"):
                record["changed_files"][path] = found.files[path]

    edit_json(root / NEWEST, edit)


def test_an_untouched_release_passes(released: Released) -> None:
    result = vkdsurgeon.verify(released.patched, base=released.base, forget=released.forget)
    assert result.passed, result.failures
    told = outcomes(result)
    assert told.pop("signature") == "skipped"
    assert set(told.values()) == {"passed"}
    assert result.request == {"id": "R-17", "date": "2026-03-01"}
    chain = next(each for each in result.checks if each.check == "chain")
    assert chain.told.startswith("1 earlier run")


def language_bit(root: Path) -> list[str]:
    return [flip(root, "language_model")]


def visual_bit(root: Path) -> list[str]:
    return [flip(root, "vision_tower")]


def config(root: Path) -> list[str]:
    edit_json(root / "config.json", lambda found: found.update(image_token_index=99))
    return ["config.json"]


def tokenizer_gone(root: Path) -> list[str]:
    (root / "preprocessor_config.json").unlink()
    return ["preprocessor_config.json"]


def code_added(root: Path) -> list[str]:
    (root / "modeling_evil.py").write_text("import os\n")
    return ["modeling_evil.py"]


def pickle_added(root: Path) -> list[str]:
    (root / "pytorch_model.bin").write_bytes(b"\x80\x04weights")
    return ["pytorch_model.bin"]


def first_record_gone(root: Path) -> list[str]:
    (root / "vkdsurgeon.json").unlink()
    return ["vkdsurgeon.json"]


def first_record_edited(root: Path) -> list[str]:
    edit_json(root / "vkdsurgeon.json", lambda found: found["request"].update(id="R-99"))
    return ["vkdsurgeon.json"]


def newest_record_edited(root: Path) -> list[str]:
    edit_json(root / NEWEST, lambda found: found.update(seed=7))
    return [NEWEST]


def weights_and_record(root: Path) -> list[str]:
    """The language model is changed, and the record says so."""
    flip(root, "language_model")
    own_up(root)
    return [NEWEST]


TAMPERED: dict[str, tuple[Callable[[Path], list[str]], set[str]]] = {
    "a bit of the language model": (language_bit, {"files", "weights", "unselected"}),
    "a bit of the tower": (visual_bit, {"files", "weights"}),
    "a setting": (config, {"files"}),
    "a file gone": (tokenizer_gone, {"files"}),
    "code added": (code_added, {"files"}),
    "a pickle added": (pickle_added, {"files"}),
    "an earlier record gone": (first_record_gone, {"files", "chain"}),
    "an earlier record edited": (first_record_edited, {"files", "chain"}),
    "the newest record edited": (newest_record_edited, {"record"}),
    "weights and record": (weights_and_record, {"record", "unselected"}),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_ten_tampered_outputs_are_caught_and_named(
    released: Released, copy: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tamper, wanted = TAMPERED[kind]
    names = tamper(copy)
    kept = str(released.patched / NEWEST)
    assert run(["verify", str(copy), "--base", str(released.base), "--record", kept, "--json"]) == 3
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["verdict"] == "failed"
    failed = {each["check"] for each in result["checks"] if each["outcome"] == "failed"}
    assert wanted <= failed
    named = [name for each in result["checks"] for name in each["names"]]
    assert all(any(name in each for each in named) for name in names), named
    assert all(name in captured.err for name in names)


def test_without_the_kept_record_a_base_still_catches_both(released: Released, copy: Path) -> None:
    """Who changes weights and record together is caught by the base alone, where more moved than was selected."""
    weights_and_record(copy)
    assert vkdsurgeon.verify(copy).passed
    assert outcomes(vkdsurgeon.verify(copy, base=released.base))["unselected"] == "failed"


def test_another_set_and_another_base_are_told(released: Released, tmp_path: Path) -> None:
    other = write_set(tmp_path, "other", range(2), views=7)
    result = vkdsurgeon.verify(
        released.patched, forget=other, base=build_checkpoint("llava", tmp_path / "model", seed=9)
    )
    told = outcomes(result)
    assert (told["set"], told["base"], told["unselected"]) == ("failed", "failed", "failed")
    assert told["weights"] == "passed"


def test_the_base_of_the_first_run_is_one_too(released: Released, llava: Path, copy: Path) -> None:
    result = vkdsurgeon.verify(released.patched, base=llava)
    assert result.passed, result.failures
    told = {each.check: each.told for each in result.checks}
    assert told["base"] == "it is the base that the first of 2 runs began with"
    flip(copy, "language_model")
    own_up(copy)
    assert outcomes(vkdsurgeon.verify(copy, base=llava))["unselected"] == "failed"


def test_signatures_cover_every_file(released: Released, copy: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    signature = tmp_path / "model.sig"
    sign_checkpoint(copy, keys[0], signature)
    asked = {"signature": signature, "public_key": keys[1]}
    assert outcomes(vkdsurgeon.verify(copy, **asked))["signature"] == "passed"
    weights_and_record(copy)
    assert outcomes(vkdsurgeon.verify(copy, **asked))["signature"] == "failed"
    with pytest.raises(UserError, match="not a key"):
        vkdsurgeon.verify(copy, signature=signature, public_key=copy / "config.json")
    with pytest.raises(UserError, match="inside the model"):
        sign_checkpoint(copy, keys[0], copy / "model.sig")
    with pytest.raises(UserError, match="no such signature"):
        vkdsurgeon.verify(copy, signature=tmp_path / "none", public_key=keys[1])


def test_a_checkpoint_without_a_record_is_no_release(llava: Path, copy: Path) -> None:
    with pytest.raises(UserError, match="no record of a run"):
        vkdsurgeon.verify(llava)
    edit_json(copy / NEWEST, lambda found: found.pop("base"))
    with pytest.raises(UserError, match="earlier version"):
        vkdsurgeon.verify(copy)


def test_inspect_says_that_it_is_patched(released: Released, capsys: pytest.CaptureFixture[str]) -> None:
    runs = vkdsurgeon.inspect(released.patched).runs
    record = json.loads((released.patched / NEWEST).read_text())
    assert [each.record for each in runs] == ["vkdsurgeon.json", NEWEST]
    assert (runs[1].request_id, runs[1].request_date) == ("R-17", "2026-03-01")
    assert runs[1].base_weights_digest == runs[0].weights_digest == record["base"]["weights_digest"]
    assert run(["inspect", str(released.patched)]) == 0
    shown = capsys.readouterr().out
    assert "PATCHED by" in shown
    assert record["weights_digest"] in shown


def test_the_records_name_nobody(released: Released) -> None:
    """Neither the subjects of the sets, nor their files, nor where they lie."""
    records = sorted(released.patched.glob("vkdsurgeon*.json"))
    assert len(records) == 2
    rows = [json.loads(line) for line in released.forget.read_text().splitlines()]
    for record in records:
        text = record.read_text()
        for row in rows:
            assert row["subject"] not in text
            assert Path(row["image"]).name not in text
        assert str(released.forget.parent) not in text


def test_the_record_tells_machine_and_kernels(released: Released) -> None:
    record = json.loads((released.patched / NEWEST).read_text())
    assert set(record["environment"]) == {
        "system", "machine", "processor", "threads", "processes", "accelerator", "cuda", "kernels",
    }  # fmt: skip
    assert record["environment"]["kernels"]["masked_adamw"] == "reference"
    assert record["earlier_runs"][0]["request"] == {"id": "R-16", "date": None}


@pytest.mark.parametrize(("option", "value"), [("request_id", "a\nb"), ("request_date", "1 March 2026")])
def test_a_request_tag_is_checked_before_the_work(released: Released, tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(UserError, match="not a"):
        vkdsurgeon.unlearn(released.base, released.forget, tmp_path / "out", **{option: value})
    assert not (tmp_path / "out").exists()


def test_a_patch_is_verified_like_what_it_was_exported_from(released: Released, tmp_path: Path) -> None:
    vkdsurgeon.export_patch(released.base, released.patched, tmp_path / "fix.safetensors", compression="zstd")
    vkdsurgeon.patch_checkpoint(released.base, tmp_path / "fix.safetensors", tmp_path / "out")
    assert vkdsurgeon.verify(tmp_path / "out", base=released.base, forget=released.forget).passed
    shutil.rmtree(tmp_path / "out")
