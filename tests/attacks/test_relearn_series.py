"""Several attacks in one run: each starts from the same weights, and the document tells them apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from vkdsurgeon_cli.main import run

from tests.report.documents import relearning
from tests.tiny_llava import World, world
from vkdsurgeon.attacks.finetune import attacking, fine_tune
from vkdsurgeon.attacks.relearn import Relearning, relearn
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.config.relearn import RelearnPlan
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.results.relearn import RelearnResult


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def bits(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in loaded.model.state_dict().items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_every_attack_the_model_is_bit_for_bit_as_before(facts: World, dtype: str) -> None:
    loaded = load_model(facts.base, device="cpu", dtype=dtype)
    records = read_records(facts.forget, role="forget")[:6]
    before = bits(loaded)
    for scope in ("visual", "llm", "llm_full", "all"):
        with attacking(loaded, scope, rank=2, seed=0) as parameters:  # type: ignore[arg-type]
            list(fine_tune(loaded, parameters, records, steps=2, lr=1e-2, batch_size=4, seed=0))
            if scope != "llm":
                assert any(not torch.equal(value, before[name]) for name, value in bits(loaded).items())
        after = bits(loaded)
        assert after.keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in after.items())


def interrupted(loaded: LoadedModel, scope: str, records: list[Record]) -> None:
    with attacking(loaded, scope, rank=2, seed=0) as parameters:  # type: ignore[arg-type]
        next(fine_tune(loaded, parameters, records, steps=2, lr=1e-2, batch_size=4, seed=0))
        raise KeyboardInterrupt


def test_an_attack_that_is_interrupted_leaves_the_model_as_it_was(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    records = read_records(facts.forget, role="forget")[:6]
    before = bits(loaded)
    for scope in ("visual", "llm"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(loaded, scope, records)
        assert all(torch.equal(value, before[name]) for name, value in bits(loaded).items())


def test_lora_trains_pairs_of_matrices_on_the_language_model_alone(facts: World) -> None:
    loaded = load_model(facts.gold, device="cpu")
    visual = set(locate_visual(loaded.model).visual_parameters)
    records = read_records(facts.forget, role="forget")[:8]
    own = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    with attacking(loaded, "llm", rank=3, seed=5) as matrices:
        names = [name for name, value in loaded.model.named_parameters() if value.requires_grad]
        assert len(names) == len(matrices) == 2 * 2 * 7
        assert {value.shape.numel() for value in matrices} <= {3 * 64, 3 * 128}
        assert all("lora_" in name and name not in visual and "lm_head" not in name for name in names)
        losses = list(fine_tune(loaded, matrices, records, steps=8, lr=1e-2, batch_size=8, seed=0))
        layers = {name.replace(".base_layer", ""): value for name, value in loaded.model.named_parameters()}
        assert all(torch.equal(layers[name], value) for name, value in own.items())
        assert losses[-1] < 0.5 * losses[0]
        first = [matrix.detach().clone() for matrix in matrices]
    with attacking(loaded, "llm", rank=3, seed=5) as matrices:
        again = list(fine_tune(loaded, matrices, records, steps=8, lr=1e-2, batch_size=8, seed=0))
        assert again == losses
        assert all(torch.equal(a, b) for a, b in zip(first, matrices, strict=True))
    with attacking(loaded, "all", rank=3, seed=5) as parameters:
        untouched = next(fine_tune(loaded, parameters, records, steps=1, lr=1e-2, batch_size=8, seed=0))
    # The second matrix of every pair starts at zero: the first step sees the model as it is.
    assert losses[0] == pytest.approx(untouched, rel=1e-4)


@pytest.fixture(scope="module")
def series(facts: World) -> RelearnResult:
    """The base itself attacked: it knows everything, so nothing can come back, and gold knows nothing."""
    return relearn(
        Relearning(
            model=facts.base,
            forget=read_set("forget", facts.forget),
            heldout=read_set("heldout", facts.heldout),
            retain=read_set("retain", facts.retain),
            reference=facts.base,
            gold=facts.gold,
            plan=RelearnPlan(
                protocol="pairs,benign", scope="visual,llm", steps=2, seeds=(0, 1), limit=20, max_new_tokens=3
            ),
            gates=parse_gates(
                [
                    "relearn.pairs.50.visual.ag<=50",
                    "gold.relearn.benign.50.llm.ag<=-99",
                    "gap.relearn.pairs.50.llm.ag<99",
                ]
            ),
            device="cpu",
        )
    )


def test_every_combination_is_one_attack_with_its_own_ids(series: RelearnResult) -> None:
    values = {metric.id: metric.value for metric in series.metrics}
    ids = [case.id for case in series.cases]
    assert ids == ["pairs.50.visual", "pairs.50.llm", "benign.50.visual", "benign.50.llm"]
    assert "relearn.ag" not in values
    for name in ids:
        for metric in (f"relearn.{name}.ag", f"gold.relearn.{name}.ag", f"gap.relearn.{name}.ag"):
            assert values[metric] is not None
        # The knowledge was never gone.
        assert values[f"relearn.{name}.steps_to_recover"] == 0
    assert [gate.passed for gate in series.gates] == [True, False, True]
    assert isinstance(series.settings, RelearnPlan)
    assert RelearnResult.model_validate_json(series.model_dump_json()) == series


def test_documents_of_before_are_still_read() -> None:
    assert RelearnResult.model_validate(relearning()).settings.lr == relearning()["settings"]["lr"]


def test_cases_of_one_split_start_from_the_same_answers(series: RelearnResult) -> None:
    values = {metric.id: metric.value for metric in series.metrics}
    for kind in ("vqa.accuracy", "vqa.name.accuracy"):
        assert values[f"relearn.pairs.50.visual.before.{kind}"] == values[f"relearn.pairs.50.llm.before.{kind}"]
        assert (
            values[f"relearn.benign.50.visual.before.{kind}"]
            == values[f"reference.relearn.benign.50.llm.before.{kind}"]
        )


def test_an_attack_gives_the_same_alone_and_among_others(series: RelearnResult, facts: World) -> None:
    """The last of the series, alone: nothing of the attacks before it is left in the model."""
    alone = relearn(
        Relearning(
            model=facts.base,
            forget=read_set("forget", facts.forget),
            heldout=read_set("heldout", facts.heldout),
            retain=read_set("retain", facts.retain),
            plan=RelearnPlan(protocol="benign", scope="llm", steps=2, seeds=(0, 1), limit=20, max_new_tokens=3),
            gates=parse_gates(["relearn.benign.50.ag<=99"]),
            device="cpu",
        )
    )
    case = series.cases[-1]
    assert alone.curve == [point for point in case.curve if point.model == "model"]
    assert [each.ag for each in alone.seeds] == [each.ag for each in case.seeds]
    assert alone.gates[0].passed
    own = {metric.id: metric for metric in alone.metrics}
    among = {metric.id: metric for metric in series.metrics}
    assert own["relearn.ag"].value == among["relearn.benign.50.llm.ag"].value
    assert own["relearn.ag"].value == pytest.approx(sum(each.ag or 0 for each in alone.seeds) / 2)
    assert own["relearn.ag"].interval == "hierarchical bootstrap"


def test_no_room_between_reference_and_gold_is_told(facts: World) -> None:
    result = relearn(
        Relearning(
            model=facts.base,
            forget=read_set("forget", facts.forget),
            heldout=read_set("heldout", facts.heldout),
            reference=facts.gold,
            gold=facts.gold,
            plan=RelearnPlan(protocol="pairs", steps=1, max_new_tokens=3),
            device="cpu",
        )
    )
    assert any("differ by 0.0 points only" in text for text in result.warnings)
    assert any("other questions of the forget or held-out file only" in text for text in result.warnings)
    assert any(metric.id == "relearn.utility.after.general.accuracy" for metric in result.metrics)


def test_the_command_saves_and_repeats_a_protocol(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, outs = tmp_path / "attack.yaml", [tmp_path / "a.json", tmp_path / "b.json"]
    words = ["attack", "relearn", str(facts.base), "--forget", str(facts.forget), "--heldout", str(facts.heldout)]
    words += ["--retain", str(facts.retain), "--device", "cpu"]
    lists = ["--protocol", "views", "--fraction", "0.1,1", "--steps", "2", "--limit", "12", "--max-new-tokens", "3"]
    assert run([*words, *lists, "--seeds", "3", "--save-protocol", str(saved), "-o", str(outs[0])]) == 0
    printed = capsys.readouterr().out
    assert "views 10 %" in printed
    assert "views 100 %" in printed
    assert "->" in printed
    assert run([*words, "--protocol-file", str(saved), "-o", str(outs[1])]) == 0
    first, second = (json.loads(out.read_text()) for out in outs)
    for changing in ("seconds",):
        del first[changing], second[changing]
    assert first == second
    assert first["plan_digest"]


def test_without_anything_to_measure_utility_on_the_table_says_so(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in facts.forget.read_text().splitlines()]
    rows = [{**row, "image": str(facts.forget.parent / row["image"])} for row in rows if row["task"] == "vqa.name"]
    bare = tmp_path / "forget.jsonl"
    bare.write_text("\n".join(json.dumps(row) for row in rows))
    words = ["attack", "relearn", str(facts.base), "--forget", str(bare), "--steps", "1", "--device", "cpu"]
    assert run(words) == 0
    printed = capsys.readouterr()
    assert "not measured" in printed.out
    assert "utility was not measured (--retain)" in printed.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--protocol", "pears"], "--protocol"),
        (["--scope", "tongue"], "--scope"),
        (["--seed", "1", "--seeds", "2"], "cannot be combined"),
        (["--fraction", "1"], "give --heldout"),
        (["--protocol", "unrelated"], "--attack-data"),
        (["--protocol", "pairs,people", "--gate", "relearn.ag<=5"], "relearn.pairs.50.ag"),
        (["--protocol", "pairs", "--gate", "relearn.people.50.ag<=5"], "relearn.pairs.50.ag"),
        (["--protocol-file", "/no/such.yaml"], "cannot read the attack protocol"),
    ],
)
def test_wrong_settings_are_refused_before_the_model_is_loaded(
    facts: World, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["attack", "relearn", "/no/such/model", "--forget", str(facts.forget), *more]) == 2
    assert message in capsys.readouterr().err
