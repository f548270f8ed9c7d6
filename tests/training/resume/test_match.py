"""A journal of other inputs, a damaged one, and places where no journal can be: refused, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import vkdsurgeon.checkpoint.provenance
import vkdsurgeon.pipeline.fingerprint
from tests.training.resume.runs import DECODER, RECIPE, Ear, Place, asked, files, go, stop
from vkdsurgeon.errors import UserError
from vkdsurgeon.pipeline.request import Request
from vkdsurgeon.training.resume.files import Folder
from vkdsurgeon.vision_pass.stop_rule import Seen, judge

BOTH = RECIPE.model_copy(update={"decoder": DECODER, "steps": 4})


@pytest.fixture(scope="module")
def stopped(here: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed in its decoder pass."""
    folder = tmp_path_factory.mktemp("stopped")
    stop(asked(here, folder / "out", BOTH), "decoder step 2")
    return folder


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(request: Request, words: str) -> UserError:
    """The run is refused before it trains, and the journal stays as it was."""
    assert request.out is not None
    before = files(request.out.parent)
    ear = Ear()
    with pytest.raises(UserError, match=words) as caught:
        go(request, ear)
    assert not {"teacher", "step"} & set(ear.events)
    assert files(request.out.parent) == before
    assert not any("goes on from there" in note for note in ear.notes)
    return caught.value


def rewritten(source: Path, folder: Path, alter: Callable[[list[str]], list[str]]) -> Path:
    """A set beside its images, with other rows."""
    target = source.with_name(f"{folder.name}-{source.name}")
    target.write_text("".join(alter(source.read_text().splitlines(keepends=True))))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 4}, r"the seed \(`seed`\) \(got 4\)\nexpected: 3"),
        ({"recipe": BOTH.model_copy(update={"density": 0.3})}, r"the recipe: density \(got 0.3\)\nexpected: 0.5"),
        ({"recipe": BOTH.model_copy(update={"decoder": None}), "text": None}, "(?m)the recipe: decoder$"),
        (
            {"recipe": BOTH.model_copy(update={"decoder": DECODER.model_copy(update={"steps": 9})})},
            r"the recipe: decoder.steps \(got 9\)\nexpected: 4",
        ),
        ({"text": None}, "the text retain set"),
        ({"retain": None}, "the retain set"),
    ],
)
def test_other_settings(here: Place, copy: Path, changes: dict[str, Any], words: str) -> None:
    refused(asked(here, copy / "out", **{"recipe": BOTH, "resume": True, **changes}), words)


def test_other_images_order_subjects_or_questions(here: Place, copy: Path) -> None:
    def asked_with(**changes: Any) -> Request:
        return asked(here, copy / "out", BOTH, resume=True, **changes)

    fewer = rewritten(here.forget, copy, lambda rows: rows[4:])
    refused(asked_with(forget=fewer), r"the forget set \(`forget`\)")
    turned = rewritten(here.retain, copy, lambda rows: rows[::-1])
    refused(asked_with(retain=turned), r"the retain set \(`retain`\)")
    renamed = rewritten(
        here.forget, copy, lambda rows: [row.replace('"subject": "Ann"', '"subject": "Eve"') for row in rows]
    )
    refused(asked_with(forget=renamed), "the forget set")
    others = rewritten(
        here.retain, copy, lambda rows: [row.replace("Say the name", "Who is this person ?") for row in rows]
    )
    refused(asked_with(retain=others), "the questions about the images")


