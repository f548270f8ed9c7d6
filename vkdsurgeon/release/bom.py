"""A patched checkpoint as a CycloneDX 1.7 ML-BOM: its base as ancestor, its metrics with slice and interval."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vkdsurgeon import __version__
from vkdsurgeon.checkpoint.digest import Digests
from vkdsurgeon.release.card import CARD, license_of
from vkdsurgeon.results.attack_document import AttackDocument
from vkdsurgeon.results.evaluation import EvalResult, Metric
from vkdsurgeon.results.read import Source
from vkdsurgeon.results.run_record import ProvenanceDocument

_LIMITS = (
    "What was measured holds relative to base and gold, under these attacks, on these questions. It does not show that "
    "knowledge is gone.",
    "Whoever has the base's visual weights can put them back in front of an unchanged language model.",
)


def bill_of_materials(
    record: Source, sources: Sequence[Source], digests: Digests, base_name: str, model: Path
) -> dict[str, Any]:
    """The BOM.

    Args:
        record: Record of the run.
        sources: Results about the checkpoint.
        digests: Digests of the checkpoint.
        base_name: What the base is called.
        model: The checkpoint, for its card.
    """
    run = record.document
    assert isinstance(run, ProvenanceDocument)
    assert run.base is not None
    ancestor: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"base:{run.base.weights_digest}",
        "name": base_name,
        "components": _files(run.base.files, "base"),
        "properties": [_property("weights_digest", run.base.weights_digest)],
    }
    if run.base.hub is not None:
        ancestor |= {"version": run.base.hub.revision, "purl": run.base.hub.package_url}
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{digests.weights}",
        "name": f"{base_name}, unlearned",
        "version": digests.weights[:12],
        "pedigree": {"ancestors": [ancestor], "notes": f"{run.method}; {record.path.name} sha256:{record.digest}"},
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "self-supervised"},
                "task": "image-text-to-text",
                "architectureFamily": run.model_type,
                "modelArchitecture": run.model_type,
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(sources))},
            "considerations": {"technicalLimitations": list(_LIMITS)},
        },
        "components": _files(dict(digests.files), "model"),
        "properties": [
            _property("weights_digest", digests.weights),
            *([_property("request_id", run.request.id)] if run.request.id else []),
            *([_property("request_date", run.request.date)] if run.request.date else []),
        ],
    }
    if (license_ := license_of(model / CARD)) is not None:
        component["licenses"] = [{"license": {"name": license_}}]
    tool = {"type": "application", "name": "vkdsurgeon", "version": __version__}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digests.weights + record.digest)}",
        "version": 1,
        "metadata": {"component": component, "tools": {"components": [tool]}},
    }


def _files(files: dict[str, str], owner: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"{owner}/{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for path, digest in sorted(files.items())
    ]


def _metrics(sources: Sequence[Source]) -> Iterator[dict[str, Any]]:
    for source in sources:
        document = source.document
        if isinstance(document, (EvalResult, AttackDocument)):
            for metric in document.metrics:
                if metric.value is not None:
                    yield _metric(metric, metric.value, source.path.stem)


def _metric(metric: Metric, value: float, document: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": metric.id.rpartition(".")[2],
        "value": f"{value:.6g}",
        "slice": f"{document}: {metric.id}, n={metric.n}",
    }
    if metric.low is not None and metric.high is not None:
        told["confidenceInterval"] = {"lowerBound": f"{metric.low:.6g}", "upperBound": f"{metric.high:.6g}"}
    return told


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"vkdsurgeon:{name}", "value": value}
