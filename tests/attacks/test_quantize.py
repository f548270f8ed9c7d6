"""Weights through a few bits and back: the numbers by hand, and what an update smaller than a step hides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.attacks.number_formats import FORMATS, Format, normal_float, round_trip, same_code
from vkdsurgeon.attacks.quantize import Quantizing, RoundedWeights, quantizable, quantize, vanished
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.evaluation.score import Scoring, encode
from vkdsurgeon.model.batches import answer_request, log_probabilities
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.results.attacks import QuantizeResult

INT4, INT8, NF4 = (FORMATS[name] for name in ("int4", "int8", "nf4"))
SHORT = Scoring(max_new_tokens=3)


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def test_int4_and_int8_by_hand() -> None:
    weight = torch.tensor([[1.0, -0.52, 0.25, 0.1], [0.0, 0.0, 0.0, 0.0], [-14.0, 3.1, 0.9, 0.0]])
    expected = torch.tensor([[1.0, -4 / 7, 2 / 7, 1 / 7], [0.0, 0.0, 0.0, 0.0], [-14.0, 4.0, 0.0, 0.0]])
    assert torch.allclose(round_trip(weight, INT4), expected)
    assert torch.allclose(round_trip(weight, INT8)[0], torch.tensor([127, -66, 32, 13]) / 127)


def test_groups_have_scales_of_their_own_and_the_last_may_be_shorter() -> None:
    weight = torch.tensor([[7.0, 0.6, 0.07, 0.04, 0.5]])
    assert torch.allclose(round_trip(weight, INT4), torch.tensor([[7.0, 1.0, 0.0, 0.0, 0.0]]))
    pairs = round_trip(weight, Format("int4", 4, 2))
    assert torch.allclose(pairs, torch.tensor([[7.0, 1.0, 0.07, 0.04, 0.5]]))


def test_nf4_has_the_published_levels() -> None:
    published = [-1.0, -0.6961928, -0.5250730, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    published += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert normal_float() == pytest.approx(published, abs=2e-6)
    weight = torch.tensor([[2.0, 1.4, -2.0, 0.02, -0.05]])
    expected = torch.tensor([[1.0, 0.7229568, -1.0, 0.0, 0.0]]) * 2
    assert torch.allclose(round_trip(weight, NF4), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 9),
    st.sampled_from(["int8", "int4"]),
    st.integers(0, 2**31),
    st.floats(1e-6, 1e6),
)
def test_an_error_is_at_most_half_a_step_and_a_second_trip_changes_nothing(
    rows: int, width: int, group: int, name: str, seed: int, size: float
) -> None:
    form = Format(name, FORMATS[name].bits, group)
    weight = size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    once = round_trip(weight, form)
    step = weight.abs().amax(dim=1, keepdim=True) / (2 ** (form.bits - 1) - 1)
    assert once.shape == weight.shape
    assert bool(((once - weight).abs() <= 0.5001 * step).all())
    assert torch.allclose(round_trip(once, form), once, rtol=1e-5, atol=0.0)


def test_codes_are_compared_under_each_its_own_scale() -> None:
    weight, other = torch.tensor([[7.0, 3.0, 1.0]]), torch.tensor([[14.0, 6.0, 4.0]])
    assert same_code(weight, other, INT4).tolist() == [[True, True, False]]


def test_norms_biases_embeddings_and_the_head_are_left_alone(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    every = quantizable(loaded.model, None)
    assert not [name for name in every if "norm" in name or "embed" in name.rsplit(".", 2)[-2] or "lm_head" in name
                if "patch" not in name]  # fmt: skip
    assert any("patch_embedding" in name for name in every)
    visual = set(locate_visual(loaded.model).visual_parameters)
    assert 0 < len(quantizable(loaded.model, visual)) < len(every)


@pytest.fixture(scope="module")
def hidden(facts: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base whose visual weights lie on the int4 grid, and a model that moved off it by less than half a step."""
    folder = tmp_path_factory.mktemp("hidden")
    base, model = (Path(shutil.copytree(facts.base, folder / name)) for name in ("base", "model"))
    weights = load_file(base / "model.safetensors")
    stack = load_visual_stack(base, device="cpu")
    gridded = {
        name: round_trip(value, INT4)
        for name, value in quantizable(stack.model, set(stack.visual_parameters())).items()
    }
    save_file({**weights, **stack.to_disk(gridded)}, base / "model.safetensors", metadata={"format": "pt"})
    # The direction in which the right names become less likely, so that a small step suffices.
    loaded = load_model(base, device="cpu")
    records = [record for record in read_set("forget", facts.heldout).records if record.task == "vqa.name"]
    requests = [answer_request(loaded.encoder, encode(loaded.encoder, each), str(each.answer)) for each in records]
    (-log_probabilities(loaded, requests).mean()).backward()
    parameters, moved = dict(loaded.model.named_parameters()), {}
    for name, value in gridded.items():
        gradient = parameters[name].grad
        if gradient is not None:
            largest = value.abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (value.ndim - 1))
            moved[name] = torch.where(value.abs() == largest, value, value + 0.45 * largest / 7 * gradient.sign())
    save_file(
        {**weights, **stack.to_disk({**gridded, **moved})}, model / "model.safetensors", metadata={"format": "pt"}
    )
    return base, model


