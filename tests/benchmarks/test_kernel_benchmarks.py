"""Benchmarks run, refuse to record what is wrong or red, and the page shows what was recorded."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import table
from benchmarks.kernels.harness import Case, Clock, Provider, measure
from benchmarks.provenance import RESULTS, ROOT, keep, read

TOY = """
import torch
from benchmarks.kernels.harness import Case, Provider

def test_toy(compare, device, size):
    numbers = torch.rand(1000, device=device)
    def verify():
        assert float(numbers.min()) >= WRONG
    fast, slow = (Provider(lambda _, n=n: [numbers.sum() for _ in range(n)], verify) for n in (1, 20))
    compare(Case("toy", "sum", [1000], torch.float32, numbers.nbytes, {"slow": 2.0}), {"ours": fast, "slow": slow})
"""


def _bench(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-enable", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project of one operation with green tests and a benchmark."""
    for file in ("pyproject.toml", "benchmarks/provenance.py", "benchmarks/kernels/harness.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    settings = (ROOT / "benchmarks/kernels/conftest.py").read_text()
    assert '"cpu": 1 << 26' in settings
    # The device's copy rate is on no trial here, and half a gigabyte takes longer than all the rest.
    (tmp_path / "benchmarks/kernels/conftest.py").write_text(settings.replace('"cpu": 1 << 26', '"cpu": 1 << 16'))
    (tmp_path / "benchmarks/kernels/bench_toy.py").write_text(TOY.replace("WRONG", "0"))
    (tmp_path / "tests/kernels").mkdir(parents=True)
    (tmp_path / "tests/kernels/test_toy.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
    return tmp_path


@pytest.mark.campaign
def test_every_benchmark_runs():
    done = _bench(ROOT, "benchmarks/kernels", "-rA", "--bench-size", "tiny", "--bench-device", "cpu")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    benches = sorted(ROOT.glob("benchmarks/kernels/bench_*.py"))
    assert benches
    for file in benches:
        assert f"PASSED {file.relative_to(ROOT)}::" in done.stdout


@pytest.mark.campaign
def test_green_operations_are_recorded_with_their_origin(toy: Path):
    done = _bench(toy, "benchmarks/kernels", "--record", "--bench-device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["provider"]: row for row in read(toy / "benchmarks/results/kernels.jsonl")}
    assert set(rows) == {"ours", "slow"}
    ours = rows["ours"]
    assert ours["ratios"]["slow"] > 2 > rows["slow"]["ratios"]["ours"]
    assert ours["q20_ms"] <= ours["median_ms"] <= ours["q80_ms"]
    assert ours["bytes"] == 4000
    assert ours["gb_s"] == pytest.approx(4e-3 / ours["median_ms"], rel=0.01)
    assert ours["versions"]["torch"] == torch.__version__
    assert ours["device"]["kind"] == "cpu"
    assert {"time", "commit", "dirty", "fp_fusion", "shape", "dtype", "rounds", "peak_memory"} <= set(ours)


@pytest.mark.campaign
def test_measuring_again_replaces_what_was_recorded(toy: Path):
    for _ in range(2):
        assert _bench(toy, "benchmarks/kernels", "--record", "--bench-device", "cpu").returncode == 0
        assert len(read(toy / "benchmarks/results/kernels.jsonl")) == 2


@pytest.mark.campaign
@pytest.mark.parametrize("what", ["red", "untested"])
def test_nothing_is_recorded_of_an_operation_whose_tests_are_not_green(toy: Path, what: str):
    test = toy / "tests/kernels/test_toy.py"
    test.write_text("def test_it():\n    assert 1 + 1 == 3\n") if what == "red" else test.unlink()
    done = _bench(toy, "benchmarks/kernels", "--record", "--bench-device", "cpu")
    assert done.returncode == 3
    assert ("tests are red" if what == "red" else "nothing is recorded") in done.stdout + done.stderr
    assert not (toy / "benchmarks/results").exists()


@pytest.mark.campaign
def test_nothing_is_recorded_of_a_provider_that_is_wrong(toy: Path):
    (toy / "benchmarks/kernels/bench_toy.py").write_text(TOY.replace("WRONG", "2"))
    done = _bench(toy, "benchmarks/kernels", "--record", "--bench-device", "cpu")
    assert done.returncode == 1
    assert not (toy / "benchmarks/results").exists()


@pytest.mark.campaign
def test_tiny_figures_are_never_recorded(toy: Path):
    done = _bench(toy, "benchmarks/kernels", "--record", "--bench-size", "tiny")
    assert done.returncode == 4
    assert "mean nothing" in done.stderr


def test_providers_take_turns():
    order: list[str] = []
    providers = {
        name: Provider(lambda _, name=name: order.append(name) or sum(range(200_000)), lambda: None)  # type: ignore[func-returns-value]
        for name in ("ours", "other")
    }
    case = Case("toy", "turns", [1], torch.float32, 1.0)
    rows = measure(case, providers, Clock(torch.device("cpu")), 3, lambda run, n: [run() for _ in range(n)], 1e9)  # type: ignore[arg-type,return-value]
    timed = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert timed == ["ours", "other"] * 4
    assert [row["rounds"] for row in rows] == [3, 3]
    with pytest.raises(ValueError, match="must be called 'ours'"):
        measure(case, {"other": providers["other"]}, Clock(torch.device("cpu")), 1, lambda run, n: run(), 1e9)


ROW: dict[str, Any] = {
    "operation": "toy", "case": "sum", "provider": "ours", "median_ms": 1.25, "gb_s": 20.0, "percent_of_copy": 80.4,
    "ratios": {"eager": 6.5, "other": 1.3}, "required": {"eager": 6.0}, "versions": {"torch": "1", "triton": None},
    "device": {"kind": "cpu", "name": "A processor", "width": 2, "runtime": None},
}  # fmt: skip


def test_the_table_shows_figures_requirements_and_what_was_not_measured():
    text = table.render([ROW])
    assert "A processor, 2 threads; torch 1, triton not installed" in text
    assert "| toy | sum | 1.25 | 20 | 80 | eager 6.5 (>= 6), other 1.3 |" in text
    assert "GPU: not measured." in text
    newer = copy.deepcopy(ROW) | {"median_ms": 7.0, "versions": {"torch": "2", "triton": "3"}}
    assert "| 7 |" in table.render([ROW, newer])
    assert "1.25" not in table.render([ROW, newer]), "one table never mixes versions"
    gpu = copy.deepcopy(ROW) | {"device": {"kind": "gpu", "name": "A GPU", "width": 132, "runtime": "13"}}
    assert "CPU: not measured." in table.render([gpu])


def test_the_table_lands_between_its_markers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows, document = tmp_path / "rows.jsonl", tmp_path / "document.md"
    keep(rows, [ROW], ("operation",))
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    arguments = ["--write", "--rows", str(rows), "--into", str(document)]
    assert table.main(arguments) == table.main(arguments) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\n\nA processor")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text
    assert table.between_markers(text) == table.render([ROW])
    assert table.render([ROW]) in capsys.readouterr().out
    with pytest.raises(ValueError, match="lacks"):
        table.between_markers("no markers")


def test_the_page_shows_the_recorded_rows():
    shown = table.between_markers(table.PAGE.read_text())
    assert shown == table.render(read(RESULTS / "kernels.jsonl")), "run: python -m benchmarks.table --write"


def test_rows_are_replaced_only_by_the_same_measurement(tmp_path: Path):
    file = tmp_path / "rows.jsonl"
    other_device = ROW | {"device": {**ROW["device"], "width": 1}}
    for row in (ROW, other_device, ROW | {"median_ms": 2.0}, ROW | {"case": "product"}):
        keep(file, [row], ("operation", "case", "provider"))
    kept = [(row["case"], row["device"]["width"], row["median_ms"]) for row in read(file)]
    assert kept == [("sum", 1, 1.25), ("sum", 2, 2.0), ("product", 2, 1.25)]
    assert [json.loads(line) for line in file.read_text().splitlines()] == read(file)
