"""A base that changes while it is worked on never ends in a mixture: status 1, and no output."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.checkpoint.conftest import edit_json, leftovers
from tests.tiny_llava import build
from tests.training.resume.runs import RECIPE, Ear, Place, asked, go, place
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.model import multimodal as models

SHORT = RECIPE.model_copy(update={"steps": 2, "extensions": 0})
WEIGHTS = "model.safetensors"


@pytest.fixture
def here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    shared = place(tmp_path_factory.getbasetemp() / "changed-base")
    return replace(shared, model=Path(shutil.copytree(shared.model, tmp_path / "model")))


def _altered(source: Path, target: Path, which: str) -> None:
    tensors = load_file(source)
    name = next(name for name in tensors if which in name)
    tensors[name] = tensors[name] + 1
    save_file(tensors, target, metadata={"format": "pt"})


def _replaced(root: Path) -> None:
    """Another model's weights under the same name, of the same length."""
    other = build(root.parent / "other", seed=9)
    os.replace(other / WEIGHTS, root / WEIGHTS)
    shutil.rmtree(other)


def _replaced_with_equal_times(root: Path) -> None:
    facts = (root / WEIGHTS).stat()
    _replaced(root)
    os.utime(root / WEIGHTS, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _edited_in_place(root: Path) -> None:
    """As `rsync --inplace --times` does it: same length, same file, same time; the tower differs."""
    path = root / WEIGHTS
    facts = path.stat()
    _altered(path, root.parent / "altered", "vision_tower")
    path.write_bytes((root.parent / "altered").read_bytes())
    (root.parent / "altered").unlink()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert path.stat().st_ino == facts.st_ino
    assert path.stat().st_size == facts.st_size


def _other_config(root: Path) -> None:
    path = root / "config.json"
    length = path.stat().st_size
    edit_json(path, lambda config: config.update(projector_hidden_act="relu"))
    path.write_text(path.read_text().ljust(length))


def _config_edited_in_place(root: Path) -> None:
    path = root / "config.json"
    facts = path.stat()
    _other_config(root)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_ino, path.stat().st_size) == (facts.st_ino, facts.st_size)


def _another_template(root: Path) -> None:
    (root / "chat_template.jinja").write_text("{{ messages }}")


@pytest.mark.parametrize(
    "change",
    [
        _replaced,
        _replaced_with_equal_times,
        _edited_in_place,
        _other_config,
        _config_edited_in_place,
        _another_template,
    ],
)
@pytest.mark.parametrize("at", [pytest.param("step 1", marks=pytest.mark.campaign), "writing 1"])
def test_while_it_trains(here: Place, tmp_path: Path, change: Callable[[Path], None], at: str) -> None:
    with pytest.raises(SurgeryError, match="changed while the model was worked on"):
        go(asked(here, tmp_path / "out", SHORT), Ear(at, lambda: change(here.model)))
    assert "out" not in leftovers(tmp_path)


def test_while_it_is_copied(here: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last file was copied, before the output appears."""
    from vkdsurgeon.checkpoint import stage

    honest = stage._settle

    def settle(*arguments: object) -> None:
        honest(*arguments)  # type: ignore[arg-type]
        _other_config(here.model)

    monkeypatch.setattr(stage, "_settle", settle)
    with pytest.raises(SurgeryError, match=r"changed while|differs from the original"):
        go(asked(here, tmp_path / "out", SHORT))
    assert "out" not in leftovers(tmp_path)


def test_a_tensor_is_the_same_whenever_it_is_read(here: Place) -> None:
    inventory = take_inventory(here.model)
    name = next(name for name in inventory.tensors if "vision_tower" in name)
    read_tensor(inventory, name)
    _edited_in_place(here.model)
    with pytest.raises(SurgeryError, match="changed while the model was worked on"):
        read_tensor(inventory, name)


def test_a_model_that_changes_while_it_is_loaded_is_not_measured(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest would name weights that nobody asked."""
    honest = models._load_weights

    def load(*arguments: object) -> object:
        loaded = honest(*arguments)  # type: ignore[arg-type]
        _replaced(here.model)
        return loaded

    monkeypatch.setattr(models, "_load_weights", load)
    with pytest.raises(SurgeryError, match="changed while the model was"):
        models.load_model(here.model, device="cpu")


def test_an_image_that_changes_while_the_run_trains(here: Place, tmp_path: Path) -> None:
    """The record would name images that were never looked at."""
    folder = Path(shutil.copytree(here.forget.parent, tmp_path / "sets", ignore=shutil.ignore_patterns("model")))
    own = replace(here, forget=folder / here.forget.name, retain=folder / here.retain.name)
    recipe = SHORT.model_copy(update={"cache_gib": 0.0, "copies": 0})
    images = sorted(folder.glob("*.png"))

    def change() -> None:
        for path in images:
            shutil.copyfile(images[0], path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)

    with pytest.raises((SurgeryError, UserError), match="image changed"):
        go(asked(own, tmp_path / "out", recipe), Ear("saliency 1", change))
    assert "out" not in leftovers(tmp_path)
