"""Models over several places: the same answers, and what they cannot do is refused before anything is asked.

The decoder's layers and its head lie on disk here: a CPU is the only device that every machine has.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon import attack, evaluate, run_method, unlearn
from vkdsurgeon.attacks.finetune import backward, trainable
from vkdsurgeon.checkpoint.shard_index import INDEX, SINGLE
from vkdsurgeon.data.read import read_records
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.evaluation.score import encode
from vkdsurgeon.model.batches import answer_request
from vkdsurgeon.model.device_map import device_map_of
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.model.prefix_cache import read_log_probabilities
from vkdsurgeon.model.swap_vision import with_vision_of

# Tower, projector and embeddings fit.
TIGHT = {"cpu": 600_000}
SPREAD: dict[str, Any] = {"device_map": "auto", "max_memory": TIGHT}
APART = "do not all fit on one device"


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of temporary files."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def test_answers_are_those_of_one_device(facts: World, temporary: Path) -> None:
    sets = {"forget": facts.heldout, "retain": facts.retain, "text": facts.text}
    common: dict[str, Any] = {"base": facts.base, "limit": 24, "max_new_tokens": 3, "include_examples": True}
    plain = evaluate(facts.gold, sets, device="cpu", **common)
    spread = evaluate(facts.gold, sets, **common, **SPREAD)
    assert spread.settings.device == "cpu, disk"
    assert (spread.metrics, spread.examples, spread.models) == (plain.metrics, plain.examples, plain.models)
    assert not list(temporary.iterdir())


def test_the_folder_goes_where_asking_fails(facts: World, temporary: Path) -> None:
    def stop(event: Any) -> None:
        if event["event"] == "answers":
            assert len(list(temporary.iterdir())) == 2  # the evaluation has one of its own
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        evaluate(facts.base, {"forget": facts.heldout}, on_event=stop, **SPREAD)
    assert not list(temporary.iterdir())


def test_a_file_that_changes_while_it_is_read_is_noticed(facts: World, tmp_path: Path) -> None:
    root = Path(shutil.copytree(facts.base, tmp_path / "model"))

    def touch(event: Any) -> None:
        if event["event"] == "answers":
            (root / SINGLE).touch()

    with pytest.raises(SurgeryError, match="the file changed"):
        evaluate(root, {"forget": facts.heldout}, on_event=touch, **SPREAD)


def test_weights_that_are_written_once_more_go_with_the_model(facts: World, tmp_path: Path, temporary: Path) -> None:
    """What the index does not name is saved apart; so is what transformers rebuilds while loading."""
    root, shard = Path(shutil.copytree(facts.base, tmp_path / "model")), "model-00001-of-00001.safetensors"
    names = load_file((root / SINGLE).rename(root / shard)).keys()
    unnamed = next(name for name in names if "layers.1.mlp.up_proj" in name and "language" in name)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names - {unnamed}, shard)}
    (root / INDEX).write_text(json.dumps(index))
    ids = torch.tensor([[7, 8, 9]])
    plain = load_model(facts.base, device="cpu").model(input_ids=ids).logits
    loaded = load_model(root, device_map=device_map_of("auto", TIGHT))
    (folder,) = temporary.glob("vkdsurgeon-*")
    assert len([*folder.rglob("*.safetensors")]) == 1
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, plain)
    loaded.release()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("relearn", {"steps": 2, "batch_size": 4}),
        *(
            pytest.param(*each, marks=pytest.mark.campaign)
            for each in (
                ("perturb", {"perturbations": ["noise=20"], "universal": {"steps": 2, "batch_size": 4}}),
                ("prompt", {"builtin": True}),
                ("membership", {"nonmembers": "heldout"}),
                ("quantize", {"formats": ["int4"]}),
                ("restore", {}),
                ("probe", {}),
            )
        ),
    ],
)
def test_attacks_bring_back_the_same(facts: World, temporary: Path, name: Any, settings: dict[str, Any]) -> None:
    if "nonmembers" in settings:
        settings = {"nonmembers": facts.heldout, "gradient": False}
    if name not in ("relearn", "probe"):
        settings = {**settings, "limit": 4}
    sets = {"forget": facts.forget if name != "relearn" else facts.heldout, "base": facts.base}
    plain = attack(name, facts.gold, **sets, settings=settings, device="cpu")
    spread = attack(name, facts.gold, **sets, settings=settings, **SPREAD)
    assert spread.metrics == plain.metrics
    assert not list(temporary.iterdir())


def test_weights_elsewhere_have_no_gradient(facts: World, temporary: Path) -> None:
    settings = {"nonmembers": facts.heldout, "limit": 4}
    found = attack("membership", facts.gold, facts.forget, settings=settings, **SPREAD)
    values = {metric.id: metric.value for metric in found.metrics}
    assert values["membership.loss.auc"] is not None
    assert values["membership.grad_norm.auc"] is None
    assert any("norm was not measured" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("relearn", {"scope": "llm"}),
        ("relearn", {"scope": "llm_full"}),
        ("relearn", {"scope": "all"}),
        ("quantize", {"scope": "all"}),
    ],
)
def test_weights_on_disk_are_not_attacked(facts: World, temporary: Path, name: Any, settings: dict[str, Any]) -> None:
    heard: list[Any] = []
    with pytest.raises(UserError, match=APART) as told:
        attack(name, facts.base, facts.forget, settings=settings, on_event=heard.append, **SPREAD)
    assert "language_model.layers.0" in str(told.value)
    assert {event["event"] for event in heard} == {"model"}
    assert not list(temporary.iterdir())


def test_a_backward_pass_fetches_each_layer_again(facts: World) -> None:
    records = read_records(facts.heldout, role="forget")[:2]
    gradients, calls = [], []
    for spread in (None, device_map_of("auto", TIGHT)):
        loaded = load_model(facts.base, dtype="float32", device_map=spread, device="cpu")
        seen: list[int] = []
        layer = loaded.model.get_submodule("model.language_model.layers.0.self_attn")
        layer.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        parameters = trainable(loaded, "visual")
        backward(loaded, records)
        gradients.append([each.grad for each in parameters])
        calls.append(len(seen))
        assert not any(each.training for each in loaded.model.modules())
    assert calls[1] == 2 * calls[0]
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_vision_of_another_is_seen(facts: World) -> None:
    records = read_records(facts.heldout, role="forget")[:2]
    visual = load_visual_stack(facts.gold, device="cpu").model
    read = []
    for spread in (None, device_map_of("auto", TIGHT)):
        loaded = load_model(facts.base, dtype="float32", device_map=spread, device="cpu")
        requests = [answer_request(loaded.encoder, encode(loaded.encoder, each), "Ann") for each in records]
        with torch.no_grad(), with_vision_of(loaded.model, visual, blend=torch.add):
            read.append(torch.stack(read_log_probabilities(loaded, requests, 2)))
    assert torch.equal(*read)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [("graddiff", {"baseline": {"steps": 2}}), ("vkd", {"output_loss": "npo", "steps": 2, "depth": 1})],
)
def test_a_tower_learns_through_a_model_on_disk(
    facts: World, tmp_path: Path, method: str, recipe: dict[str, Any]
) -> None:
    digests = []
    for place in ({"device": "cpu"}, SPREAD):
        out = tmp_path / str(len(digests))
        done = run_method(
            method, facts.base, facts.forget, out, retain=facts.retain, scope="visual", recipe=recipe, **place
        )
        digests.append(done.write.weights_digest)
    assert digests[0] == digests[1]


def test_what_trains_the_language_model_refuses_to_begin(facts: World, tmp_path: Path) -> None:
    heard: list[Any] = []
    common: dict[str, Any] = {"retain": facts.retain, "on_event": heard.append, **SPREAD}
    recipe = {"steps": 2, "extensions": 0, "tamper_weight": 0.0, "decoder": {"steps": 2}}
    with pytest.raises(UserError, match=f"the decoder pass changes weights that {APART}"):
        unlearn(facts.base, facts.forget, tmp_path / "none", recipe=recipe, **common)
    with pytest.raises(UserError, match=f"this method changes weights that {APART}"):
        run_method("graddiff", facts.base, facts.forget, tmp_path / "none", scope="all", **common)
    assert "step" not in {event["event"] for event in heard}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-memory", "cpu=1GiB"], "--max-memory"),
        (["--device-map", "balanced"], "not a device map"),
        (["--device-map", "auto", "--device", "cpu"], "takes the place of a device"),
        (["--device-map", "auto", "--max-memory", "cpu"], "--max-memory"),
        (["--device-map", "auto", "--max-memory", "cpu=lots"], "each place once"),
        (["--device-map", "auto", "--max-memory", "999=1GiB"], "each place once"),
        (["--device-map", "auto", "--max-memory", "cpu=1GiB,cpu=2GiB"], "each place once"),
    ],
)
def test_wrong_words(facts: World, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert run(["eval", str(facts.base), "--forget", str(facts.forget), *words]) == 2
    assert told in capsys.readouterr().err


def test_the_command_takes_limits_as_accelerate_spells_them(facts: World, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--device-map", "auto", "--max-memory", "cpu=600KB"]
    assert run(["eval", str(facts.base), "--forget", str(facts.heldout), "--limit", "4", "--json", *places]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["device"] == "cpu, disk"


def test_accelerate_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"needs the library accelerate") as told:
        device_map_of("auto")
    assert "vkdsurgeon[offload]" in str(told.value)
