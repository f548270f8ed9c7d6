"""The study of hardening: its table says what a row holds, and its rows are of recipes that still exist."""

from benchmarks import provenance
from benchmarks.robust import ROWS, table
from vkdsurgeon.config.files import load_recipe


def test_the_table_shows_a_row():
    row = {
        "name": "robust",
        "seed": 1,
        "unlearn_seconds": 61.4,
        "retain_drift": 0.0312,
        "forget": {"vqa.name": 0.0, "vqa": 0.025, "general": 0.9},
        "retain": {"vqa": 0.975},
        "pairs_60": {"after": 0.4514, "ag": 45.1},
    }
    assert "| robust | 1 | 0.0 | 2.5 | 90.0 | 97.5 | 0.031 | 45.1 | 45.1 | 61 |" in table([row])


def test_recorded_rows_can_be_run_again():
    rows = provenance.read(ROWS)
    assert {row["seed"] for row in rows if row["name"] == "first robust"} >= {1}
    for row in rows:
        load_recipe(None, row["overrides"], row.get("preset"))
