"""The decoder pass on the built-in miniature: its cost, and what restoring, relearning and benign tuning bring back.

    python benchmarks/decoder_pass.py [--seeds 0 1 2] [--densities 0.1 0.25 1] [--set key=value ...] [--built-in-text]

One JSON line per seed and model in benchmarks/results/decoder_pass.jsonl: base and gold, the visual pass alone, the
decoder pass at each density. Accuracies are shares on held-out views. `pairs`: tower and projector are fine-tuned on
half of the kinds of question about each forgotten person, the other half is measured; `benign`: on retain questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from vkdsurgeon.attacks.finetune import fine_tune, trainable
from vkdsurgeon.attacks.restore import Restoring, put_back
from vkdsurgeon.attacks.split import split_records
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.checkpoint.stage import write_patched
from vkdsurgeon.config.decoder import DecoderRecipe
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.data.miniature import unpack
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.record import Record, groups_of
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.data.sets import read_set, sample
from vkdsurgeon.decoder_pass.run import operate_decoder, prepare_decoder
from vkdsurgeon.decoder_pass.text_set import read_text_retain_set
from vkdsurgeon.evaluation.score import Scoring, answer_records
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.training.events import unheard
from vkdsurgeon.vision_pass.job import Job
from vkdsurgeon.vision_pass.prepare import prepare
from vkdsurgeon.vision_pass.run import operate

RESULTS = Path(__file__).parent / "results" / "decoder_pass.jsonl"
MODELS = ("base", "gold", "visual", "decoder")
STEPS, LR, BATCH = (15, 60), 3e-4, 32


class Laboratory:
    """The miniature and everything that is measured on it.

    Args:
        place: Where the miniature is unpacked.
    """

    def __init__(self, place: Path) -> None:
        self.base, self.gold, self.records = place / "base", place / "gold", place / "records"
        self.forget = self.read("forget")
        self.retain = self.read("retain")
        self.heldout = self.read("forget_heldout")
        self.kept = sample(self.read("retain_heldout"), 800, 0)
        self.text = self.read("text")

    def read(self, name: str) -> list[Record]:
        """One of the miniature's sets."""
        return read_records(self.records / f"{name}.jsonl", role=name)

    def measure(self, root: Path, seed: int, *, attacked: bool = True) -> dict[str, Any]:
        """Accuracies of a checkpoint, as it is and after each attack.

        Args:
            root: The checkpoint.
            seed: Of the attackers' draws.
            attacked: Also put the original visual side back, relearn, and tune on retain data.
        """
        loaded = load_model(root, device="cpu", dtype="float32")
        row: dict[str, Any] = {
            "forget": _accuracy(loaded, self.heldout, "vqa", "vqa.name", "general"),
            "attributes": _accuracy(loaded, [r for r in self.heldout if r.task != "vqa.name"], "vqa")["vqa"],
            "retain": _accuracy(loaded, self.kept, "vqa", "general"),
            "text": _accuracy(loaded, self.text, "text.forget", "text.retain"),
        }
        if not attacked:
            return row
        split = split_records(self.forget, self.heldout, protocol="pairs", fraction=0.5, seed=seed)
        weights = {name: value.detach().clone() for name, value in loaded.model.state_dict().items()}

        def after(shown: Sequence[Record], steps: int, asked: Sequence[Record]) -> dict[str, float]:
            loaded.model.load_state_dict(weights)
            parameters = trainable(loaded, "visual")
            list(fine_tune(loaded, parameters, shown, steps=steps, lr=LR, batch_size=BATCH, seed=seed))
            return _accuracy(loaded, asked, "vqa", "vqa.name")

        row |= {f"pairs_{steps}": after(split.shown, steps, split.measured) for steps in STEPS}
        row["benign_60"] = after(self.retain, 60, self.heldout)
        if root == self.gold:
            return row
        loaded.model.load_state_dict(weights)
        put_back(
            loaded,
            Restoring(
                model=root,
                reference=self.base,
                forget=read_set("forget", self.records / "forget_heldout.jsonl"),
            ),
        )
        row["restore"] = _accuracy(loaded, self.heldout, "vqa", "vqa.name", "general")
        return row

    def run(
        self,
        seed: int,
        densities: Sequence[float],
        settings: dict[str, Any],
        text: Path | None,
        *,
        visual: bool,
    ) -> Iterable[Any]:
        """Unlearn with one seed: the visual pass alone if asked for, then a decoder pass of each density behind it."""
        sets = (samples_of(self.forget, role="forget"), samples_of(self.retain, role="retain"))
        recipe = Recipe(decoder=DecoderRecipe(**settings))
        prepared = prepare(Job(self.base, *sets, [], recipe, seed=seed))
        started = time.monotonic()
        outcome = operate(prepared, unheard)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "visual"
            write_patched(prepared.stack.inventory, outcome.changes, out)
            seconds = round(time.monotonic() - started, 1)
            if visual:
                yield {"model": "visual", "seed": seed, "seconds": seconds, **self.measure(out, seed)}
            for density in densities:
                decoder = DecoderRecipe(**{**settings, "density": density})
                job = replace(prepared.job, recipe=recipe.model_copy(update={"decoder": decoder}))
                started = time.monotonic()
                planned = prepare_decoder(
                    replace(prepared, job=job), self.forget, self.retain, read_text_retain_set(text, seed)
                )
                decoded = operate_decoder(planned, unheard)
                seconds = round(time.monotonic() - started, 1)
                out = Path(scratch) / f"decoder-{density}"
                write_patched(prepared.stack.inventory, {**outcome.changes, **decoded.changes}, out)
                verdict = decoded.verdict
                yield {
                    "model": "decoder",
                    "density": density,
                    "seed": seed,
                    "seconds": seconds,
                    "settings": decoder.model_dump(mode="json"),
                    "text_keep_set": "built-in" if text is None else "half of the text records",
                    "selected_elements": decoded.mask.count,
                    "gate": {**vars(verdict), "met": verdict.met},
                    **self.measure(out, seed),
                }


