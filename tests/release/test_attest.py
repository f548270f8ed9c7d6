"""Attestations, validated by the schemas and classes that their owners publish; and the card between its markers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.release.conftest import Released
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.release.attest import FILES, PROVENANCE, TEST_RESULT
from vkdsurgeon.release.card import BEGIN, with_section, without_section, write_card


def validate(folder: Path) -> tuple[dict, dict, dict]:
    """The three statements, each held against what its owner publishes: unknown fields and wrong types are refused."""
    found = [json.loads((folder / name).read_text()) for name in FILES]
    classes = (test_result_pb2.TestResult, provenance_pb2.Provenance)
    for statement, kind, predicate in zip(found[:2], (TEST_RESULT, PROVENANCE), classes, strict=True):
        json_format.ParseDict(statement, statement_pb2.Statement())
        json_format.ParseDict(statement["predicate"], predicate())
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == kind
        assert all(set(each) == {"name", "digest"} for each in statement["subject"])
    problem = JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(found[2]))
    assert problem is None, problem
    return found[0], found[1], found[2]


def test_the_validators_can_fail(tmp_path: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(
        '{"bomFormat": "CycloneDX", "specVersion": "1.7", "a": 1}'
    )
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({"passed": []}, test_result_pb2.TestResult())


def test_the_statements_of_a_run(
    released: Released, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["diff", str(released.base), str(released.patched), "--json"]) == 0
    (tmp_path / "diff.json").write_text(capsys.readouterr().out)
    words = ["attest", str(released.patched), str(tmp_path / "diff.json"), "-o", str(tmp_path / "statements")]
    assert run([*words, "--base-name", "org/model", "--sign", str(keys[0]), "--signature", str(tmp_path / "sig")]) == 0
    results, provenance, bom = validate(tmp_path / "statements")
    # Nothing was measured, so nothing passed.
    assert results["predicate"]["result"] in ("WARNED", "FAILED")
    subject = {each["name"]: each["digest"]["sha256"] for each in results["subject"]}
    there = {path.name: digest(path) for path in released.patched.iterdir()}
    assert subject == there
    record = json.loads((released.patched / "vkdsurgeon.2.json").read_text())
    definition = provenance["predicate"]["buildDefinition"]
    base = {each["name"]: each["digest"]["sha256"] for each in definition["resolvedDependencies"]}
    assert base == {f"org/model/{path}": told for path, told in record["base"]["files"].items()}
    assert definition["externalParameters"]["request"] == {"id": "R-17", "date": "2026-03-01"}
    component = bom["metadata"]["component"]
    (ancestor,) = component["pedigree"]["ancestors"]
    assert ancestor["name"] == "org/model"
    assert {"name": "vkdsurgeon:weights_digest", "value": record["base"]["weights_digest"]} in ancestor["properties"]
    first = [(tmp_path / "statements" / name).read_bytes() for name in FILES]
    assert run([*words, "--base-name", "org/model"]) == 0
    assert [(tmp_path / "statements" / name).read_bytes() for name in FILES] == first, "they hold no time"
    signed = vkdsurgeon.verify(released.patched, signature=tmp_path / "sig", public_key=keys[1])
    assert signed.passed
    told = "".join((tmp_path / "statements" / name).read_text() for name in FILES)
    assert "erased" not in told
    assert "person" not in told
    assert str(tmp_path) not in told


def test_a_checkpoint_without_a_record_has_no_statements(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record of a run"):
        vkdsurgeon.attest(llava, [], tmp_path / "statements")
    assert not (tmp_path / "statements").exists()


CARD = """---
license: apache-2.0  # theirs
tags:
- vision
base_model: someone/else
datasets: [a, b]
---
# A model

Their text.
"""


def test_the_card_keeps_what_others_wrote() -> None:
    made = with_section(CARD, "org/model", "## Evidence\n\nNumbers.")
    front = yaml.safe_load(made.split("---\n")[1])
    assert front == {
        "license": "apache-2.0",
        "datasets": ["a", "b"],
        "tags": ["vision", "machine-unlearning", "vkdsurgeon"],
        "base_model": "org/model",
        "base_model_relation": "finetune",
    }
    assert "license: apache-2.0  # theirs\n" in made
    assert "# A model\n\nTheir text.\n" in made
    assert made.count(BEGIN) == 1
    again = with_section(made, "org/model", "## Evidence\n\nNumbers.")
    assert again == made, "written twice it is the same"
    other = with_section(made, "org/model", "Other numbers.")
    assert "Numbers." not in other.replace("Other numbers.", "")
    assert without_section(made).endswith("Their text.\n")


def test_a_card_without_front_matter_and_none_at_all() -> None:
    made = with_section("# Plain\n", None, "Numbers.")
    assert made.startswith("---\ntags:\n- machine-unlearning\n- vkdsurgeon\n---\n# Plain\n\n" + BEGIN)
    assert with_section("", None, "Numbers.").count("Numbers.") == 1
    with pytest.raises(UserError, match="not YAML"):
        with_section("---\na: [\n---\n", None, "x")


@pytest.mark.parametrize(
    "theirs", ["", "text", "text\n", "text\n\n\n", "a\r\nb\r\n", "---\r\nlicense: mit\r\n---\r\nb"]
)
def test_every_byte_of_others_stays_however_often_it_is_written(theirs: str, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(theirs.encode())
    write_card(tmp_path, None, "Numbers.")
    first = card.read_bytes()
    write_card(tmp_path, None, "Numbers.")
    assert card.read_bytes() == first
    front = "---\r\n" if theirs.startswith("---") else "---\n"
    assert without_section(first.decode().split(front, 2)[2]) == theirs.rpartition(front)[2]


def test_a_card_that_is_no_text_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="not UTF-8"):
        write_card(tmp_path, None, "Numbers.")
    assert (tmp_path / "README.md").read_bytes() == b"caf\xe9"


def test_the_card_tells_what_the_record_tells(released: Released, copy: Path, tmp_path: Path) -> None:
    """Whether or not it is given beside the results."""
    cards = []
    for results in ([], [released.patched / "vkdsurgeon.2.json"]):
        vkdsurgeon.attest(copy, results, tmp_path / "statements", card=True)
        cards.append((copy / "README.md").read_text())
    assert cards[0] == cards[1]
    assert "no record of how" not in cards[0]
    assert "Stop rule of the unlearning run" in cards[0]
    assert "under these attacks" in cards[0]


def test_a_card_is_free_and_everything_else_is_not(released: Released, copy: Path, tmp_path: Path) -> None:
    record = released.patched / "vkdsurgeon.2.json"
    vkdsurgeon.attest(copy, [record], tmp_path / "statements", card=True)
    result = vkdsurgeon.verify(copy, base=released.base)
    assert result.passed, result.failures
    assert "README.md is a card" in next(each.told for each in result.checks if each.check == "files")
