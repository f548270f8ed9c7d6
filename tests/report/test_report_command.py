"""`vkdsurgeon report` from the outside: what it takes, what it refuses, what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.report.documents import (
    difference,
    evaluation,
    everything,
    gate,
    operation,
    provenance,
    relearning,
    relearning_series,
    restoring,
    unlearning,
    write,
)


def report(out: Path, paths: list[Path], *words: str) -> int:
    return run(["report", *map(str, paths), "-o", str(out), *words])


def test_every_kind_of_document_in_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "report.html"
    assert report(out, write(tmp_path, **everything()), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "failed"
    assert told["failed"] == ["gap.relearn.ag<=5"]
    assert told["missing"] == []
    text = out.read_text()
    for part in ("Measured against base and gold", "Attacks", "What changed", "What this does not show", "Provenance"):
        assert part in text
    assert "Original visual weights put back" in text


def test_the_order_of_the_documents_changes_no_number(tmp_path: Path):
    paths = write(tmp_path, **everything())
    for name, order in (("one.md", paths), ("two.md", paths[::-1])):
        assert report(tmp_path / name, order) == 0
    lines = [sorted((tmp_path / name).read_text().splitlines()) for name in ("one.md", "two.md")]
    assert lines[0] == lines[1]


def test_equal_documents_give_equal_bytes_and_a_document_given_twice_counts_once(tmp_path: Path):
    paths = write(tmp_path, eval=evaluation(), again=evaluation())
    assert report(tmp_path / "one.html", paths[:1]) == 0
    assert report(tmp_path / "two.html", paths) == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ({"bad": "{"}, "not a JSON document"),
        ({"bad": "[1, 2]"}, "not a document of vkdsurgeon"),
        ({"bad": '"text"'}, "not a document of vkdsurgeon"),
        ({"bad": {"schema": "vkdsurgeon/demo/1"}}, "a report cannot contain this kind of result"),
        ({"bad": {"hello": 1}}, "not a document of vkdsurgeon"),
        ({"bad": {"error": {"status": 2, "what": "no such directory"}}}, "a command that failed: no such directory"),
        ({"bad": unlearning(dry_run=True)}, "a dry run has nothing to report"),
        ({"bad": evaluation(schema_version=2)}, "of another version"),
        ({"bad": evaluation(metrics=[{"id": "a"}])}, "metrics.0.value"),
        ({"bad": evaluation(surprise=1)}, "surprise"),
        ({"bad": relearning(settings={"steps": 3})}, "broken attack.relearn document"),
        ({"bad": json.dumps(evaluation()).replace("0.05", "NaN")}, "NaN is not a number"),
        ({"bad": json.dumps(evaluation()).replace("0.05", "1e999")}, "out of range"),
        ({"bad": "[" * 100_000}, "not a JSON document"),
        ({"a": evaluation(), "bad": provenance(weights_digest="9" * 64)}, "the model has other weights than in"),
        ({"a": evaluation(), "bad": difference(base_weights_digest="9" * 64)}, "the base has other weights than in"),
        ({"a": provenance(), "bad": provenance(seed=1)}, "contradict each other"),
    ],
)
def test_what_is_refused_names_the_file(
    documents: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    paths = write(tmp_path, **documents)
    out = tmp_path / "report.html"
    assert report(out, paths) == 2
    told = capsys.readouterr().err
    assert message in told
    assert str(tmp_path / "bad.json") in told
    assert not out.exists()


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert report(tmp_path / "report.html", [tmp_path]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert report(tmp_path / "report.html", [tmp_path / "none.json"]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "latin.json").write_bytes(b'{"schema": "\xe9"}')
    assert report(tmp_path / "report.html", [tmp_path / "latin.json"]) == 2
    assert "latin.json" in capsys.readouterr().err


def test_only_reports_are_ever_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = write(tmp_path, eval=evaluation())
    for name in ("report.html", "card.md"):
        out = tmp_path / name
        out.write_text("my own words")
        assert report(out, paths) == 2
        assert "not an earlier report" in capsys.readouterr().err
        assert out.read_text() == "my own words"
        out.unlink()
        assert report(out, paths) == 0
        assert report(out, paths, "--title", "Again") == 0
        assert "Again" in out.read_text()
    assert report(paths[0], paths, "--format", "md") == 2
    assert json.loads(paths[0].read_text())["kind"] == "evaluation"


def test_the_format_comes_from_the_name_or_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = write(tmp_path, eval=evaluation())
    assert report(tmp_path / "out.txt", paths) == 2
    assert "--format" in capsys.readouterr().err
    assert report(tmp_path / "out.txt", paths, "--format", "md") == 0
    assert (tmp_path / "out.txt").read_text().startswith("<!-- vkdsurgeon report -->\n# ")


def test_a_record_alone_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert report(tmp_path / "card.md", write(tmp_path, record=provenance()), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "unjudged"
    assert any("there is no evaluation" in sentence for sentence in told["missing"])
    assert any("No attack was tried" in sentence for sentence in told["missing"])


def test_a_missed_stop_rule_or_decoder_bound_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stop = operation()["stop_rule"][0] | {"met": False}
    decoder = {"selected_elements": 7, "gate": {"met": False, "missed": ["text KL 0.3 > 0.2 (decoder.text_kl)"]}}
    paths = write(tmp_path, eval=evaluation(), run=unlearning(stop_rule=[stop], decoder=decoder))
    assert report(tmp_path / "card.md", paths, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "failed"
    assert told["failed"] == ["Stop rule of the unlearning run", "Bounds of the decoder pass"]
    text = (tmp_path / "card.md").read_text()
    assert "Text is no longer bit-identical" in text
    assert "7 elements of the language model" in text


def test_a_missed_stop_rule_of_the_vision_tower_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    stop = operation()["stop_rule"][0] | {"met": False}
    run = unlearning(image_pass=unlearning(stop_rule=[stop]))
    told = _verdict(tmp_path, capsys, eval=evaluation(), run=run)
    assert (told["verdict"], told["failed"]) == ("failed", ["Stop rule of the vision tower"])


def test_the_command_loads_no_heavy_library(tmp_path: Path):
    paths = write(tmp_path, **everything())
    code = (
        "import sys\n"
        "from vkdsurgeon_cli.main import run\n"
        f"assert run(['report', *{[str(path) for path in paths]!r}, '-o', {str(tmp_path / 'report.html')!r}]) == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _verdict(folder: Path, capsys: pytest.CaptureFixture[str], **documents: Any) -> dict[str, Any]:
    assert report(folder / "card.md", write(folder, **documents), "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


HOLDS = gate("gap.relearn.ag<=40", 32.0, 40.0, passed=True)


def test_an_attack_without_a_gate_is_measured_and_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ungated = relearning(gates=[])
    told = _verdict(tmp_path, capsys, eval=evaluation(), relearn=ungated, restore=restoring())
    names = ["Relearning, other subjects", "Original visual weights put back"]
    assert (told["verdict"], told["unjudged"]) == ("partial", names)
    assert told["headline"] == f"Every bound that was set holds. NOT judged, only measured: {'; '.join(names)}."
    assert "**Not all judged. Every bound that was set holds. NOT judged" in (tmp_path / "card.md").read_text()
    told = _verdict(tmp_path, capsys, eval=evaluation(), relearn=relearning(gates=[HOLDS]), restore=restoring())
    assert (told["verdict"], told["unjudged"]) == ("partial", names[1:])
    told = _verdict(tmp_path, capsys, eval=evaluation(), relearn=relearning(), restore=restoring())
    assert told["headline"] == f"1 of 2 checks failed. NOT judged, only measured: {names[1]}."


def test_a_gate_on_every_attack_is_a_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    restored = restoring() | {"gates": [gate("restore.after.vqa.accuracy<=0.9", 0.88, 0.9, passed=True)]}
    relearned = relearning(gates=[HOLDS])
    told = _verdict(tmp_path, capsys, eval=evaluation(), relearn=relearned, restore=restored)
    assert (told["verdict"], told["headline"], told["unjudged"]) == ("passed", "All 3 gates hold.", [])


@pytest.mark.parametrize(
    "text",
    [
        "relearn.retain.after.vqa.accuracy<=1",
        "relearn.before.vqa.accuracy<=1",
        "gold.relearn.ag<=1",
        "relearn.seconds<=1",
        "relearn.ag>=0",
        "relearn.steps_to_recover<=9",
    ],
)
def test_a_gate_beside_what_came_back_judges_no_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str):
    beside = relearning(gates=[gate(text, 0.5, 1.0, passed=True)])
    assert _verdict(tmp_path, capsys, eval=evaluation(), relearn=beside)["verdict"] == "partial"


def test_a_gate_on_when_it_came_back_judges_an_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    late = relearning(gates=[gate("relearn.steps_to_recover>=9", 12, 9, passed=True)])
    assert _verdict(tmp_path, capsys, eval=evaluation(), relearn=late)["verdict"] == "passed"


def test_of_a_series_only_the_attacks_with_a_gate_are_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    held = relearning_series(gates=[gate("relearn.pairs.50.llm.ag<=50", 40.0, 50.0, passed=True)])
    told = _verdict(tmp_path, capsys, eval=evaluation(), series=held)
    assert told["unjudged"] == ["Relearning, trained on what is to be kept"]
