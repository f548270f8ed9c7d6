"""The battery leaves no attack out, and its table hides nothing that a row says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.main import get_command
from vkdsurgeon_cli.main import app

from benchmarks import provenance
from benchmarks.attacks.battery import BATTERY
from benchmarks.attacks.table import table


def row(method: str, what: str, value: float | None, **more: Any) -> dict[str, Any]:
    family = next(name for name in BATTERY if name.startswith(what.split(" ")[0]))
    common = {"method": method, "seed": 0, "family": family, "what": what, "value": value, "chance": 0.1}
    return {**common, "utility": 0.9, "diverged": False, **more}


def test_every_attack_of_the_tool_is_in_the_battery() -> None:
    commands = get_command(app).commands["attack"].commands  # type: ignore[attr-defined]
    assert {family.split("-")[0] for family in BATTERY} - {"universal"} == set(commands)


def test_the_table_tells_the_worst_of_many_ways_and_what_diverged() -> None:
    rows = [
        row("vkd", "prompt name-1", 0.0),
        row("vkd", "prompt city-1", 0.25),
        row("gold", "prompt name-1", 0.05),
        row("gold", "restore visual", 0.4),
        row("vkd", "restore visual", 0.95, put_back=12),
        row("ga", "restore visual", 0.5, put_back=0),
        row("vkd", "relearn pairs", 0.5, ag=40.0),
        row("vkd", "relearn pairs", 0.7, ag=60.0, seed=1),
        row("ga", "relearn pairs", None, utility=None, diverged=True, ag=None),
        row("ga", "relearn pairs", 0.2, ag=-30.0, seed=1),
        row("vkd", "relearn pairs", 0.9, ag=90.0, seed=2),
    ]
    lines = table(rows, [0, 1]).splitlines()
    assert [line.split(" ")[1] for line in lines[2:5]] == ["relearn", "restore", "prompt,"], "in the battery's order"
    assert lines[0] == "| attack | chance | gold | ga | vkd |"
    assert "| prompt, worst of the other wordings | 10.0 | 5.0 / 90.0 |  | 25.0 / 90.0 |" in lines
    assert "| restore visual | 10.0 | 40.0 / 90.0 | nothing to put back | 95.0 / 90.0 |" in lines
    lost = "20.0, AG -30.0 / 90.0, diverged 1 of 2"
    assert f"| relearn pairs | 10.0 |  | {lost} | 60.0 (50.0 to 70.0), AG +50.0 / 90.0 |" in lines
    assert "| relearn pairs | 10.0 | diverged 1 of 1 | 50.0, AG +40.0 / 90.0 |" in table(rows[6:], [0])


def test_rows_of_other_methods_and_seeds_are_kept(tmp_path: Path) -> None:
    file, here = tmp_path / "rows.jsonl", {"device": "cpu", "versions": {"torch": "2"}}
    provenance.keep(file, [{"name": n, "seed": 0, "value": 1, **here} for n in ("vkd", "ga")], ["name", "seed"])
    provenance.keep(file, [{"name": "ga", "seed": s, "value": 2, **here} for s in (0, 1)], ["name", "seed"])
    found = [(each["name"], each["seed"], each["value"]) for each in provenance.read(file)]
    assert sorted(found) == [("ga", 0, 2), ("ga", 1, 2), ("vkd", 0, 1)]
