"""Documents as the commands write them, small and in every detail ours; each test changes what it is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODEL, BASE, GOLD = "a" * 64, "b" * 64, "c" * 64
VERSIONS = {"vkdsurgeon": "0.1.0", "torch": "2.13.0"}
FACTS = [
    {"role": role, "model_type": "llava", "weights_digest": digest, "dtype": "float32"}
    for role, digest in (("model", MODEL), ("reference", BASE), ("gold", GOLD))
]


def metric(name: str, value: float | None, *, n: int = 100, direction: str = "lower", **more: Any) -> dict[str, Any]:
    """A metric with an interval of ten points each way, unless it is told otherwise."""
    ends = {} if value is None else {"low": max(value - 0.1, 0.0), "high": min(value + 0.1, 1.0), "interval": "wilson"}
    return {"id": name, "value": value, "n": n, "direction": direction, **ends, **more}


def gate(text: str, value: float | None, bound: float, *, passed: bool) -> dict[str, Any]:
    """The outcome of a gate."""
    return {"gate": text, "metric": text.split("<")[0].split(">")[0], "value": value, "bound": bound, "passed": passed}


def evaluation(*, forget_task: str = "vqa", **changes: Any) -> dict[str, Any]:
    """An evaluation of a forget, a retain and a text set, against base and gold."""
    metrics = [
        metric(f"forget.{forget_task}.accuracy", 0.05, chance=0.25),
        metric(f"reference.forget.{forget_task}.accuracy", 0.9, chance=0.25),
        metric(f"gold.forget.{forget_task}.accuracy", 0.07, chance=0.25),
        metric(f"delta.forget.{forget_task}.accuracy", -0.85, low=-0.9, high=-0.8, interval="paired normal"),
        metric(f"gap.forget.{forget_task}.accuracy", -0.02, low=-0.08, high=0.04, interval="paired normal"),
        metric(f"forget.{forget_task}.agreement", 0.1, direction="none"),
        metric(f"forget.{forget_task}.name.accuracy", 0.0, n=20),
        metric("retain.vqa.accuracy", 0.8, direction="higher"),
        metric("reference.retain.vqa.accuracy", 0.81, direction="higher"),
        metric("text.text.rouge_l", 0.71, direction="higher", low=None, high=None, interval=None),
    ]
    return {
        "schema_version": 1,
        "kind": "evaluation",
        "models": FACTS,
        "sets": [
            {"name": name, "records": 120, "asked": 100, "pictures": images, "subjects": 4, "digest": "d" * 64}
            for name, images in (("forget", 20), ("retain", 40), ("text", 0))
        ],
        "settings": {
            "device": "cpu",
            "batch_size": 32,
            "length_normalised": False,
            "max_new_tokens": 64,
            "limit": None,
            "seed": 0,
            "prompt_format": "chat template of the processor",
        },
        "metrics": metrics,
        "subjects": [{"set": "forget", "subject": "subject-1", "n": 5, "values": {"forget.vqa.accuracy": 0.2}}],
        "gates": [gate("forget.vqa.accuracy<=0.10", 0.05, 0.10, passed=True)],
        "warnings": ["forget.vqa.accuracy rests on few records"],
        "examples": [],
        "versions": VERSIONS,
        "seconds": 2.0,
        **changes,
    }


def relearning(**changes: Any) -> dict[str, Any]:
    """A relearning attack on the model and gold."""
    stages = [("relearn.before", 0.05), ("relearn.after", 0.4), ("gold.relearn.before", 0.07)]
    stages += [("gold.relearn.after", 0.1), ("reference.relearn.before", 0.9)]
    metrics = [metric("relearn.ag", 35.0, low=None, high=None, interval=None)]
    metrics += [metric(f"{stage}.vqa.accuracy", value, chance=0.25) for stage, value in stages]
    metrics += [
        metric("relearn.retain.before.vqa.accuracy", 0.8, direction="higher"),
        metric("relearn.retain.after.vqa.accuracy", 0.75, direction="higher"),
        metric("gold.relearn.ag", 3.0, low=None, high=None, interval=None),
        metric("gap.relearn.ag", 32.0, low=None, high=None, interval=None),
    ]
    curve = [("model", 0, 0.05), ("model", 7, 0.2), ("model", 15, 0.4), ("gold", 0, 0.07), ("gold", 15, 0.1)]
    return {
        "schema_version": 1,
        "kind": "attack.relearn",
        "models": FACTS,
        "sets": evaluation()["sets"][:1],
        "settings": {
            "protocol": "people",
            "scope": "visual",
            "fraction": 0.5,
            "steps": 15,
            "lr": 3e-4,
            "batch_size": 32,
            "optimizer": "AdamW",
            "seed": 0,
            "limit": 500,
            "device": "cpu",
            "trained_parameters": 1234,
            "shown_records": 10,
            "shown_subjects": 2,
            "measured_records": 11,
            "measured_subjects": 2,
            "measured_on": "heldout",
        },
        "ag_over": ["vqa.accuracy"],
        "metrics": metrics,
        "curve": [
            {"model": model, "step": step, "loss": None, "values": {"vqa.accuracy": value}}
            for model, step, value in curve
        ],
        "gates": [gate("gap.relearn.ag<=5", 32.0, 5.0, passed=False)],
        "warnings": [],
        "versions": VERSIONS,
        "seconds": 3.0,
        **changes,
    }


def relearning_series(**changes: Any) -> dict[str, Any]:
    """Two relearning attacks in one document, over two seeds, against gold."""
    alone = relearning()
    cases, metrics = [], []
    for protocol, scope, gain in (("pairs", "llm", 40.0), ("benign", "visual", 12.0)):
        name = f"{protocol}.50.{scope}"
        settings = alone["settings"] | {"protocol": protocol, "scope": scope, "seeds": [0, 1]}
        settings["rank"] = 8 if scope == "llm" else None
        case = {"id": name, "settings": settings, "ag_over": ["vqa.accuracy"], "curve": alone["curve"]}
        back = [("model", [7, 15]), ("gold", [None, None])]
        case["recovery"] = [
            {"model": model, "share": 0.5, "of": "reference", "level": 0.6, "steps": steps, "within": 15}
            for model, steps in back
        ]
        case["seeds"] = [
            {"seed": seed, "ag": gain, "gold_ag": 3.0, "shown_records": 10, "measured_records": 11} for seed in (0, 1)
        ]
        cases.append(case)
        ends = {"low": gain - 5, "high": gain + 6, "interval": "hierarchical bootstrap"}
        for each in alone["metrics"]:
            own = each["id"].replace("relearn.", f"relearn.{name}.", 1)
            metrics.append({**each, "id": own, **({"value": gain, **ends} if each["id"] == "relearn.ag" else {})})
    return {
        **{key: value for key, value in alone.items() if key not in ("curve", "ag_over")},
        "settings": {"attack": "relearn", "protocol": ["pairs", "benign"], "scope": ["llm", "visual"], "seeds": [0, 1]},
        "cases": cases,
        "metrics": metrics,
        "plan_digest": "9" * 64,
        "gates": [gate("relearn.pairs.50.llm.ag<=5", 40.0, 5.0, passed=False)],
        **changes,
    }


def restoring() -> dict[str, Any]:
    """An attack of another kind, with other settings and without a curve."""
    values = [("restore.before", 0.05), ("restore.after", 0.88), ("gold.restore.after", 0.07)]
    return {
        **{key: value for key, value in relearning().items() if key not in ("curve", "ag_over", "gates")},
        "kind": "attack.restore",
        "settings": {"part": "visual", "restored_elements": 1000, "template": "free text of the user's"},
        "metrics": [metric(f"{stage}.vqa.accuracy", value) for stage, value in values],
        "gates": [],
    }


def attack(kind: str, metrics: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """A document of one of the attacks."""
    common = {key: value for key, value in relearning().items() if key not in ("curve", "ag_over", "settings")}
    return {**common, "kind": f"attack.{kind}", "settings": settings, "metrics": metrics, "gates": []}


def quantizing(**changes: Any) -> dict[str, Any]:
    """A quantisation attack on the model, gold and the base."""
    values = {"before": (0.05, 0.07, 0.9), "int8": (0.06, 0.08, 0.9), "int4": (0.4, 0.1, 0.85)}
    metrics = []
    for row, numbers in values.items():
        for role, value in zip(("", "gold.", "reference."), numbers, strict=True):
            metrics.append(metric(f"{role}quantize.{row}.vqa.accuracy", value, chance=0.25))
            metrics.append(metric(f"{role}quantize.{row}.vqa.name.accuracy", value))
        metrics.append(metric(f"quantize.retain.{row}.vqa.accuracy", 0.8, direction="higher"))
    metrics.append(metric("quantize.gain.int4.vqa.accuracy", 0.35))
    return {**attack("quantize", metrics, {"scope": "visual", "device": "cpu"}), **changes}


def operation(**changes: Any) -> dict[str, Any]:
    """What the run and the record beside the weights both say."""
    return {
        "recipe": {
            "density": 0.25,
            "saliency": "forget_gradient",
            "granularity": "element",
            "layers": {"projector": 1},
        },
        "seed": 0,
        "sets": {"forget": {"pictures": 16, "subjects": 2, "digest": "e" * 64}},
        "salt": "f" * 32,
        "layers": [
            {"layer": "tower", "elements": 100, "selected": 10},
            {"layer": "layer.0", "elements": 100, "selected": 20},
            {"layer": "model.multi_modal_projector", "elements": 100, "selected": 45},
        ],
        "stop_rule": [
            {"forget_ratio": 0.12, "retain_drift": 0.02, "met": True, "pictures": [2, 6], "held_out": [True, True]}
        ],
        "versions": VERSIONS,
        **changes,
    }


def unlearning(**changes: Any) -> dict[str, Any]:
    """What `unlearn --json` prints."""
    return {
        "schema": "vkdsurgeon/unlearn/1",
        "dry_run": False,
        "out": "patched",
        "plan": {
            "model_type": "llava",
            "device": "cpu",
            "dtype": "float32",
            "tower_parameters": 200,
            "projector_parameters": 100,
        },
        "written": {"tensors_changed": 3, "elements_changed": 70, "bytes_changed": 140, "weights_digest": MODEL},
        "seconds": {"training": 12.0},
        **operation(),
        **changes,
    }


def provenance(**changes: Any) -> dict[str, Any]:
    """`vkdsurgeon.json`."""
    return {
        "schema": "vkdsurgeon/provenance/1",
        "weights_digest": MODEL,
        "method": "visual knowledge distillation",
        "model_type": "llava",
        "device": "cpu",
        "dtype": "float32",
        **operation(),
        **changes,
    }


def difference(**changes: Any) -> dict[str, Any]:
    """What `diff --json` prints."""
    return {
        "schema": "vkdsurgeon/diff/1",
        "base": "/secret/place/base",
        "patched": "/secret/place/patched",
        "base_weights_digest": BASE,
        "patched_weights_digest": MODEL,
        "identical": False,
        "language_identical": True,
        "tensors_compared": 9,
        "tensors_changed": 3,
        "elements_compared": 900,
        "elements_changed": 70,
        "changed": [{"tensor": "a", "part": "tower", "elements": 100, "changed": 30}],
        "tensors_missing": [],
        "tensors_added": [],
        "files": {"model.safetensors": "changed", "config.json": "identical", "vkdsurgeon.json": "extra"},
        **changes,
    }


def cell(name: str, digest: str, values: dict[str, float | None], *, seed: int = 0) -> dict[str, Any]:
    """A method with one seed."""
    return {
        "key": "e" * 64,
        "name": name,
        "seed": seed,
        "recipe": {},
        "values": values,
        "chance": {"forget": 0.25},
        "diverged": ["people.all"] if values.get("people.all.relearn.ag", 0.0) is None else [],
        "steps": 9,
        "elements_changed": 9,
        "weights_digest": digest,
        "met": None,
    }


def comparing(**changes: Any) -> dict[str, Any]:
    """What `compare` writes: VKD with two seeds, and a method whose attack diverged."""
    visual, every = "people.visual.relearn.ag", "people.all.relearn.ag"
    mine = {"retain": 0.8, visual: 20.0, every: 5.0, "people.relearn.ag": 20.0, "score": 0.7, "seconds": 60.0}
    lost = {"retain": 0.4, visual: -4.0, every: None, "people.relearn.ag": -4.0, "score": 0.2, "seconds": 7.0}
    known: dict[str, list[tuple[str, dict[str, float | None]]]] = {
        "base": [(BASE, {"forget": 0.9, "retain": 0.8})],
        "gold": [(GOLD, {"forget": 0.07, "retain": 0.8, visual: 3.0, every: 2.0})],
        "vkd": [(MODEL, {"forget": 0.05, **mine}), ("f" * 64, {"forget": 0.15, **mine})],
        "ga": [("9" * 64, {"forget": 0.5, **lost})],
    }

    def row(name: str) -> dict[str, Any]:
        runs = [values for _, values in known[name]]
        found = {key: [value for run in runs if (value := run[key]) is not None] for key in runs[0]}
        means = {key: sum(values) / len(values) if values else None for key, values in found.items()}
        ends = {
            end: {key: pick(values) for key, values in found.items() if values}
            for end, pick in (("low", min), ("high", max))
        }
        return {"name": name, "title": f"method {name}", "seeds": list(range(len(runs))), "values": means, **ends}

    return {
        "schema_version": 1,
        "kind": "comparison",
        "model_type": "llava",
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "sets": evaluation()["sets"][:1],
        "measured_on": {"forget": "held-out views", "retain": "the retain set itself"},
        "limit": 800,
        "attack": {
            "protocols": ["people"],
            "scopes": ["visual", "all"],
            "fraction": 0.5,
            "steps": 15,
            "lr": 3e-4,
            "batch_size": 32,
            "rank": None,
        },
        "chance": {"forget": 0.25},
        "rows": [row(name) for name in known],
        "cells": [
            cell(name, digest, values, seed=seed)
            for name, runs in known.items()
            for seed, (digest, values) in enumerate(runs)
        ],
        "gates": [],
        "warnings": ["ga, seed 0: the attack people.all diverged"],
        "versions": VERSIONS,
        "seconds": 99.0,
        **changes,
    }


def write(folder: Path, **documents: Any) -> list[Path]:
    """Write documents under their names."""
    paths = []
    for name, document in documents.items():
        path = folder / f"{name}.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        paths.append(path)
    return paths


def everything() -> dict[str, dict[str, Any]]:
    """One document of each kind, about one model."""
    return {
        "unlearn": unlearning(),
        "eval": evaluation(),
        "relearn": relearning(),
        "restore": restoring(),
        "diff": difference(),
        "record": provenance(),
        "comparison": comparing(),
    }