def test_other_weights_configs_and_versions(
    here: Place, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(here, copy / "out", BOTH, resume=True)
    for name, words in (
        ("multi_modal_projector", "the checkpoint$"),
        ("lm_head", "the weights of the language model$"),
    ):
        model = Path(shutil.copytree(here.model, copy.with_name(f"{copy.name}-{name}")))
        tensors = load_file(model / "model.safetensors")
        next(value for key, value in tensors.items() if name in key).view(-1)[0] += 1
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        refused(asked(here, copy / "out", BOTH, resume=True, model=model), f"(?m){words}")
    config = model / "tokenizer_config.json"
    config.write_text(config.read_text() + " ")
    shutil.copy(here.model / "model.safetensors", model)
    refused(asked(here, copy / "out", BOTH, resume=True, model=model), "(?m)the checkpoint$")
    (model / "README.md").write_text("Documentation decides nothing.")
    shutil.copy(here.model / "tokenizer_config.json", model)
    known = vkdsurgeon.checkpoint.provenance.versions()
    monkeypatch.setattr(vkdsurgeon.pipeline.fingerprint, "versions", lambda: {**known, "torch": "9.9"})
    refused(request, r"an installed version: torch \(got '9.9'\)")
    monkeypatch.undo()
    ear = Ear()
    go(asked(here, copy / "out", BOTH, resume=True, model=model), ear)
    assert ear.events.count("decoder step") == 3


def test_places_may_change(here: Place, copy: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(here.model.parent, copy.with_name(f"{copy.name}-moved")))
    there = Place(*(moved / path.name for path in vars(here).values()))
    ear = Ear()
    go(asked(there, copy / "elsewhere", BOTH, resume=True, journal=copy / "out.journal"), ear)
    assert (ear.events.count("step"), ear.events.count("decoder step")) == (0, 3)


def test_it_holds_nothing_of_the_sets_but_salted_digests(here: Place, copy: Path) -> None:
    text = (copy / "out.journal" / "journal.json").read_bytes()
    found = files(copy / "out.journal")
    everything = b"".join(found.values())
    # Numbers spell short words by chance, so these are looked for where text may be: documents, and heads of tensors.
    written = text + b"".join(
        each[: 8 + int.from_bytes(each[:8], "little")] for each in found.values() if each[8:9] == b"{"
    )
    rows = [json.loads(row) for path in (here.forget, here.retain, here.text) for row in path.read_text().splitlines()]
    told = {str(row[key]) for row in rows for key in ("subject", "answer", "question", "image") if key in row}
    assert {"Ann", "red house", "0-0.png", "Who is this ?"} <= told
    # Short words of answers are words of the recipe as well.
    for word in told - {"left", "right"}:
        assert word.encode() not in (written if len(word) < 5 else everything)
    assert str(here.model.parent).encode() not in everything
    digests = {digest_of(path) for path in here.model.parent.glob("*.png")}
    assert digests
    assert not any(digest.encode() in text for digest in digests)
    document = json.loads(text)
    assert len(document["salt"]) == 32
    other = json.loads(text)["inputs"]
    assert other["forget"] != other["retain"]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_private_to_the_user_and_bounded(copy: Path, stopped: Path) -> None:
    folder = stopped / "out.journal"
    assert folder.stat().st_mode & 0o777 == 0o700
    names = [re.sub(r"(decoder-[a-z]+-)\d+", r"\1N", name) for name in sorted(os.listdir(folder))]
    assert names == [
        "decoder-mask-N.safetensors",
        "decoder-state-N.1.safetensors",
        "journal.json",
        "visual-best-0.safetensors",
        "visual-mask-0.safetensors",
        "visual-state-2.0.safetensors",
    ]


@pytest.mark.parametrize("name", ["visual-state-2.0.safetensors", "decoder-mask-*.safetensors", "journal.json"])
def test_damage(here: Place, copy: Path, name: str) -> None:
    (path,) = (copy / "out.journal").glob(name)
    honest = path.read_bytes()
    for broken in (honest[:-9], honest[:40] + bytes([honest[40] ^ 1]) + honest[41:], b"", None):
        path.unlink() if broken is None else path.write_bytes(broken)
        if name == "journal.json" and broken is None:
            # Then nothing says that it is one.
            break
        error = refused(asked(here, copy / "out", BOTH, resume=True), "the journal is damaged")
        assert path.name in str(error.where)
        assert error.remedy is not None


def test_a_forged_state_is_no_crash(here: Place, copy: Path) -> None:
    folder = Folder(copy / "out.journal")
    document = folder.read()
    visual = document["passes"]["visual"]
    for facts in (
        {"optimizer": {"0": {"step": 4, "mask": 7}}},
        {"generator": "00"},
        {"selected": ["nothing"]},
        {"orders": 3, "step": 1},
    ):
        folder.commit({**document, "passes": {"visual": {**visual, "facts": {**visual["facts"], **facts}}}})
        folder.close()
        with pytest.raises(UserError, match="the journal is damaged"):
            go(asked(here, copy / "out", BOTH, resume=True))


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_any_byte_of_the_document_counts(stopped: Path, place: int, byte: int) -> None:
    path = stopped / "out.journal" / "journal.json"
    honest = path.read_bytes()
    place %= len(honest)
    document = Folder(path.parent).read()
    try:
        path.write_bytes(honest[:place] + bytes([byte]) + honest[place + 1 :])
        try:
            read = Folder(path.parent).read()
        except UserError:
            return
        assert read == document
    finally:
        path.write_bytes(honest)


def test_a_journal_in_use(here: Place, copy: Path) -> None:
    other = Folder(copy / "out.journal")
    other.lock()
    refused(asked(here, copy / "out", BOTH, resume=True), "another run is writing this journal")
    other.close()


def test_places_where_no_journal_can_be(here: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(mine)
    for place, words in (
        (mine, "this directory is not a journal"),
        (tmp_path / "file", "the journal is not a directory"),
        (tmp_path / "link", "the journal is not a directory"),
        (tmp_path / "no" / "where", "parent directory does not exist"),
        (out / "journal", "inside the output"),
        (here.model / "journal", "inside the model"),
    ):
        refused(asked(here, out, journal=place), words)


def test_what_else_lies_in_the_journal_stays(here: Place, copy: Path) -> None:
    (copy / "out.journal" / "precious").write_text("x")
    (copy / "out.journal" / "visual-state-9.9.safetensors.part").write_text("left by a kill")
    bounds = BOTH.model_copy(update={"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0})
    go(asked(here, copy / "out", bounds, resume=True))
    assert os.listdir(copy / "out.journal") == ["precious"]


def test_what_a_kill_before_the_first_document_left_is_no_journal(here: Place, tmp_path: Path) -> None:
    (tmp_path / "out.journal").mkdir()
    bounds = RECIPE.model_copy(update={"forget_reading": 1.0, "retain_reading": 1.0, "retain_drift": 9.0})
    go(asked(here, tmp_path / "out", bounds))
    assert os.listdir(tmp_path) == ["out"]


def test_a_state_as_it_was(here: Place, copy: Path) -> None:
    """The tensors hold selected elements alone, in the parameter's dtype, and float32 moments."""
    folder = Folder(copy / "out.journal")
    kept = folder.read()["passes"]["visual"]
    tensors, mask = folder.tensors(kept["files"]["state"]), folder.tensors(kept["files"]["mask"])
    assert {tensor.dtype for tensor in mask.values()} == {torch.int32}
    weights = {name.removeprefix("weight "): value for name, value in tensors.items() if name.startswith("weight ")}
    assert weights.keys() == mask.keys() == set(kept["facts"]["selected"])
    elements = sum(value.numel() for value in weights.values())
    assert elements == round(0.5 * kept["facts"]["total"])
    assert sum(value.numel() for name, value in tensors.items() if "exp_avg" in name) == 2 * elements


@pytest.mark.parametrize("verdicts", ["forged", "not a number"])
def test_a_tampered_journal_never_ends_in_weights_that_were_not_trained(
    here: Place, tmp_path: Path, verdicts: str
) -> None:
    """Every digest fits, and the stop rule is told to be met by weights that hardly moved."""
    out = tmp_path / "out"
    recipe = RECIPE.model_copy(update={"retain_drift": 0.12})
    stop(asked(here, out, recipe), "step 3")
    folder = Folder(tmp_path / "out.journal")
    folder.lock()
    document = folder.read()
    facts = document["passes"]["visual"]["facts"]
    value = 0.01 if verdicts == "forged" else float("nan")
    seen = Seen(
        forget_ratio=value, retain_drift=value, pictures=(4, 4), originals=4, held_out=(True, True), own=0,
        base_own=4, subjects=8, readable=4, agree=4, reach=0.9,
    )  # fmt: skip
    claim = judge(recipe, seen)
    facts["verdicts"] = [{**asdict(claim), "met": True}]
    facts["step"], facts["orders"] = 0, []
    folder.commit({key: value for key, value in document.items() if key != "schema"})
    folder.close()
    if verdicts == "forged":
        ear = Ear()
        with pytest.raises(UserError, match=r"the journal is damaged: it tells a forget_ratio of .*its weights have"):
            go(asked(here, out, recipe, resume=True), ear)
        assert "step" not in ear.events
        assert not out.exists()
    else:
        # A verdict that is no number meets no bound, so training goes on.
        ear = Ear()
        result = go(asked(here, out, recipe, resume=True), ear)
        assert ear.events.count("step") > 0
        assert result.verdict is not None
        assert result.verdict.forget_ratio == result.verdict.forget_ratio
