"""What is measured is decided here: by no generation config of a checkpoint, and by no answer that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.data.read import read_records
from vkdsurgeon.evaluation.score import Scoring, answer_records
from vkdsurgeon.model.multimodal import load_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def _said(root: Path, facts: World) -> list[str]:
    loaded = load_model(root, device="cpu")
    records = [record for record in read_records(facts.forget, role="forget") if not record.options][:4]
    return [answer.said for answer in answer_records(loaded, records, Scoring(max_new_tokens=6))]


@pytest.mark.parametrize(
    "settings",
    [
        {"min_new_tokens": 5},
        {"suppress_tokens": list(range(7, 30))},
        {"begin_suppress_tokens": list(range(7, 40))},
        {"repetition_penalty": 9.0},
        {"no_repeat_ngram_size": 1},
        {"return_dict_in_generate": True},
        {"stop_strings": ["a"]},
        {"prompt_lookup_num_tokens": 2},
        {"dola_layers": "low"},
        {"num_return_sequences": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.6, "top_k": 4, "do_sample": True, "temperature": 9.0},
        {"max_length": 1},
        {"forced_eos_token_id": 3},
        {"bad_words_ids": [[8], [9]]},
        {"guidance_scale": 3.0},
        {"cache_implementation": "nonsense"},
        {"eos_token_id": [3, 4]},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_no_setting_of_the_checkpoint_changes_what_is_measured(
    facts: World, tmp_path: Path, settings: dict[str, Any]
) -> None:
    root = Path(shutil.copytree(facts.base, tmp_path / "model"))
    path = root / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    assert _said(root, facts) == _said(facts.base, facts)
    assert all(_said(facts.base, facts))


def test_a_checkpoint_without_the_file_ends_its_answers_all_the_same(facts: World, tmp_path: Path) -> None:
    root = Path(shutil.copytree(facts.base, tmp_path / "model"))
    (root / "generation_config.json").unlink()
    assert _said(root, facts) == _said(facts.base, facts)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [1.5]}'])
def test_a_broken_file_is_named(facts: World, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(facts.base, tmp_path / "model"))
    (root / "generation_config.json").write_text(content)
    assert run(["eval", str(root), "--forget", str(facts.forget)]) == 2
    told = capsys.readouterr().err
    assert "generation_config.json" in told
    assert "Traceback" not in told


def _altered(facts: World, place: Path, alter: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    root = Path(shutil.copytree(facts.base, place))
    tensors = load_file(root / WEIGHTS)
    alter(tensors)
    save_file(tensors, root / WEIGHTS, metadata={"format": "pt"})
    return root


def _not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.endswith("model.norm.weight"))
    tensors[name] = torch.full_like(tensors[name], float("nan"))


def _silent(tensors: dict[str, torch.Tensor]) -> None:
    """Ends every answer before it begins."""
    head = next(name for name in tensors if name.endswith("lm_head.weight"))
    norm = next(name for name in tensors if name.endswith("model.norm.weight"))
    tensors[norm] = torch.zeros_like(tensors[norm])
    tensors[head] = torch.zeros_like(tensors[head])


@pytest.fixture(scope="module")
def sets(facts: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Questions that are answered in words alone."""
    folder = Path(shutil.copytree(facts.forget.parent, tmp_path_factory.mktemp("words") / "sets"))
    found = {}
    for name in ("forget", "retain"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        found[name] = folder / f"{name}_said.jsonl"
        kept = [row for row in rows if row["task"] == "vqa.say"][::3]
        found[name].write_text("".join(json.dumps(row) + "\n" for row in kept))
    return found


ATTACKS: dict[str, tuple[list[str], str]] = {
    "eval": (["eval"], "forget.vqa.exact"),
    "restore": (["attack", "restore", "--reference", "BASE"], "restore.after.vqa.exact"),
    "perturb": (["attack", "perturb", "--perturbation", "noise", "--perturbation", "hflip"], "perturb.worst.vqa.exact"),
    "quantize": (["attack", "quantize"], "quantize.worst.vqa.exact"),
    "prompt": (["attack", "prompt"], "prompt.worst.vqa.exact"),
    "typography": (["attack", "typography"], "typography.blank.vqa.exact"),
    "relearn": (["attack", "relearn", "--steps", "2"], "relearn.ag"),
}

# Attacks that ask as others do, of one more model each.
HEAVY = ("quantize", "prompt", "typography")


@pytest.mark.parametrize("broken", [_not_a_number, _silent])
@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.campaign) if name in HEAVY else name for name in ATTACKS]
)
def test_a_broken_model_passes_no_forget_gate(
    facts: World,
    sets: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    broken: Callable[[dict[str, torch.Tensor]], None],
) -> None:
    root = _altered(facts, tmp_path / "model", broken)
    if broken is _silent:
        # All logits alike: the token of the lowest number wins, and ends the answer.
        path = root / "generation_config.json"
        path.write_text(json.dumps({"eos_token_id": [0, 3], "pad_token_id": 0}))
    words, metric = ATTACKS[command]
    if command == "relearn" and broken is _silent:
        pytest.skip("an attacker may well teach it to speak")
    words = [str(facts.base) if word == "BASE" else word for word in words]
    at = 1 if words[0] == "eval" else 2
    call = [*words[:at], str(root), *words[at:], "--forget", str(sets["forget"]), "--retain", str(sets["retain"])]
    status = run([*call, "--gate", f"{metric}<=0.5", "--json"])
    told = capsys.readouterr()
    assert status == 3, told.err
    document = json.loads(told.out)
    (gate,) = document["gates"]
    assert gate["value"] is None
    assert not gate["passed"]
    assert any("broken" in warning for warning in document["warnings"]), document["warnings"]
    assert "could not be measured" in told.err


def test_silence_about_what_is_to_be_forgotten_alone_is_forgetting(facts: World) -> None:
    from dataclasses import replace

    from vkdsurgeon.evaluation.silence import without_silence

    loaded = load_model(facts.base, device="cpu")
    kept = [record for record in read_records(facts.retain, role="retain") if not record.options][:2]
    answers = answer_records(loaded, kept, Scoring())
    silent = [replace(answer, said="", silent=True, values={"exact": 0.0}) for answer in answers]
    assert without_silence({"forget": silent, "retain": answers})["forget"] == silent
    marked = without_silence({"forget": silent, "retain": silent})["forget"]
    assert all(answer.values["exact"] != answer.values["exact"] for answer in marked)