def test_what_a_step_hides_comes_back(facts: World, hidden: tuple[Path, Path]) -> None:
    base, model = hidden
    result = quantize(
        Quantizing(
            model=model,
            reference=base,
            gold=facts.gold,
            forget=read_set("forget", facts.heldout),
            retain=read_set("retain", facts.retain),
            limit=20,
            scoring=SHORT,
            device="cpu",
            gates=parse_gates(["quantize.int4.vqa.accuracy<=gold+0.5", "quantize.gain.int4.vqa.accuracy>=-1"]),
        )
    )
    values = {metric.id: metric.value for metric in result.metrics}
    int8, int4 = result.settings.formats
    assert int4.vanished == 1.0
    assert int8.vanished is not None
    assert int8.vanished < 0.1
    assert 0 < int8.relative_error < 1e-3 < int4.relative_error
    for part in ("", "retain."):
        assert (
            values[f"quantize.{part}int4.vqa.name.accuracy"]
            == values[f"reference.quantize.{part}before.vqa.name.accuracy"]
        )
    assert values["quantize.before.vqa.name.accuracy"] < values["quantize.int4.vqa.name.accuracy"]
    both = [values[f"quantize.{name}.vqa.name.accuracy"] for name in ("int8", "int4")]
    assert values["quantize.worst.vqa.name.accuracy"] == max(both)
    assert values["quantize.mean.vqa.name.accuracy"] == pytest.approx(sum(both) / 2)
    assert [facts.role for facts in result.models] == ["model", "reference", "gold"]
    assert {gate.metric for gate in result.gates} <= set(values)


def test_a_model_keeps_its_own_weights(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    attack = Quantizing(model=facts.base, forget=read_set("forget", facts.heldout), scope="all")
    variation = RoundedWeights(INT4, attack)
    with variation.applied(loaded, "model"):
        during = sum(not torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert during == len(quantizable(loaded.model, None))
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    assert vanished(attack, [INT4]) == [None]


def test_the_command(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "quantize.json"
    words = ["attack", "quantize", str(facts.base), "--forget", str(facts.heldout), "--limit", "6", "--device", "cpu"]
    words += ["--max-new-tokens", "2", "--format", "nf4"]
    assert run([*words, "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert "no gold model" in printed.err
    assert "utility was not measured" in printed.err
    result = QuantizeResult.model_validate_json(out.read_text())
    assert json.loads(printed.out)["kind"] == result.kind == "attack.quantize"
    assert result.settings.formats[0].group_size == 64
    assert run([*words, "--gate", "quantize.nf4.vqa.name.accuracy<=0"]) == 3
    assert "as given" in capsys.readouterr().out
    assert run([*words, "--gate", "quantize.int4.vqa.accuracy<=0"]) == 2
    assert "quantize.nf4.vqa.accuracy" in capsys.readouterr().err
    assert run([*words, "--format", "nf4"]) == 2
    assert run([*words, "--format", "int3"]) == 2
