"""The attack brings back what is only hidden, nothing that was never known, and leaves the disk alone."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.tiny_llava import World, world
from vkdsurgeon.attacks.finetune import fine_tune, trainable
from vkdsurgeon.attacks.relearn import Relearning, relearn
from vkdsurgeon.checkpoint.placement import locate_visual
from vkdsurgeon.config.relearn import RelearnPlan
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.sets import read_set
from vkdsurgeon.errors import SurgeryError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.results.relearn import RelearnResult


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


@pytest.fixture(scope="module")
def hidden(facts: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model behind a noisy projector: what it knows is hard to see, and nothing of it is erased."""
    root = Path(shutil.copytree(facts.base, tmp_path_factory.mktemp("hidden") / "model"))
    weights = load_file(root / "model.safetensors")
    name = next(name for name in weights if "multi_modal_projector.linear_2.weight" in name)
    noise = torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(1))
    weights[name] += 8.0 * weights[name].std() * noise
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    return root


def digest(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.iterdir())}


def test_hidden_knowledge_returns_and_absent_knowledge_does_not(facts: World, hidden: Path) -> None:
    files = digest(hidden)
    result = relearn(
        Relearning(
            model=hidden,
            forget=read_set("forget", facts.forget),
            heldout=read_set("heldout", facts.heldout),
            retain=read_set("retain", facts.retain),
            reference=facts.base,
            gold=facts.gold,
            plan=RelearnPlan(protocol="pairs", steps=20, lr=1e-3, max_new_tokens=3),
            device="cpu",
            gates=parse_gates(["relearn.ag<=5", "gap.relearn.ag>0"]),
        )
    )
    values = {metric.id: metric.value for metric in result.metrics}
    assert digest(hidden) == files
    assert values["relearn.before.vqa.exact"] < 0.8
    assert values["relearn.after.vqa.exact"] > 0.9
    assert values["gold.relearn.after.vqa.exact"] < 0.5
    assert values["reference.relearn.before.vqa.accuracy"] > 0.9
    assert values["relearn.ag"] > 25 > values["gold.relearn.ag"]
    assert values["gap.relearn.ag"] == pytest.approx(values["relearn.ag"] - values["gold.relearn.ag"])
    assert result.ag_over == ["vqa.accuracy", "vqa.exact", "vqa.contains", "vqa.rouge_l"]
    gains = [values[f"relearn.after.{name}"] - values[f"relearn.before.{name}"] for name in result.ag_over]
    assert values["relearn.ag"] == pytest.approx(100 * sum(gains) / 4)
    assert "relearn.retain.after.vqa.accuracy" in values
    assert [gate.passed for gate in result.gates] == [False, True]
    assert [(p.model, p.step) for p in result.curve] == [
        (model, step) for model in ("model", "gold") for step in (0, 10, 20)
    ]
    assert result.curve[0].loss is None
    assert result.curve[2].values["vqa.accuracy"] == values["relearn.after.vqa.accuracy"]
    assert result.settings.measured_on == "heldout"
    metrics = {metric.id: metric for metric in result.metrics}
    for name in ("relearn.ag", "gap.relearn.ag"):
        metric = metrics[name]
        assert metric.low < metric.value < metric.high
        assert metric.interval == "bootstrap"
    back = {each.model: each for each in result.recovery}
    assert back["model"].steps == [10]
    assert back["gold"].steps == [None]
    assert values["relearn.steps_to_recover"] == 10
    assert values["gold.relearn.steps_to_recover"] == 21
    assert result.plan_digest == result.plan.digest
    # Whether so small a model has learnt the general questions differs from processor to processor.
    assert not [text for text in result.warnings if "nothing" in text and ".general." not in text]


@pytest.mark.parametrize("scope", ["visual", "llm_full", "all"])
def test_only_the_scope_is_trained(facts: World, scope: str) -> None:
    loaded = load_model(facts.base, device="cpu")
    visual = set(locate_visual(loaded.model).visual_parameters)
    before = {name: value.detach().clone() for name, value in loaded.model.named_parameters()}
    records = read_records(facts.forget, role="forget")
    chosen = trainable(loaded, scope)  # type: ignore[arg-type]
    losses = list(fine_tune(loaded, chosen, records[:6], steps=3, lr=1e-3, batch_size=4, seed=0))
    moved = {name for name, value in loaded.model.named_parameters() if not torch.equal(value, before[name])}
    assert len(losses) == 3
    assert moved
    if scope == "visual":
        assert moved <= visual
        assert len(chosen) == len(visual)
    else:
        assert moved - visual
        assert len(chosen) == len(before) - (len(visual) if scope == "llm_full" else 0)
        assert bool(moved & visual) == (scope == "all")
    assert not loaded.model.training


