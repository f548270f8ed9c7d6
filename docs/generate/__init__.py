"""Pages of docs/reference, docs/schemas and docs/man that are made from the code, and the miniature's chart.

    python -m docs.generate            # write them
    python -m docs.generate --check    # status 1 and the names of those that are not up to date

A test does the same check, so a change of a recipe key, a metric or a document comes with its page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from docs.generate.campaigns import campaigns_page
from docs.generate.chart import chart
from docs.generate.commands import commands_page
from docs.generate.man import man_page
from docs.generate.markdown import DOCS
from docs.generate.metrics import metrics_page
from docs.generate.recipe import recipe_page, release_page
from docs.generate.schemas import DOCUMENTS, schema_text, schemas_page
from docs.generate.statuses import statuses_page


def pages() -> dict[Path, str]:
    """Path -> text of every page that is made."""
    made = {
        DOCS / "reference" / "recipe_keys.md": recipe_page(),
        DOCS / "reference" / "release_plan.md": release_page(),
        DOCS / "reference" / "metrics.md": metrics_page(),
        DOCS / "reference" / "schemas.md": schemas_page(),
        DOCS / "reference" / "exit_codes.md": statuses_page(),
        DOCS / "reference" / "commands.md": commands_page(),
        DOCS / "reference" / "campaigns.md": campaigns_page(),
        DOCS / "man" / "vkdsurgeon.1": man_page(),
    }
    made[DOCS / "figures" / "miniature.svg"] = chart((DOCS / "index.md").read_text(encoding="utf-8"))
    return made | {DOCS / "schemas" / f"{name}.json": schema_text(name) for name in DOCUMENTS}


def outdated(made: Mapping[Path, str] | None = None) -> list[Path]:
    """Pages that are missing, differ from the code, or belong to no document any more.

    Args:
        made: From `pages`, where they are at hand.
    """
    made = pages() if made is None else made
    wrong = [path for path, text in made.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return wrong + [path for path in (DOCS / "schemas").glob("*.json") if path not in made]
