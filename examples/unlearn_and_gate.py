"""Unlearn, measure, attack, report; the exit status says whether the model may go out.

    vkdsurgeon miniature -o mini/
    python examples/unlearn_and_gate.py mini/base out/ --forget mini/records/forget.jsonl \
        --retain mini/records/retain.jsonl --heldout mini/records/forget_heldout.jsonl \
        --retain-heldout mini/records/retain_heldout.jsonl --gold mini/gold

Statuses are those of the command line: 0 released, 1 something failed, 2 wrong input, 3 a bound was missed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vkdsurgeon import Event, GateFailed, SurgeryError, UserError, attack, diff, evaluate, load_recipe, unlearn
from vkdsurgeon import write_report as write_report_page

# Bounds relative to gold speak of what a model knows that never saw the forget set.
GATES = ["forget.vqa.accuracy<=gold+0.10", "retain.vqa.accuracy>=reference-0.05"]
RELEARN_GATES = ["relearn.after.vqa.accuracy<=gold+0.10"]


def tell(event: Event) -> None:
    """Stages and warnings on stderr; training steps would fill a log."""
    if event.kind in ("stage", "warning", "note"):
        print(f"{event.kind}: {event.text}", file=sys.stderr)


def release(arguments: argparse.Namespace) -> None:
    """Do all of it, and keep every result as JSON, whatever comes of it.

    Raises:
        GateFailed: A bound was missed. All results and the report are written by then.
    """
    model, out, work = arguments.model, arguments.out / "patched", arguments.out
    work.mkdir(parents=True, exist_ok=True)
    keys = {} if arguments.steps is None else {"steps": arguments.steps, "extensions": 0}
    recipe = load_recipe(preset=arguments.preset, **keys)
    run = unlearn(
        model, arguments.forget, out, retain=arguments.retain, recipe=recipe, seed=arguments.seed, on_event=tell
    )
    difference = diff(model, out)
    if not difference.language_identical:
        raise SurgeryError(f"tensors outside tower and projector differ, such as {difference.outside_visual[0]}")
    measured = evaluate(
        out,
        {"forget": arguments.heldout, "retain": arguments.retain_heldout},
        base=model,
        gold=arguments.gold,
        gates=GATES,
        limit=arguments.limit,
        on_event=tell,
    )
    relearnt = attack(
        "relearn",
        out,
        arguments.forget,
        retain=arguments.retain_heldout,
        gold=arguments.gold,
        settings={"heldout": arguments.heldout, "steps": arguments.attack_steps, "limit": arguments.limit},
        gates=RELEARN_GATES,
        on_event=tell,
    )
    results = {"unlearn": run, "diff": difference, "eval": measured, "relearn": relearnt}
    for name, result in results.items():
        (work / f"{name}.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    page = write_report_page(results.values(), work / "report.html", sign_off={"product": "Miniature 1.0"})
    print(f"{page.verdict}: {page.headline}")
    # The run has bounds of its own: its stop rule looks at held-out images, without labels.
    for result in (run, measured, relearnt):
        result.raise_if_failed()


def main(words: list[str] | None = None) -> int:
    """Run from the command line.

    Args:
        words: In place of those of the command line.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    for name in ("forget", "retain", "heldout", "retain-heldout", "gold"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--steps", type=int, help="Training steps; otherwise they follow from the forget set.")
    parser.add_argument("--limit", type=int, default=500, help="Most questions per set.")
    parser.add_argument("--attack-steps", type=int, default=15, help="Steps of the relearning attack.")
    parser.add_argument("--seed", type=int, default=0)
    try:
        release(parser.parse_args(words))
    except GateFailed as missed:
        print(*(f"missed: {failure}" for failure in missed.failures), sep="\n", file=sys.stderr)
        return 3
    except UserError as wrong:
        print(f"wrong input: {wrong}", file=sys.stderr)
        return 2
    except SurgeryError as failed:
        print(f"failed: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
