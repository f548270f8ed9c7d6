"""The page of the documents, and their JSON schemas."""

from __future__ import annotations

import json

from pydantic import BaseModel
from vkdsurgeon_cli import main as cli

from docs.generate.markdown import MADE, row
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.config.release import ReleasePlan
from vkdsurgeon.evaluation.aggregate import AggregateResult
from vkdsurgeon.pipeline.read_result import RESULTS
from vkdsurgeon.results import (
    comparison,
    diff_document,
    evaluation,
    patch,
    release,
    reproduction,
    run_record,
    sampling,
    tuning,
    verification,
)
from vkdsurgeon.results.document import Document

# Every document that the tool writes or reads back. Those of `run_record` and `diff_document` hold the part that the
# report relies on.
DOCUMENTS: dict[str, type[BaseModel]] = {
    "evaluation": evaluation.EvalResult,
    "aggregate": AggregateResult,
    **{name: document for name, document in RESULTS.items() if name.startswith("attack.")},
    "comparison": comparison.ComparisonResult,
    "tune": tuning.TuneDocument,
    "unlearn": run_record.UnlearnDocument,
    "provenance": run_record.ProvenanceDocument,
    "diff": diff_document.DiffDocument,
    "patch": patch.PatchFacts,
    "patch-run": patch.PatchResult,
    "verify": verification.VerifyResult,
    "reproduce": reproduction.ReproduceResult,
    "sample": sampling.SampleResult,
    "release": release.ReleaseResult,
    "release-plan": ReleasePlan,
    "recipe": Recipe,
}


_WRITTEN_BY = {
    "evaluation": "`eval -o` and `eval --json`",
    "aggregate": "`aggregate -o`",
    "comparison": "`compare --json`",
    "tune": "`tune --json`, and `tune.json` in the output",
    "unlearn": "`unlearn --json`",
    "provenance": "`unlearn`, as `vkdsurgeon.json` beside the weights",
    "diff": "`diff --json`",
    "patch": "`patch export`, in the metadata of the patch under `vkdsurgeon`",
    "patch-run": "`patch ... --json`",
    "verify": "`verify --json`",
    "reproduce": "`reproduce --json`",
    "sample": "`sample --json`",
    "release": "`release --json`, and as release.json",
    "release-plan": "the file of `release`",
    "recipe": "a recipe file, for `--recipe`",
}


def schemas_page() -> str:
    rows = []
    for name, model in DOCUMENTS.items():
        writer = _WRITTEN_BY.get(name) or f"`attack {name.removeprefix('attack.')} -o`"
        doc = (model.__doc__ or "").strip().splitlines()[0]
        rows.append(row(f"[{name}](../schemas/{name}.json)", writer, doc))
    return f"""# Documents and their schemas

{MADE}
Everything the tool prints with `--json` or writes with `-o` is one JSON document. It begins with `schema` (such as
`vkdsurgeon/evaluation/1`), `kind` and `version` (of the tool). The number goes up when a field changes its meaning.

| schema | written by | what it is |
|-|-|-|
{"".join(rows)}
The schemas are made from the pydantic classes that read the documents back. For `unlearn`, `provenance` and `diff` they
hold the fields that `report` relies on; the documents have more, which may change without notice.

A command that failed prints, with `--json`, a document whose `schema` is `{cli._ERROR}` and whose `error` has `status`,
`what` and, where they are known, `where`, `value`, `expected` and `remedy`.
"""


def schema_text(name: str) -> str:
    model = DOCUMENTS[name]
    schema = model.model_json_schema(by_alias=True)
    if issubclass(model, Document):
        number = model.model_fields["schema_version"].default
        envelope = {"schema": {"const": f"vkdsurgeon/{name}/{number}"}, "version": {"type": "string"}}
        schema["properties"] = {**envelope, **schema["properties"]}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **schema}, indent=1, ensure_ascii=False) + "\n"
