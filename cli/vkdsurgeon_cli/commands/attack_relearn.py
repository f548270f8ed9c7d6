"""`vkdsurgeon attack relearn`: bring knowledge back by fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vkdsurgeon_cli.commands.attack_relearn_tables import sheets
from vkdsurgeon_cli.measuring import Results
from vkdsurgeon_cli.options import BaseOption, GoldOption, ModelArgument, WholeModelPlace
from vkdsurgeon_cli.tracking import Tracking

if TYPE_CHECKING:
    from vkdsurgeon.results.relearn import RelearnResult


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What the attacker has, and what is measured."""

    forget: Annotated[Path, typer.Option("--forget", metavar="SET", help="The forget set: questions about images.")]
    heldout: Annotated[
        Path | None, typer.Option("--heldout", metavar="SET", help="Other images of the same subjects, to measure on.")
    ] = None
    retain: Annotated[
        Path | None, typer.Option("--retain", metavar="SET", help="The retain set, to measure utility.")
    ] = None
    benign_data: Annotated[
        Path | None,
        typer.Option("--benign-data", metavar="SET", help="Data for protocol benign. [default: half of --retain]"),
    ] = None
    attack_data: Annotated[
        Path | None, typer.Option("--attack-data", metavar="SET", help="Data for protocol unrelated.")
    ] = None
    panel: ClassVar[str] = "Data"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of the attack, which are keys of its file, too."""

    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAMES",
            help="people: relearn some subjects, measure the others. pairs: some kinds of question. views: some images "
            "of each. benign: train on the retain set. unrelated: on --attack-data. [default: people]",
        ),
    ] = None
    fraction: Annotated[
        str | None,
        typer.Option("--fraction", metavar="N", help="Share to train on, such as 0.1,0.25,1. [default: 0.5]"),
    ] = None
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope",
            metavar="NAMES",
            help="What the attacker trains. visual: tower and projector. llm: LoRA on the language model (needs peft). "
            "llm_full: all of it. all: every weight. [default: visual]",
        ),
    ] = None
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Optimizer steps. [default: 15]")] = None
    lr: Annotated[
        str | None, typer.Option("--lr", metavar="N", help="Peak learning rates of AdamW. [default: 3e-4]")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Records per step. [default: 32]")
    ] = None
    rank: Annotated[int | None, typer.Option("--rank", metavar="N", help="Rank of the LoRA matrices. [default: 8]")] = (
        None
    )
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N", help="Seeds of split and order, such as 0,1,2. [default: 0]")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The same as --seeds with one seed.")] = None
    curve_every: Annotated[
        int | None,
        typer.Option("--curve-every", metavar="N", help="Measure every N steps. [default: half way, at the end]"),
    ] = None
    curve_steps: Annotated[
        str | None, typer.Option("--curve-steps", metavar="N", help="Measure after these steps, such as 1,2,5.")
    ] = None
    recover: Annotated[
        float | None,
        typer.Option("--recover", metavar="N", help="Share above chance that counts as recovered. [default: 0.5]"),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Largest number of utility questions. [default: 500]")
    ] = None
    length_normalised: Annotated[
        bool, typer.Option("--length-normalised", help="Divide an option's log-likelihood by its token count.")
    ] = False
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", metavar="N", help="Longest generated answer, in tokens. [default: 64]"),
    ] = None
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="TYPE", help="float32, bfloat16 or auto. [default: float32]")
    ] = None
    panel: ClassVar[str] = "Attack (also keys of --protocol-file; lists with commas)"

    def given(self) -> dict[str, object]:
        """The options that were given, by key.

        Raises:
            UserError: Both --seed and --seeds.
        """
        from vkdsurgeon.errors import UserError

        if self.seed is not None and self.seeds is not None:
            raise UserError("--seed and --seeds cannot be combined", where="--seeds", value=self.seeds)
        settings = {name: value for name, value in vars(self).items() if value is not None and name != "seed"}
        if not self.length_normalised:
            del settings["length_normalised"]
        return settings if self.seed is None else {**settings, "seeds": str(self.seed)}


@dataclass(frozen=True, kw_only=True)
class ProtocolFiles:
    """The attack as a file."""

    protocol_file: Annotated[
        Path | None,
        typer.Option("--protocol-file", metavar="FILE", help="Settings as YAML or JSON; options override them."),
    ] = None
    save_protocol: Annotated[
        Path | None, typer.Option("--save-protocol", metavar="FILE", help="Write the settings to this new file.")
    ] = None
    panel: ClassVar[str] = Protocol.panel


@dataclass(frozen=True, kw_only=True)
class Models(WholeModelPlace):
    """Gold is attacked alike, the base is the ceiling."""

    base: BaseOption = None
    gold: GoldOption = None
    panel: ClassVar[str] = "Models and device"


def relearn_command(
    *,
    model: ModelArgument,
    sets: Sets,
    protocol: Protocol,
    files: ProtocolFiles,
    models: Models,
    results: Results,
    tracking: Tracking,
) -> None:
    """Fine-tune on a part of the forget set, and measure how much of the rest comes back.

    The result is AG (relearn.ag), in points from 0 to 100: the metrics of the measured part after the attack minus
    before, averaged. AG depends on protocol, scope and number of steps, so these are always printed with it, together
    with utility. If an option is a list, one attack runs per combination; all go into one document, with ids such as
    relearn.pairs.50.ag.
    """
    given = protocol.given()
    out = results.begin()
    from vkdsurgeon import attack
    from vkdsurgeon.config.relearn import check_saving, make_plan, save_plan

    plan = make_plan(files.protocol_file, given)
    if files.save_protocol is not None:
        check_saving(plan, files.save_protocol)
    others = {"heldout": sets.heldout, "benign": sets.benign_data, "unrelated": sets.attack_data}
    result: RelearnResult = attack(  # type: ignore[assignment]
        "relearn",
        model,
        sets.forget,
        retain=sets.retain,
        settings={"plan": plan, **others},
        on_event=tracking.heard_by(out.progress, out.warn),
        **vars(models),
        **results.asked(),
    )
    if files.save_protocol is not None:
        save_plan(plan, files.save_protocol)
    results.conclude(result, lambda: sheets(result))
