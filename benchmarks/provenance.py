"""Rows of measurements: where they come from, and how they are kept.

A row is one JSON object on one line. It names the commit, the versions and the device it was measured with; measuring
the same thing again with the same versions on the same device replaces the row.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "triton", "numpy", "transformers")


def provenance(device: torch.device) -> dict[str, Any]:
    """Time, commit, versions and device, for a row.

    Outside a git checkout the commit is that of the environment variable VKDSURGEON_COMMIT, else None.
    """
    commit = _git("rev-parse", "HEAD") or os.environ.get("VKDSURGEON_COMMIT")
    # Results are what a run writes; they say nothing about the code that ran.
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!docs/kernels.md"
    )
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": describe(device),
    }


def describe(device: torch.device) -> dict[str, Any]:
    """Kind, model and width of a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        runtime = torch.version.hip or torch.version.cuda
        return {"kind": "gpu", "name": properties.name, "width": properties.multi_processor_count, "runtime": runtime}
    return {"kind": "cpu", "name": _processor(), "width": torch.get_num_threads(), "runtime": None}


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, oldest first; none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def keep(file: Path, rows: Iterable[dict[str, Any]], identity: Sequence[str]) -> None:
    """Add rows to a file, in place of earlier ones about the same thing.

    Args:
        file: JSON lines; made where missing.
        rows: The new rows.
        identity: Fields that say what was measured; device and versions are added to them.
    """

    def key(row: dict[str, Any]) -> str:
        return json.dumps([row[name] for name in (*identity, "device", "versions")], sort_keys=True)

    merged = {key(row): row for row in read(file)}
    for row in rows:
        merged.pop(key(row), None)
        merged[key(row)] = row
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in merged.values()))
    partial.replace(file)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
