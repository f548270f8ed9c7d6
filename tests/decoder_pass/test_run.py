"""The decoder pass on a tiny model that really knows people: what changes, what does not, what is refused."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from vkdsurgeon_cli.main import run

from tests.families import build_checkpoint
from tests.tiny_llava import World, world
from vkdsurgeon.checkpoint.diff import diff_checkpoints
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.read_tensor import read_tensor
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.decoder_pass.adversarial_features import FeatureAdversary
from vkdsurgeon.decoder_pass.plan import moments_kind
from vkdsurgeon.decoder_pass.run import DecoderJob, DecoderOutcome, operate_decoder, prepare_decoder
from vkdsurgeon.decoder_pass.teacher import TeacherOutputs
from vkdsurgeon.decoder_pass.text_set import TextRetainSet, read_text_retain_set
from vkdsurgeon.decoder_pass.trainer import FORGET, ORIGINAL, RETAIN, TEXT, distil
from vkdsurgeon.errors import SurgeryError, UserError
from vkdsurgeon.model.decoder_layers import find_decoder_weights, recompute
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.multimodal import load_model
from vkdsurgeon.model.questions import Prompter, Question
from vkdsurgeon.model.swap_vision import with_vision_of
from vkdsurgeon.training.events import unheard
from vkdsurgeon.training.losses import kl
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate

# A mask that leaves some elements of every matrix out, which the default has no need of.
DECODER = DecoderRecipe(
    steps=40, step_size=0.3, forget_batch=8, retain_batch=8, text_batch=4, answer_tokens=3, blocks="all", density=0.5
)
VISUAL = Recipe(
    steps=40, forget_batch=8, retain_batch=16, extensions=0, stand_ins=1, copies=1, tamper_weight=0.0, decoder=DECODER
)
WORDS = ["--steps", "12", "--set", "copies=1", "--set", "tamper_weight=0",
         "--set", "forget_batch=8", "--set", "retain_batch=16", "--set", "extensions=0",
         "--set", "stand_ins=1", "--set", "forget_reading=1", "--set", "retain_reading=1", "--set", "retain_drift=9",
         "--set", "decoder.steps=12", "--set", "decoder.step_size=0.3",
         "--set", "decoder.forget_batch=8", "--set", "decoder.retain_batch=8", "--set", "decoder.text_batch=4",
         "--set", "decoder.answer_tokens=3", "--set", "decoder.blocks=all", "--set", "decoder.density=0.5"]  # fmt: skip
OPEN = ["--set", "decoder.forget_ratio=9", "--set", "decoder.retain_kl=9", "--set", "decoder.text_kl=9",
        "--set", "decoder.text_agreement=0"]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """One finished pass."""

    job: DecoderJob
    outcome: DecoderOutcome
    visual: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def decoder_pass(root: Path, facts: World, recipe: DecoderRecipe) -> Done:
    forget, retain = (read_records(path, role="set") for path in (facts.forget, facts.retain))
    sets = (samples_of(forget, role="forget"), samples_of(retain, role="retain"))
    prepared = prepare(Job(root, *sets, [], VISUAL.model_copy(update={"decoder": recipe})))
    job = prepare_decoder(prepared, forget, retain, read_text_retain_set(facts.text, 0))
    outcome = operate(prepared, unheard)
    return Done(job, operate_decoder(job, unheard), outcome.changes)


@pytest.fixture(scope="module")
def done(facts: World) -> Done:
    return decoder_pass(facts.base, facts, DECODER)


def test_w_unlearns_the_original_features_and_keeps_the_rest(done: Done) -> None:
    verdict = done.outcome.verdict
    assert verdict.forget_ratio < 0.5
    assert verdict.retain_kl < 0.5
    assert verdict.questions[2] == len(done.job.text.held_out)
    assert done.outcome.last.step == 40


def test_only_selected_elements_of_w_differ(done: Done, facts: World) -> None:
    inventory = take_inventory(facts.base)
    outcome = done.outcome
    assert outcome.mask.count == round(0.5 * done.job.weights.elements) == sum(outcome.selected.values())
    moved = 0
    for name, chosen in outcome.mask.selected.items():
        disk_name = done.job.weights.on_disk[name]
        changed = outcome.changes[disk_name] != read_tensor(inventory, disk_name)
        assert not (changed & ~chosen.to_bool()).any()
        moved += int(changed.sum())
    assert moved > 0.5 * outcome.mask.count
    assert outcome.changes.keys() <= set(done.job.weights.on_disk.values())
    assert not any(
        part in name for name in outcome.changes for part in ("embed", "norm", "lm_head", "vision", "projector")
    )


@pytest.mark.campaign
def test_equal_passes_give_equal_tensors(facts: World, done: Done) -> None:
    again = decoder_pass(facts.base, facts, DECODER).outcome
    assert again.changes.keys() == done.outcome.changes.keys()
    assert all(torch.equal(again.changes[name], value) for name, value in done.outcome.changes.items())


def test_recomputed_activations_and_narrow_weights_work(facts: World) -> None:
    narrow = DECODER.model_copy(update={"steps": 3, "dtype": "bfloat16", "checkpointing": "on", "density": 0.05})
    done = decoder_pass(facts.base, facts, narrow)
    inventory = take_inventory(facts.base)
    assert done.job.plan.dtype == "bfloat16"
    for name, chosen in done.outcome.mask.selected.items():
        disk_name = done.job.weights.on_disk[name]
        disk, new = read_tensor(inventory, disk_name), done.outcome.changes[disk_name]
        # float32 on disk was held in bfloat16: what was not trained keeps every bit all the same.
        assert torch.equal(new[~chosen.to_bool()], disk[~chosen.to_bool()])
        assert (new - disk).abs().max() < 0.02


def test_seeking_comes_nearer_to_the_person_and_leaves_no_gradient(facts: World) -> None:
    """The noisy features of another model stand for the unlearned ones; what is sought is what W says of its own."""
    loaded = load_model(facts.base, device="cpu")
    other = load_visual_stack(facts.gold, device="cpu")
    outputs = TeacherOutputs(
        loaded, Prompter(loaded.encoder, 1 << 20), micro_batch=4, answer_tokens=3, budget_bytes=1 << 20
    )
    questions = [
        Question(str(record.question), record.image, "") for record in read_records(facts.forget, role="forget")[:8]
    ]
    found = []
    for steps in (0, 4):
        adversary = FeatureAdversary(reach=0.0, steps=steps, size=0.05, seed=0)
        adversary._share = 0.0
        outputs.write(FORGET, questions, lambda: with_vision_of(loaded.model, other.model))
        part, look = next(iter(outputs.batches(outputs.answers_to(FORGET, questions))))
        outputs.note(ORIGINAL, part)
        wanted = outputs.log_probabilities(ORIGINAL, part)
        with with_vision_of(loaded.model, other.model, adversary):
            for _ in range(steps):
                adversary.move(kl(wanted, look().log_softmax(dim=2)).sum())
            found.append(float(kl(wanted, look().log_softmax(dim=2)).sum().detach()))
    assert found[1] < 0.5 * found[0]
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def test_the_teacher_says_the_same_while_it_answers_as_when_it_reads_its_answer(facts: World) -> None:
    loaded = load_model(facts.base, device="cpu")
    outputs = TeacherOutputs(
        loaded, Prompter(loaded.encoder, 1 << 20), micro_batch=4, answer_tokens=3, budget_bytes=1 << 20
    )
    asked = {
        RETAIN: [
            Question(each.question or "", each.image, each.source)
            for each in read_records(facts.retain, role="retain")[:6]
        ],
        TEXT: [Question(text, None, "text") for text in ("Who is it?", "Where is the blue house?")],
    }
    for role, questions in asked.items():
        outputs.write(role, questions, nullcontext)
        drift = distil(outputs, role, outputs.answers_to(role, questions))
        assert drift.kl < 1e-4
        assert drift.agreement == 1


def test_recomputing_calls_each_layer_twice_for_the_same_gradients(facts: World) -> None:
    gradients, calls = [], []
    for saves in (False, True):
        loaded = load_model(facts.base, device="cpu")
        stack = load_visual_stack(facts.base, device="cpu")
        weights = find_decoder_weights(stack.inventory, stack.split, "all")
        if saves:
            recompute(loaded, weights.layers)
        seen: list[int] = []
        layer = loaded.model.get_submodule(weights.layers[0])
        layer.self_attn.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        loaded.model(input_ids=torch.tensor([[7, 8, 9]]), use_cache=False).logits.square().sum().backward()
        gradients.append(dict(loaded.model.named_parameters())[next(iter(weights.on_disk))].grad)
        calls.append(len(seen))
    assert calls == [1, 2]
    assert torch.equal(*gradients)


def test_a_diverging_pass_writes_nothing(facts: World) -> None:
    with pytest.raises(SurgeryError, match="diverged"):
        decoder_pass(facts.base, facts, DECODER.model_copy(update={"step_size": 1e30}))


@pytest.fixture(scope="module")
def patched(facts: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("decoder") / "patched"
    result = out.parent / "result.json"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        status = run(["unlearn", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain), "-o",
                      str(out), "--decoder-pass", "--text", str(facts.text), "--json", *WORDS, *OPEN])  # fmt: skip
    result.write_text("\n".join(lines))
    assert status == 0
    return out, json.loads(result.read_text())


def test_the_command_line_writes_what_it_says(patched: tuple[Path, dict[str, Any]], facts: World) -> None:
    out, result = patched
    found = diff_checkpoints(facts.base, out)
    language = {tensor.name: tensor.changed for tensor in found.tensors if tensor.part == "language"}
    record = json.loads((out / "vkdsurgeon.json").read_text())["decoder"]
    assert language
    assert found.undeclared == ()
    assert found.declared == record["tensors"]
    assert sum(record["tensors"].values()) == record["selected_elements"] == result["decoder"]["selected_elements"]
    assert result["decoder"]["gate"]["met"]
    assert len(record["mask_digest"]) == 64
    assert not record["text"]["built_in"]
    written = (out / "vkdsurgeon.json").read_text()
    assert not any(name in written for name in ("Ann", "Bea", "Cid", "live"))


def test_diff_tells_declared_from_undeclared(
    patched: tuple[Path, dict[str, Any]], facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = patched
    assert run(["diff", str(facts.base), str(out), "--only-declared"]) == 0
    assert "record of a decoder pass" in capsys.readouterr().out
    assert run(["diff", str(facts.base), str(out), "--only-visual"]) == 3
    capsys.readouterr()
    tampered = Path(shutil.copytree(out, tmp_path / "tampered"))
    weights = load_file(tampered / "model.safetensors")
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name][0] += 1
    save_file(weights, tampered / "model.safetensors", metadata={"format": "pt"})
    assert run(["diff", str(facts.base), str(tampered), "--only-declared", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["undeclared"] == [name]
    (tampered / "vkdsurgeon.json").write_text("{")
    assert len(diff_checkpoints(facts.base, tampered).undeclared) > 1


def test_a_missed_gate_is_status_3_and_the_result_is_written(
    facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Where does Ann live ?\nWhere does Hal live ?\n")
    out = tmp_path / "patched"
    words = ["unlearn", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain), "-o", str(out)]
    limits = [*OPEN[:4], "--set", "decoder.text_kl=1e-9", "--set", "decoder.text_agreement=0"]
    assert run([*words, "--decoder-pass", "--text", str(prompts), *WORDS, *limits, "--set", "decoder.steps=3"]) == 3
    assert "decoder.text_kl" in capsys.readouterr().err
    assert not json.loads((out / "vkdsurgeon.json").read_text())["decoder"]["gate"]["met"]


def test_without_the_flag_w_is_neither_read_nor_written(facts: World, tmp_path: Path) -> None:
    words = ["unlearn", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain)]
    visual = WORDS[: WORDS.index("decoder.steps=12") - 1]
    assert run([*words, "-o", str(tmp_path / "out"), *visual]) == 0
    assert diff_checkpoints(facts.base, tmp_path / "out").language_identical
    assert "decoder" not in json.loads((tmp_path / "out" / "vkdsurgeon.json").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "decoder.density=0.1"], "but no decoder pass"),
        (["--text", "anything.txt"], "no decoder pass uses it"),
        (["--decoder-pass", "--set", "decoder.density=2"], "decoder.density"),
    ],
)
def test_half_asked_passes_are_refused(
    facts: World, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["unlearn", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain), "-o", str(out)]
    assert run([*asked, *words]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_an_unknown_key_of_the_section_is_refused_with_the_known_ones(tmp_path: Path, facts: World) -> None:
    from vkdsurgeon.config.files import load_recipe

    file = tmp_path / "recipe.yaml"
    file.write_text("decoder:\n  densty: 0.1\n")
    with pytest.raises(UserError, match=r"decoder\.densty") as caught:
        load_recipe(file, {})
    assert "text_agreement" in str(caught.value)
    file.write_text("decoder:\n  density: 0.1\n  step_size: 0.2\n")
    recipe = load_recipe(file, {"decoder": {"step_size": 0.5}}).decoder
    assert recipe is not None
    assert (recipe.density, recipe.step_size) == (0.1, 0.5)


def test_a_dry_run_plans_the_pass(facts: World, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["unlearn", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain)]
    assert run([*words, "--decoder-pass", "--dry-run", "--json", *WORDS]) == 0
    plan = json.loads(capsys.readouterr().out)["decoder"]["plan"]
    assert plan["selected_elements"] == round(0.5 * plan["eligible_elements"])
    assert plan["built_in_text"]
    assert plan["memory_mib"]["peak"] > plan["memory_mib"]["weights"] > 0
    assert run([*words, "--decoder-pass", "--dry-run", "--json", *WORDS, "--set", "decoder.moments=int8"]) == 0
    leaner = json.loads(capsys.readouterr().out)["decoder"]["plan"]["memory_mib"]
    # Two moments of one byte each instead of four.
    saved = plan["selected_elements"] * 6 / (1 << 20)
    assert plan["memory_mib"]["optimizer"] - leaner["optimizer"] == pytest.approx(saved, abs=0.11)


@pytest.mark.parametrize(
    ("asked", "dtype", "kind"),
    [
        ("auto", torch.bfloat16, "int8"),
        ("auto", torch.float32, "float32"),
        ("float32", torch.bfloat16, "float32"),
        ("int8", torch.float32, "int8"),
    ],
)
def test_moments_are_narrow_where_the_language_model_is(
    asked: Literal["auto", "float32", "int8"], dtype: torch.dtype, kind: str
) -> None:
    assert moments_kind(DecoderRecipe(moments=asked), dtype) == kind


def test_a_quantised_language_model_is_refused_before_any_work(facts: World, tmp_path: Path) -> None:
    for number, place in enumerate(("quantization_config", "text_config")):
        root = Path(shutil.copytree(facts.base, tmp_path / str(number)))
        config = json.loads((root / "config.json").read_text())
        settings = {"quant_method": "gptq", "bits": 4}
        if place == "text_config":
            config["text_config"]["quantization_config"] = settings
        else:
            config[place] = settings
        (root / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="quantised") as caught:
            decoder_pass(root, facts, DECODER)
        assert "gptq" in str(caught.value)


def test_packed_integer_weights_are_refused(tmp_path: Path) -> None:
    root = build_checkpoint("llava", tmp_path)
    weights = load_file(root / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    weights[name] = torch.zeros(weights[name].shape, dtype=torch.int8)
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    stack = load_visual_stack(root, device="cpu")
    with pytest.raises(UserError, match="quantised") as caught:
        find_decoder_weights(stack.inventory, stack.split, "all")
    assert "I8" in str(caught.value)


def test_sharded_narrow_checkpoints_are_patched_in_place(facts: World, done: Done, tmp_path: Path) -> None:
    root = Path(shutil.copytree(facts.base, tmp_path / "model"))
    (root / "model.safetensors").unlink()
    model = load_model(facts.base, device="cpu", dtype="bfloat16").model
    model.save_pretrained(root, max_shard_size=100_000)
    found = decoder_pass(root, facts, DECODER.model_copy(update={"steps": 5}))
    inventory = take_inventory(root)
    assert len(inventory.shards) > 2
    report = write_patched(inventory, {**found.visual, **found.outcome.changes}, tmp_path / "out")
    assert report.shards_changed
    difference = diff_checkpoints(root, tmp_path / "out")
    changed = {tensor.name: tensor.changed for tensor in difference.tensors if tensor.part == "language"}
    assert all(count <= found.outcome.selected[name] for name, count in changed.items())
    assert isinstance(done.job.text, TextRetainSet)
