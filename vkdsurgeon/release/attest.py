"""Statements about a release in the formats of others: in-toto test results, SLSA provenance, a CycloneDX ML-BOM.

All of them are made from the record, the results and the files; they hold no time, so equal releases give equal bytes.
None of them says that anything is erased: what was measured holds relative to base and gold, under these attacks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vkdsurgeon.checkpoint.digest import checkpoint_digests
from vkdsurgeon.checkpoint.inventory import Inventory, take_inventory
from vkdsurgeon.checkpoint.provenance import record_names
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.release.bom import bill_of_materials
from vkdsurgeon.report.evidence import gather
from vkdsurgeon.report.text import Wording
from vkdsurgeon.report.verdict import judge
from vkdsurgeon.results.read import Source, read_source
from vkdsurgeon.results.run_record import ProvenanceDocument

STATEMENT = "https://in-toto.io/Statement/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:vkdsurgeon:unlearn:1"
BUILDER = "urn:vkdsurgeon:cli"
FILES = ("test-result.intoto.json", "provenance.intoto.json", "ml-bom.cdx.json")


def attest(model: Path, documents: Sequence[Path], out: Path, *, base_name: str | None = None) -> list[Path]:
    """Write all statements about a patched checkpoint.

    Args:
        model: The checkpoint.
        documents: Results about it, as the report takes them.
        out: A directory; made where it is missing. Earlier statements in it are replaced.
        base_name: What the base is called, such as `org/name`; None for its name on the hub, where the record has one.

    Returns:
        What was written.

    Raises:
        UserError: The checkpoint has no record of a run that names its base, or the documents do not belong together.
    """
    inventory = take_inventory(model)
    record = _record_of(model, inventory)
    sources = _with_record(record, documents)
    digests = checkpoint_digests(inventory)
    subject = [{"name": path, "digest": {"sha256": digest}} for path, digest in sorted(digests.files.items())]
    name = base_name or _hub_name(record) or "base"
    made = {
        FILES[0]: _statement(subject, TEST_RESULT, test_result(sources)),
        FILES[1]: _statement(subject, PROVENANCE, slsa_provenance(record, sources, name)),
        FILES[2]: bill_of_materials(record, sources, digests, name, model),
    }
    out.mkdir(exist_ok=True)
    for file, content in made.items():
        write_whole(out / file, json.dumps(content, indent=2) + "\n")
    return [out / file for file in made]


def with_record(model: Path, documents: Sequence[Path]) -> list[Path]:
    """Results about a checkpoint, and its record where it is not among them.

    Raises:
        UserError: As `attest`.
    """
    return [source.path for source in _with_record(_record_of(model, take_inventory(model)), documents)]


def _with_record(record: Source, documents: Sequence[Path]) -> list[Source]:
    sources = [read_source(path) for path in documents]
    return sources if record.digest in {source.digest for source in sources} else [*sources, record]


def base_name_of(model: Path) -> str | None:
    """What the hub calls the base of a patched checkpoint, by its record; None where it did not come from there.

    Args:
        model: The checkpoint.

    Raises:
        UserError: As `attest`.
    """
    return _hub_name(_record_of(model, take_inventory(model)))


def _hub_name(record: Source) -> str | None:
    run = record.document
    assert isinstance(run, ProvenanceDocument)
    assert run.base is not None
    return None if run.base.hub is None else run.base.hub.id


def _record_of(model: Path, inventory: Inventory) -> Source:
    names = record_names(inventory)
    record = read_source(model / names[-1]) if names else None
    if record is None or not isinstance(record.document, ProvenanceDocument) or record.document.base is None:
        raise UserError(
            "no record of a run that names its base lies in this checkpoint",
            where=model,
            expected="an output of `vkdsurgeon unlearn` of this version",
        )
    return record


def test_result(sources: Sequence[Source]) -> dict[str, Any]:
    """The in-toto predicate: which gates hold.

    Args:
        sources: Results.

    Returns:
        `result` is FAILED where a bound was missed, WARNED where an attack has none or no bound was set at all.
    """
    case = gather(sources)
    verdict = judge(case, Wording(frozenset()))
    unjudged = [f"{title}: measured, no bound judges it" for title in verdict.unjudged]
    results = {"passed": "PASSED", "failed": "FAILED"}
    return {
        "result": results.get(verdict.status, "WARNED"),
        "configuration": _documents(sources),
        "passedTests": [f"{check.origin}: {check.text}" for check in verdict.checks if check.passed],
        "warnedTests": unjudged,
        "failedTests": [f"{check.origin}: {check.text}" for check in verdict.checks if not check.passed],
    }


def slsa_provenance(record: Source, sources: Sequence[Source], base_name: str) -> dict[str, Any]:
    """The SLSA v1 predicate: what was run, with what, from what.

    Args:
        record: Record of the run.
        sources: Results, told as byproducts.
        base_name: What the base is called.
    """
    run = record.document
    assert isinstance(run, ProvenanceDocument)
    assert run.base is not None
    dependencies: list[dict[str, Any]] = [
        {"name": f"{base_name}/{path}", "digest": {"sha256": digest}} for path, digest in sorted(run.base.files.items())
    ]
    if run.base.hub is not None:
        dependencies.insert(0, {"uri": run.base.hub.package_url, "digest": {"gitCommit": run.base.hub.revision}})
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "method": run.method,
                "recipe": run.recipe,
                "seed": run.seed,
                "device": run.device,
                "dtype": run.dtype,
                "request": run.request.model_dump(),
                "sets": {name: each.model_dump() for name, each in run.sets.items()},
                "salt": run.salt,
            },
            "internalParameters": {"environment": run.environment},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": run.versions},
            # The record's digest: it differs from run to run with what was learnt.
            "metadata": {"invocationId": record.digest},
            "byproducts": _documents(sources),
        },
    }


def _documents(sources: Sequence[Source]) -> list[dict[str, Any]]:
    return [{"name": source.path.name, "digest": {"sha256": source.digest}} for source in sources]


def _statement(subject: Sequence[Mapping[str, Any]], kind: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": list(subject),
        "predicateType": kind,
        "predicate": {**predicate},
    }
