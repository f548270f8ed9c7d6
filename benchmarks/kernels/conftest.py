"""Options and fixtures of the kernel benchmarks.

    pytest benchmarks/kernels --benchmark-enable [--record] [--bench-size tiny] [--bench-device cpu]

A benchmark is a test that hands a `Case` and its `Provider`s to the fixture `compare`; see `harness`. With `--record`
the rows are kept in benchmarks/results/kernels.jsonl, which is refused unless the operation's tests are green.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kernels.harness import Case, Clock, Provider, copy_rate, measure
from benchmarks.provenance import RESULTS, ROOT, keep, provenance

FILE = RESULTS / "kernels.jsonl"
IDENTITY = ("operation", "case", "provider")
_ROUNDS = {"tiny": 2, "full": 15}
_COPY_ELEMENTS = {"cpu": 1 << 26, "cuda": 1 << 29}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernel benchmarks")
    group.addoption("--record", action="store_true", help=f"keep the rows in {FILE.relative_to(ROOT)}")
    group.addoption("--bench-size", choices=("tiny", "full"), default="full", help="tiny only shows that it runs")
    group.addoption("--bench-device", choices=("auto", "cpu", "cuda"), default="auto")
    group.addoption("--bench-threads", type=int, default=2, help="threads of a CPU; default 2")
    group.addoption("--bench-file", type=Path, default=FILE, help=f"default {FILE.relative_to(ROOT)}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "bench: a benchmark")
    torch.set_num_threads(config.getoption("--bench-threads"))
    if config.getoption("--record") and config.getoption("--bench-size") == "tiny":
        raise pytest.UsageError("--record keeps figures, and those of --bench-size tiny mean nothing; drop one of them")
    if config.getoption("--record") and not config.getoption("--benchmark-enable"):
        raise pytest.UsageError("--record needs --benchmark-enable")


def pytest_collection_finish(session: pytest.Session) -> None:
    """No figure of an operation whose tests are red."""
    if not session.config.getoption("--record"):
        return
    for operation in sorted({item.path.stem.removeprefix("bench_") for item in session.items}):
        files = [str(path) for path in sorted(ROOT.glob(f"tests/kernels/test_{operation}*.py"))]
        if not files:
            pytest.exit(f"{operation}: there is no tests/kernels/test_{operation}.py, so nothing is recorded", 3)
        # On a GPU every test compiles its kernels, which takes cores.
        several = torch.cuda.is_available() and session.config.pluginmanager.hasplugin("xdist")
        together = ["-n", str(min(os.cpu_count() or 1, 8))] if several else []
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", *together, *files], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            told = "\n".join(done.stdout.splitlines()[-15:])
            pytest.exit(f"{told}\n{operation}: its tests are red, so no figure is recorded; make them green first", 3)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where to measure."""
    wanted = request.config.getoption("--bench-device")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> str:
    """`tiny` or `full`."""
    return str(request.config.getoption("--bench-size"))


@pytest.fixture(scope="session")
def device_copy_rate(device: torch.device, size: str) -> float:
    """Bytes per second that `copy_` reads and writes on the device."""
    return copy_rate(device, 1 << 16 if size == "tiny" else _COPY_ELEMENTS[device.type])


Compare = Callable[[Case, Mapping[str, Provider]], list[dict[str, Any]]]


@pytest.fixture
def compare(
    benchmark: Any, request: pytest.FixtureRequest, device: torch.device, size: str, device_copy_rate: float
) -> Compare:
    """A function that verifies and times the providers of a case, and returns the rows it recorded."""

    def run(case: Case, providers: Mapping[str, Provider]) -> list[dict[str, Any]]:
        benchmark.group = f"{case.operation}: one round of all providers"

        def pace(one_round: Callable[[], None], rounds: int) -> None:
            benchmark.pedantic(one_round, rounds=rounds, warmup_rounds=0)

        rows = measure(case, providers, Clock(device), _ROUNDS[size], pace, device_copy_rate)
        rows = [{**row, **provenance(device)} for row in rows]
        benchmark.extra_info["rows"] = rows
        if request.config.getoption("--record"):
            keep(request.config.getoption("--bench-file"), rows, IDENTITY)
        for row in rows:
            request.config.get_terminal_writer().line(_line(row))
        return rows

    return run


def _line(row: dict[str, Any]) -> str:
    ratios = ", ".join(f"{ratio:.3g}x {name}" for name, ratio in row["ratios"].items())
    return (
        f"  {row['operation']} {row['case']} {row['provider']}: {row['median_ms']} ms "
        f"({row['q20_ms']}-{row['q80_ms']}), {row['gb_s']} GB/s, {row['percent_of_copy']} % of copy; {ratios}"
    )
