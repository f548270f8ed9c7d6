"""Several methods and seeds on one case: unlearn, measure, attack, and keep every finished cell."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from vkdsurgeon.attacks.adapters import require_peft
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.checkpoint.skeleton import read_config
from vkdsurgeon.comparison.aggregate import comparison_warnings, known_values, row, scored, titles_of
from vkdsurgeon.comparison.datasets import Case, check_place, mark_place, read_case
from vkdsurgeon.comparison.relearning import attack_settings
from vkdsurgeon.comparison.request import Comparison
from vkdsurgeon.comparison.runner import method_run, reference_run
from vkdsurgeon.comparison.settings import recipe_of
from vkdsurgeon.evaluation.gates import check_gates, judge
from vkdsurgeon.evaluation.sets import set_facts
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.directories import alone_in
from vkdsurgeon.results.comparison import Cell, ComparisonResult
from vkdsurgeon.results.comparison_columns import BASE, GOLD
from vkdsurgeon.results.comparison_table import markdown
from vkdsurgeon.results.evaluation import write_document
from vkdsurgeon.training.events import Listener

__all__ = ["Comparison", "compare"]

RESULT, TABLE = "comparison.json", "comparison.md"


def compare(asked: Comparison, listener: Listener) -> ComparisonResult:
    """Fill every missing cell, and make the table.

    Args:
        asked: The settings: sets, methods, seeds and device.
        listener: Gets progress events.

    Returns:
        The result; it was also written to `out`, as JSON and as Markdown.

    Raises:
        UserError: Sets, gates, models or settings are wrong, a method refuses them, or another process fills `out`.
        SurgeryError: A run failed. Finished cells stay, and the next run goes on from them.
    """
    started = time.perf_counter()
    check_place(asked.out)
    with tempfile.TemporaryDirectory() as scratch:
        case = read_case(asked, Path(scratch))
        names = [BASE, *([GOLD] if asked.gold else []), *(each.name for each in asked.methods)]
        check_gates(asked.gates, known_values(case, names))
        if "llm" in asked.scopes:
            require_peft()
        asked.out.mkdir(exist_ok=True)
        with alone_in(asked.out, "compare"):
            mark_place(asked.out)
            cells = scored(_cells(case, listener), case)
    titles = titles_of(asked.methods)
    rows = [row(name, [cell for cell in cells if cell.name == name], titles) for name in names]
    result = ComparisonResult(
        model_type=str(read_config(asked.model).model_type),
        device=asked.device,
        dtype=asked.dtype,
        threads=torch.get_num_threads(),
        sets=[set_facts(named, named) for named in (case.forget, *case.measured)],
        measured_on=case.measured_on,
        limit=asked.limit,
        attack=attack_settings(case),
        chance=next(cell.chance for cell in cells if cell.name == BASE),
        rows=rows,
        cells=cells,
        gates=judge(asked.gates, {f"{row.name}.{key}": value for row in rows for key, value in row.values.items()}),
        warnings=[*case.warnings, *comparison_warnings(cells)],
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )
    write_document(asked.out / RESULT, result)
    write_whole(asked.out / TABLE, markdown(result))
    return result


def _cells(case: Case, listener: Listener) -> list[Cell]:
    asked = case.asked
    # An invalid recipe is refused before hours of work.
    recipes = {each.name: recipe_of(each, asked.recipe) for each in asked.methods}
    case.cells.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for seed in asked.seeds:
        if asked.gold:
            cells.append(reference_run(case, GOLD, asked.gold, seed, listener))
        if seed == asked.seeds[0]:
            cells.append(reference_run(case, BASE, asked.model, seed, listener))
        for each in asked.methods:
            cells.append(method_run(case, each, recipes[each.name], seed, listener))
    return cells
