"""Several seeds in one table."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

from tests.report.documents import evaluation


def write(
    folder: Path, number: int, share: float | None, *, weights: str | None = None, digest: str = "d" * 64
) -> Path:
    document = copy.deepcopy(evaluation())
    document["models"][0]["weights_digest"] = weights or f"{number:064}"
    document["sets"][0]["digest"] = digest
    for metric in document["metrics"]:
        metric["value"] = share
    path = folder / f"{number}.json"
    path.write_text(json.dumps(document))
    return path


def test_means_with_students_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path, number, share) for number, share in enumerate((0.1, 0.2, 0.3))]
    out = tmp_path / "all.json"
    assert run(["aggregate", *map(str, paths), "--json", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    document = json.loads(printed)
    metric = document["metrics"][0]
    assert metric["mean"] == pytest.approx(0.2)
    assert metric["deviation"] == pytest.approx(0.1)
    assert metric["values"] == [0.1, 0.2, 0.3]
    # Student's 0.975 quantile with two degrees of freedom is 4.3027.
    assert metric["high"] - metric["mean"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert len(document["models"]) == 3
    assert run(["aggregate", *map(str, paths)]) == 0
    assert "mean over 3 models" in capsys.readouterr().out


def test_what_one_model_lacks_has_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path, 0, 0.1), write(tmp_path, 1, None)]
    assert run(["aggregate", *map(str, paths), "--json"]) == 0
    metric = json.loads(capsys.readouterr().out)["metrics"][0]
    assert (metric["mean"], metric["low"], metric["values"]) == (None, None, [0.1, None])


def test_only_evaluations_that_were_made_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, twin = write(tmp_path, 0, 0.1), write(tmp_path, 1, 0.1, weights=f"{0:064}")
    other = write(tmp_path, 2, 0.1, digest="e" * 64)
    for documents, message in (
        ([first], "a single evaluation cannot be averaged"),
        ([first, twin], "of the same weights"),
        ([first, other], "with different settings"),
    ):
        assert run(["aggregate", *map(str, documents)]) == 2
        assert message in capsys.readouterr().err
    assert run(["aggregate", str(first), str(other), "-o", str(first)]) == 2
    assert "the output is also one of the input files" in capsys.readouterr().err
