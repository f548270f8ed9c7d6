"""The public API as a script meets it."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from vkdsurgeon_cli.main import run as command

import vkdsurgeon.api
from tests.tiny_llava import world
from vkdsurgeon import (
    DiffResult,
    Event,
    ForgetTargets,
    GateFailed,
    InspectResult,
    Recipe,
    Record,
    TargetContext,
    UserError,
    attack,
    diff,
    evaluate,
    inspect,
    load_recipe,
    read_result,
    register_forget_target,
    register_mask,
    run_method,
    tune,
    unlearn,
    write_report,
)

LENIENT = {
    "steps": 8,
    "extensions": 0,
    "forget_batch": 8,
    "retain_batch": 8,
    "forget_reading": 1.0,
    "retain_reading": 1.0,
    "retain_drift": 100.0,
    "copies": 1,
    "tamper_weight": 0.0,
}


def read(file: Path) -> list[Record]:
    rows = (json.loads(line) for line in file.read_text().splitlines())
    return [Record(image=file.parent / row["image"], subject=row["subject"]) for row in rows]


def read_back(result: Any, folder: Path) -> Any:
    """The result read from its own document, which says the same once more."""
    file = folder / "document.json"
    file.write_text(result.model_dump_json())
    found = read_result(file)
    assert type(found) is type(result)
    mine, theirs = (json.loads(each.model_dump_json()) for each in (found, result))
    for plan in (mine["plan"], theirs["plan"]):
        # The sum of rounded parts is not the rounded sum.
        plan["memory_mib"].pop("total", None)
    assert mine == theirs
    return found


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    capsys.readouterr()
    assert command([str(word) for word in words]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_names_are_there_and_load_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "import vkdsurgeon\n"
        "from vkdsurgeon import unlearn, evaluate, attack, tune, compare, inspect, diff, write_report, load_recipe\n"
        "from vkdsurgeon import Event, UserError, SurgeryError, GateFailed\n"
        "assert not {'torch', 'transformers', 'pydantic', 'yaml', 'numpy'} & sys.modules.keys()\n"
        "from vkdsurgeon import Recipe, Record, EvalResult, InspectResult\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_found_and_says_what_it_is() -> None:
    for name in vkdsurgeon.__all__:
        found = getattr(vkdsurgeon, name)
        assert name == "__version__" or (found.__doc__ or "").strip(), name
    assert set(dir(vkdsurgeon)) == set(vkdsurgeon.__all__)
    # An import of a module of that name would put it in the function's place.
    for package in (vkdsurgeon, vkdsurgeon.api):
        assert not {each.name for each in pkgutil.iter_modules(package.__path__)} & set(vkdsurgeon.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vkdsurgeon.nothing  # noqa: B018


def test_inspect_and_diff_are_what_the_commands_print(llava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = inspect(str(llava))
    assert json.loads(seen.model_dump_json()) == printed(capsys, "inspect", llava, "--json")
    assert InspectResult.model_validate_json(seen.model_dump_json()) == seen
    same = diff(llava, llava)
    assert same.identical
    assert same.language_identical
    assert json.loads(same.model_dump_json()) == printed(capsys, "diff", llava, llava, "--json")
    assert DiffResult.model_validate_json(same.model_dump_json()) == same
    assert diff(llava, llava, digests=False).base_weights_digest is None


def test_unlearning_records_is_unlearning_their_file(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    told: list[Event] = []
    by_file = unlearn(
        llava, sets["forget"], tmp_path / "file", retain=sets["retain"], recipe=LENIENT, device="cpu",
        on_event=told.append,
    )  # fmt: skip
    by_records = unlearn(
        llava, read(sets["forget"]), tmp_path / "records", retain=read(sets["retain"]),
        recipe=load_recipe(**LENIENT), device="cpu",
    )  # fmt: skip
    assert by_file.passed
    assert by_file.failures == []
    again = read_back(by_file, tmp_path)
    assert (again.recipe, again.verdict, again.write) == (by_file.recipe, by_file.verdict, by_file.write)
    assert {"plan", "stage", "step", "verdict"} <= {event.kind for event in told}
    assert by_file.write is not None
    assert by_records.write is not None
    assert by_records.write.weights_digest == by_file.write.weights_digest
    found = diff(llava, tmp_path / "file")
    assert found.language_identical
    assert found.elements_changed == by_file.write.elements_changed
    document = json.loads(by_file.model_dump_json())
    assert document["schema"] == "vkdsurgeon/unlearn/1"
    assert document == json.loads(json.dumps(by_file.model_dump(mode="json")))
    page = write_report([by_file, found, tmp_path / "file" / "vkdsurgeon.json"], tmp_path / "card.md")
    assert page.verdict == "unjudged"
    assert (tmp_path / "card.md").is_file()


def test_a_dry_run_writes_nothing_and_is_no_evidence(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    planned = unlearn(llava, sets["forget"], retain=sets["retain"], recipe=LENIENT, device="cpu")
    assert planned.write is None
    assert planned.passed
    assert planned.plan.steps == 8
    with pytest.raises(UserError, match="a dry run has nothing to report"):
        write_report([planned], tmp_path / "report.html")


def test_a_stop_rule_that_is_not_met_is_told_and_raised_on_request(
    llava: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    strict = {**LENIENT, "forget_reading": 0.0, "step_size": 1e-9}
    run = unlearn(llava, sets["forget"], tmp_path / "out", retain=sets["retain"], recipe=strict, device="cpu")
    assert not run.passed
    with pytest.raises(GateFailed, match="stop rule: not met"):
        run.raise_if_failed()


@pytest.mark.usefixtures("own_words")
def test_a_target_and_a_mask_of_ones_own(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of .*nobody"):
        register_forget_target("nobody", lambda context: pytest.fail("never called"))
    with pytest.raises(UserError, match="forget_target"):
        load_recipe(forget_target="unheard_of")

    def everybody(context: TargetContext) -> ForgetTargets:
        made = context.empty()
        for layer in context.recipe.layers:
            middle = torch.stack([context.identities(layer).means[name] for name in context.kept]).mean(dim=0)
            for index, value in enumerate(context.forget.all(layer)):
                made.put(layer, index, middle.expand(value.shape).contiguous())
        return ForgetTargets(made)

    register_forget_target("everybody", everybody)
    register_mask(
        "projector_matrices",
        lambda parameters, gradients: {
            name: score > 0 for name, score in gradients().items() if "projector" in name and score.dim() == 2
        },
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        recipe = load_recipe(**LENIENT, forget_target="everybody", saliency="projector_matrices")
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    run = unlearn(llava, sets["forget"], tmp_path / "out", retain=sets["retain"], recipe=recipe, device="cpu")
    changed = {each.tensor for each in diff(llava, tmp_path / "out").changed}
    assert changed
    assert all("projector" in name and name.endswith("weight") for name in changed)
    assert run.provenance["recipe"]["saliency"] == "projector_matrices"

    register_mask("nonsense", lambda parameters, gradients: {"nowhere": next(iter(parameters.values())) > 0})
    with pytest.raises(UserError, match="does not fit the weights"):
        unlearn(
            llava, sets["forget"], tmp_path / "no", retain=sets["retain"], recipe={**LENIENT, "saliency": "nonsense"},
            device="cpu",
        )  # fmt: skip
    assert not (tmp_path / "no").exists()


def test_what_is_wrong_is_told_before_anything_is_loaded(llava: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    forget = sets["forget"]
    with pytest.raises(UserError, match=r"unknown key 'densty'(?s:.*)density"):
        unlearn(llava, forget, tmp_path / "out", recipe={"densty": 0.5})
    with pytest.raises(UserError, match="a complete recipe and a preset cannot be combined"):
        unlearn(llava, forget, tmp_path / "out", recipe=load_recipe(), preset="robust")
    with pytest.raises(UserError, match="call run_method"):
        unlearn(llava, forget, tmp_path / "out", recipe={"output_loss": "npo"})
    with pytest.raises(UserError, match="unknown method"):
        run_method("vkd", llava, forget, tmp_path / "out")
    with pytest.raises(UserError, match="unknown scope"):
        run_method("npo", llava, forget, tmp_path / "out", scope="none")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="relative path"):
        unlearn(llava, [Record(image=Path("here.png"))], tmp_path / "out")
    with pytest.raises(UserError, match="no records"):
        unlearn(llava, [], tmp_path / "out")
    with pytest.raises(UserError, match="not a gate"):
        evaluate(llava, {"forget": forget}, gates=["forget is small"])
    with pytest.raises(UserError, match="no such attack"):
        attack("bribe", llava, forget)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean 'formats'"):
        attack("quantize", llava, forget, settings={"format": ["int8"]})
    with pytest.raises(UserError, match="puts the base's weights back"):
        attack("restore", llava, forget)
    with pytest.raises(UserError, match="no non-members"):
        attack("membership", llava, forget)
    with pytest.raises(UserError, match="not a valid time limit"):
        tune(llava, forget, tmp_path / "tuned", minutes=0)
    assert list(tmp_path.iterdir()) == []


def without_time(document: str) -> dict[str, object]:
    return {key: value for key, value in json.loads(document).items() if key != "seconds"}


def test_measuring_is_what_the_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    facts = world()
    gate = "forget.vqa.accuracy<=gold+0.1"
    result = evaluate(
        facts.base, {"forget": facts.forget}, gold=facts.gold, gates=[gate], limit=12, max_new_tokens=3, device="cpu"
    )
    words = ["--forget", facts.forget, "--gold", facts.gold, "--limit", 12, "--max-new-tokens", 3, "--device", "cpu"]
    asked = [str(word) for word in ["eval", facts.base, *words, "--gate", gate, "--json"]]
    assert command(asked) == 3
    assert without_time(result.model_dump_json()) == without_time(capsys.readouterr().out)
    assert not result.passed
    with pytest.raises(GateFailed, match=r"forget\.vqa\.accuracy is") as missed:
        result.raise_if_failed()
    assert missed.value.failures == result.failures
    assert result.metric("forget.vqa.accuracy").n == 6
    with pytest.raises(UserError, match=r"not measured(?s:.*)forget\.vqa\.accuracy"):
        result.value("forget.vqa.acuracy")

    settings = {"limit": 12, "max_new_tokens": 3, "formats": ["int8"]}
    found = attack("quantize", facts.base, facts.forget, gold=facts.gold, settings=settings, device="cpu")
    assert (
        command([str(word) for word in ["attack", "quantize", facts.base, *words, "--format", "int8", "--json"]]) == 0
    )
    assert without_time(found.model_dump_json()) == without_time(capsys.readouterr().out)
    assert found.passed, "no gate, nothing missed"


def test_other_methods_and_the_search(tmp_path: Path) -> None:
    facts = world()
    forget, retain = facts.forget, facts.retain
    planned = run_method("graddiff", facts.base, forget, retain=retain, scope="visual", device="cpu")
    assert planned.write is None
    assert planned.passed
    assert json.loads(planned.model_dump_json())["method"] == "graddiff"
    assert read_back(planned, tmp_path).plan == planned.plan
    found = tune(
        facts.base, forget, tmp_path / "tuned", retain=retain, recipe=LENIENT, trials=1, pick="knee", device="cpu"
    )
    assert found.passed
    assert found.picked is found.default
    written = json.loads((tmp_path / "tuned" / "tune.json").read_text())
    assert json.loads(found.model_dump_json()) == written
    document = read_result(tmp_path / "tuned" / "tune.json")
    assert json.loads(document.model_dump_json()) == written
    assert load_recipe(tmp_path / "tuned" / "picked.yaml").steps == 8


@pytest.mark.parametrize("text", ["", "[]", '{"schema": "vkdsurgeon/nothing/1"}', '{"schema": "vkdsurgeon/unlearn/1"}'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(UserError, match="expected: a document that vkdsurgeon wrote"):
        read_result(file)