def test_the_step_follows_the_mean_cross_entropy_of_answer_tokens(facts: World) -> None:
    """One plain gradient, taken by hand from transformers' own loss, gives the loss that is reported."""
    loaded = load_model(facts.base, device="cpu")
    record = read_records(facts.text, role="text")[0]
    loss = next(fine_tune(loaded, trainable(loaded, "all"), [record], steps=1, lr=1e-9, batch_size=8, seed=0))
    text = f"<user> {record.question} <assistant>"
    ids = loaded.encoder.tokenizer(f"{text} {record.answer}", return_tensors="pt")["input_ids"]
    labels = ids.clone()
    labels[:, : len(loaded.encoder.tokenizer(text)["input_ids"])] = -100
    with torch.no_grad():
        expected = float(loaded.model(input_ids=ids, labels=labels).loss)
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_diverging_attack_is_told(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    parameters = trainable(loaded, "visual")
    with torch.no_grad():
        parameters[0].fill_(float("nan"))
    records = read_records(facts.heldout, role="forget")
    with pytest.raises(SurgeryError, match="diverged at step 1"):
        list(fine_tune(loaded, parameters, records, steps=2, lr=1.0, batch_size=4, seed=0))


def test_the_command(facts: World, hidden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "attack.json"
    words = ["attack", "relearn", str(hidden), "--forget", str(facts.forget), "--retain", str(facts.retain)]
    words += ["--protocol", "pairs", "--steps", "2", "--limit", "20", "--device", "cpu", "--max-new-tokens", "3"]
    assert run([*words, "--gate", "relearn.after.vqa.accuracy<=-1", "-o", str(out)]) == 3
    printed = capsys.readouterr()
    result = RelearnResult.model_validate_json(out.read_text())
    assert result.settings.protocol == "pairs"
    assert "AG, points" in printed.out
    assert "retain.vqa.accuracy" in printed.out
    assert "…" not in printed.out
    assert "no gold model was attacked" in printed.err
    assert not [name for name in ("Ann", "Bea", "house") if name in out.read_text()]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gate", "relearn.agg<=1"], "did you mean relearn.ag"),
        (["--gate", "gap.relearn.ag<=1"], "not measured"),
        (["--gate", "relearn.ag<=gold"], "give --gold"),
        (["--lr", "nan"], "learning rate"),
        (["--forget", "TEXT"], "nothing that an attack could bring back"),
        (["--forget", "ONE"], "use --protocol pairs"),
    ],
)
def test_wrong_input_is_refused_before_the_model_is_loaded(
    facts: World, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = tmp_path / "one.jsonl"
    rows = [json.loads(line) for line in facts.forget.read_text().splitlines()]
    rows = [{**row, "image": str(facts.forget.parent / row["image"])} for row in rows if row["subject"] == "Ann"]
    one.write_text("\n".join(json.dumps(row) for row in rows))
    words = [word.replace("TEXT", str(facts.text)).replace("ONE", str(one)) for word in more]
    assert run(["attack", "relearn", "/no/such/model", "--forget", str(facts.forget), *words]) == 2
    assert message in capsys.readouterr().err


def test_an_attack_that_learns_nothing_is_no_evidence(facts: World) -> None:
    forget = read_set("forget", facts.forget)

    def attacked(lr: float) -> RelearnResult:
        plan = RelearnPlan(protocol="people", steps=8, lr=lr, curve_steps=8, max_new_tokens=3)
        return relearn(Relearning(model=facts.gold, forget=forget, plan=plan, device="cpu"))

    assert any("hardly learned" in text for text in attacked(1e-7).warnings)
    assert not any("hardly learned" in text for text in attacked(1e-3).warnings)


def test_text_beside_images_is_passed_over_by_the_visual_scope(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    images, text = read_records(facts.forget, role="forget")[:1], read_records(facts.text, role="text")[:3]
    losses = list(
        fine_tune(loaded, trainable(loaded, "visual"), [*images, *text], steps=8, lr=1e-4, batch_size=1, seed=0)
    )
    assert len(losses) == 8