def _accuracy(loaded: LoadedModel, records: Sequence[Record], *groups: str) -> dict[str, float]:
    values: dict[str, list[float]] = {group: [] for group in groups}
    for answer in answer_records(loaded, records, Scoring(batch_size=128)):
        for group in set(groups_of(answer.record.task)) & values.keys():
            values[group].append(answer.values["accuracy"])
    return {group: round(sum(found) / len(found), 4) for group, found in values.items() if found}


def main() -> None:
    """Run the seeds; print and keep one JSON line each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--densities", type=float, nargs="+", default=[DecoderRecipe().density])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Keys of the section `decoder`.")
    parser.add_argument("--built-in-text", action="store_true", help="No text records in the keep set.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="What is measured.")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settings = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    command = "python benchmarks/decoder_pass.py " + " ".join(sys.argv[1:])

    def keep(row: dict[str, Any]) -> None:
        row |= {"command": command.strip(), "threads": torch.get_num_threads(), "versions": versions()}
        print(json.dumps(row), flush=True)
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "miniature"
        unpack(place)
        laboratory = Laboratory(place)
        if "base" in arguments.models:
            keep({"model": "base", **laboratory.measure(laboratory.base, 0, attacked=False)})
        text = None if arguments.built_in_text else laboratory.records / "text.jsonl"
        densities = arguments.densities if "decoder" in arguments.models else []
        for seed in arguments.seeds:
            if "gold" in arguments.models:
                keep({"model": "gold", "seed": seed, **laboratory.measure(laboratory.gold, seed)})
            for row in laboratory.run(seed, densities, settings, text, visual="visual" in arguments.models):
                keep(row)


if __name__ == "__main__":
    main()
