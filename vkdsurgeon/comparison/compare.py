"""Several methods and seeds on one case: unlearn, measure, attack, and keep every finished cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

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
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import check_gates, judge
from vkdsurgeon.evaluation.sets import set_facts
from vkdsurgeon.files.atomic import write_whole
from vkdsurgeon.files.directories import alone_in, scratch
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
        The result; it was also written to `out`, as JSON and as Markdown. Of a shard it holds that shard's cells alone,
        without scores, and is not written: the comparison without `shard` finds all cells in `out`.

    Raises:
        UserError: Sets, gates, models or settings are wrong, a method refuses them, or another process fills `out`.
        SurgeryError: A run failed. Finished cells stay, and the next run goes on from them.
    """
    started = time.perf_counter()
    if asked.shard is not None and asked.gates:
        raise UserError(
            "a shard is not the whole that gates are about",
            where="`gates`",
            remedy="give them to the command that makes the table, without `shard`",
        )
    check_place(asked.out)
    with scratch() as folder:
        case = read_case(asked, folder)
        names = [BASE, *([GOLD] if asked.gold else []), *(each.name for each in asked.methods)]
        check_gates(asked.gates, known_values(case, names))
        if "llm" in asked.scopes:
            require_peft()
        asked.out.mkdir(exist_ok=True)
        with alone_in(asked.out, "compare", shared=asked.shard is not None):
            mark_place(asked.out)
            cells = _cells(case, listener)
    if asked.shard is None:
        cells, read = scored(cells, case), comparison_warnings(cells)
    else:
        read = [f"only the runs of shard {asked.shard}: the same command without it makes the table"]
    titles = titles_of(asked.methods)
    by_name = {name: [cell for cell in cells if cell.name == name] for name in names}
    rows = [row(name, found, titles) for name, found in by_name.items() if found]
    result = ComparisonResult(
        model_type=str(read_config(asked.model).model_type),
        device=asked.device,
        dtype=asked.dtype,
        threads=torch.get_num_threads(),
        sets=[set_facts(named, named) for named in (case.forget, *case.measured)],
        measured_on=case.measured_on,
        limit=asked.limit,
        attack=attack_settings(case),
        chance=next((cell.chance for cell in by_name[BASE]), {}),
        shard=None if asked.shard is None else str(asked.shard),
        rows=rows,
        cells=cells,
        gates=judge(asked.gates, {f"{row.name}.{key}": value for row in rows for key, value in row.values.items()}),
        warnings=[*case.warnings, *read],
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )
    if asked.shard is None:
        write_document(asked.out / RESULT, result)
        write_whole(asked.out / TABLE, markdown(result))
    return result


def _cells(case: Case, listener: Listener) -> list[Cell]:
    asked = case.asked
    # An invalid recipe is refused before hours of work.
    recipes = {each.name: recipe_of(each, asked.recipe) for each in asked.methods}
    runs: list[Callable[[], Cell]] = []
    for seed in asked.seeds:
        if asked.gold:
            runs.append(partial(reference_run, case, GOLD, asked.gold, seed, listener))
        if seed == asked.seeds[0]:
            runs.append(partial(reference_run, case, BASE, asked.model, seed, listener))
        runs += [partial(method_run, case, each, recipes[each.name], seed, listener) for each in asked.methods]
    shard = asked.shard
    mine = [run for position, run in enumerate(runs) if shard is None or shard.takes(position)]
    if not mine:
        raise UserError(
            "this shard has nothing to run", where="`shard`", value=str(shard), expected=f"at most {len(runs)} shards"
        )
    case.cells.mkdir(parents=True, exist_ok=True)
    return [run() for run in mine]
