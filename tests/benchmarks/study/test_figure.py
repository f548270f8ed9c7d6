"""The charts of the study, from rows that were made up."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.study.__main__ import main
from benchmarks.study.figures import read_cases
from benchmarks.study.marks import clouds, panel, recipes_of

CASES = ("llava-avatars-a-0", "llava-robots-a-0", "idefics3-robots-a-0")
CHARTS = ["study_frontier.svg", "study_relearning.svg"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """`swap` lacks the last case, and `default` has two unlearning seeds on the first."""
    made = []
    for case, name in zip(CASES, (0.0, 0.1, 0.8), strict=True):
        made += [_row(case, "base", 1.0, 0.98), _row(case, "gold", 0.0, 1.0), _row(case, "default", name, 0.96)]
    made += [_row(case, "swap", 0.5, 0.9) for case in CASES[:2]]
    made += [_row(CASES[0], "gold", 0.0, 1.0, seed=1), _row(CASES[0], "default", 0.2, 0.96, seed=1)]
    return _write(tmp_path / "rows.jsonl", made)


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed (pip install '.[dev]')")
def test_both_charts_are_written_and_are_the_same_again(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [rows.parent / "new" / "docs", rows.parent / "again"]
    for out in outs:
        main(["figure", "--rows", str(rows), "--out", str(out)])
        assert capsys.readouterr().out.splitlines() == [str(out / name) for name in CHARTS]
    for name in CHARTS:
        first, second = ((out / name).read_bytes() for out in outs)
        assert first == second
        assert len(first) < 150_000
        assert ElementTree.fromstring(first).tag.endswith("svg")
    main(["figure", "--rows", str(rows), "--relearning", "swap", "--out", str(outs[1])])
    changed = [(outs[0] / name).read_bytes() != (outs[1] / name).read_bytes() for name in CHARTS]
    assert changed == [False, True]


def test_means_are_over_shared_cases_and_seeds_of_a_case_are_one_mark(rows: Path) -> None:
    cases = read_cases(rows)["reporting"]
    assert recipes_of(cases) == ["default", "swap"]
    gold, default, swap = clouds(cases, "retain")
    assert list(gold.points) == [pytest.approx((0, 2))] * 3
    assert sorted(default.points) == [pytest.approx(point) for point in ((10, -2), (10, -2), (80, -2))]
    # The last case is not shared, and neither is the second seed of the first.
    assert default.mean == pytest.approx((5, -2))
    assert swap.mean == pytest.approx((50, -8))

    found = panel(cases, "people")
    assert found is not None
    assert panel(cases, "pairs") is None
    assert [(curve.recipe, len(curve.cases)) for curve in found.curves] == [("gold", 3), ("default", 3), ("swap", 2)]
    assert found.shared == 2
    assert dict(found.curves[1].mean) == pytest.approx({0: 5, 15: 15, 60: 35})


def test_a_step_that_a_shared_case_lacks_is_not_in_the_mean(rows: Path) -> None:
    made = [json.loads(line) for line in rows.read_text().splitlines()]
    for row in made:
        if row["recipe"] == "swap" and row["case"] == CASES[0]:
            del row["attacks"]["people/15/0.0003"]
    found = panel(read_cases(_write(rows, made))["reporting"], "people")
    assert found is not None
    assert [sorted(curve.mean) for curve in found.curves] == [[0, 15, 60], [0, 15, 60], [0, 60]]


def test_files_are_joined_unless_they_tell_of_other_checkpoints(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [_row(CASES[2], "base", 1.0, 0.98), _row(CASES[2], "gold", 0.0, 1.0), _row(CASES[2], "swap", 0.1, 0.9)]
    more[1]["attacks"] = {}
    other = _write(rows.with_name("more.jsonl"), more)
    (case,) = [case for case in read_cases([rows, other])["reporting"] if case.name == CASES[2]]
    assert set(case.recipes) == {"default", "swap"}
    assert set(case.gold["attacks"]) == {"people/15/0.0003", "people/60/0.0003"}
    more[0]["values"]["retain"] = 0.97
    _write(other, more)
    assert f"other answers of that case, recipe and seed (got '{CASES[2]} base 0')" in _refused(
        ["--rows", str(rows), str(other)], rows.parent / "out", capsys
    )


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (lambda made: [], [], "there are no results"),
        (lambda made: [{"kernel": "adamw"}], [], "rows.jsonl:1: this is no row of the study: it lacks case, role"),
        (lambda made: [row for row in made if row["recipe"] != "gold"], [], "no case for reporting with base, gold"),
        (lambda made: made, ["--role", "tuning"], "no case for tuning with base, gold"),
        (lambda made: made, ["--recipes", "nobody"], "no results of such a recipe"),
        (lambda made: made, ["--relearning", "nobody"], "no recipe that is to be drawn was attacked"),
        (lambda made: [row | {"attacks": {}} for row in made], [], "no recipe that is to be drawn was attacked"),
    ],
)
def test_rows_that_cannot_be_drawn_are_refused(
    spoil: Any, words: list[str], message: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(rows, spoil([json.loads(line) for line in rows.read_text().splitlines()]))
    assert message in _refused(["--rows", str(rows), *words], rows.parent / "out", capsys)


def test_without_matplotlib_it_says_what_to_install(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = _refused(["--rows", str(rows)], rows.parent / "out", capsys)
    assert 'pip install "vkdsurgeon[figures]"' in told


def _refused(words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["figure", *words, "--out", str(out)])
    assert ended.value.code == 2
    assert not out.exists()
    return capsys.readouterr().err


def _write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _row(case: str, recipe: str, name: float, retain: float, seed: int = 0) -> dict[str, Any]:
    values = {"name": name, "general": 0.9, "retain": retain, "retain_general": 0.9, "text": 1.0}
    back = {15: 0.1, 60: 0.3}
    return {
        "case": case,
        "role": "reporting",
        "recipe": recipe,
        "seed": seed,
        "values": values | {"attribute_hits": {"0.city": [0, 4]}},
        "attacks": {
            f"people/{steps}/0.0003": {"before": name, "after": min(name + more, 1.0), "ag": 100 * more}
            for steps, more in back.items()
        },
    }
