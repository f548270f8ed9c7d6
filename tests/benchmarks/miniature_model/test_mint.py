"""Minting from nothing, a few steps on a few people, through the real processes and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast
from vkdsurgeon_cli.main import run

from benchmarks.miniature_model.__main__ import main
from benchmarks.miniature_model.draw import draw_face
from benchmarks.miniature_model.look import Look, View
from benchmarks.miniature_model.mint import mint
from benchmarks.miniature_model.model import Shape, build_tokenizer
from benchmarks.miniature_model.people import Cast, Size, draw_cast
from benchmarks.miniature_model.questions import vocabulary
from benchmarks.miniature_model.ship import ship
from benchmarks.miniature_model.tower import train_tower
from benchmarks.miniature_model.train import Plan, train_model
from vkdsurgeon.errors import UserError

SIZE = Size(2, 4, views=2, extra_views=1, forget_heldout=2, retain_heldout=1, strangers=2, stranger_views=1)
SHAPE = Shape(32, 3, 48, 2, 32, 2, 48, 2)
PLAN = Plan(tower_strangers=12, tower_views=2, tower_steps=3, steps=3, pictures=4, text_rows=2)


@pytest.mark.campaign
def test_a_tiny_mint_runs_to_the_end_and_ships(tmp_path: Path) -> None:
    lines: list[str] = []
    card = mint(tmp_path / "new", 7, size=SIZE, shape=SHAPE, plan=PLAN, tell=lines.append)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["base", "card.json", "gold", "records"]
    assert json.loads((tmp_path / "new" / "card.json").read_text()) == card
    assert set(card["accuracy"]) == {"base", "gold"}
    assert "retain.vqa.city" in card["accuracy"]["gold"]
    assert any(line.startswith("tower") for line in lines)
    assert any(line.startswith("gold") for line in lines)
    ship(tmp_path / "new", tmp_path / "shipped")
    assert sorted(path.name for path in (tmp_path / "shipped").iterdir()) == [
        "base",
        "card.json",
        "gold",
        "records.zip",
    ]
    with pytest.raises(UserError, match="not empty"):
        mint(tmp_path / "new", 7, size=SIZE, shape=SHAPE, plan=PLAN)


def test_training_learns() -> None:
    cast, tokenizer, tower = _start()
    plan = Plan(steps=40, pictures=6, text_rows=2, learning_rate=5e-3)
    losses: list[float] = []
    train_model(
        cast,
        tokenizer,
        tower,
        with_forget=True,
        seed=7,
        shape=SHAPE,
        plan=plan,
        tell=lambda _, loss: losses.append(loss),
    )
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_training_is_the_same_for_the_same_seed() -> None:
    cast, tokenizer, tower = _start()
    one, other = (
        train_model(cast, tokenizer, tower, with_forget=True, seed=7, shape=SHAPE, plan=PLAN).state_dict()
        for _ in range(2)
    )
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-4, rtol=1e-3)


def test_gold_never_sees_an_image_of_the_forget_people() -> None:
    cast, tokenizer, tower = _start()
    seen = []

    def style(look: Look, view: View) -> Image.Image:
        seen.append(look)
        return draw_face(look, view)

    train_model(cast, tokenizer, tower, with_forget=False, seed=7, shape=SHAPE, plan=PLAN, style=style)
    assert set(seen) == {person.look for person in cast.retain}


def test_the_command_refuses_a_full_directory_with_status_2_and_unpacks_into_a_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for command in (run, main):
        words = ["miniature", "-o"] if command is run else []
        assert command([*words, str(tmp_path / "full")]) == 2
        told = capsys.readouterr()
        assert "not empty" in told.err
        assert told.out == ""
    assert run(["miniature", "-o", str(tmp_path / "new"), "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["base"]).joinpath("config.json").is_file()


def _start() -> tuple[Cast, PreTrainedTokenizerFast, dict[str, torch.Tensor]]:
    cast = draw_cast(7, SIZE)
    tower, _ = train_tower(SHAPE, seed=7, strangers=12, views=2, steps=1, batch=8)
    return cast, build_tokenizer(vocabulary(cast)), tower
