"""`vkdsurgeon attack relearn`: bring knowledge back by fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vkdsurgeon_cli.commands.attack_relearn_tables import tables
from vkdsurgeon_cli.commands.eval_ import OutputOption, SaltOption, conclude, gates_of, set_if_given, stack
from vkdsurgeon_cli.options import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    ProgressOption,
    ProjectorOption,
    TowerOption,
)
from vkdsurgeon_cli.output import Output, ProgressMode

if TYPE_CHECKING:
    pass

_PANEL = "Attack (each is also a key of --protocol-file; lists with commas)"


def _setting(flag: str, text: str) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=_PANEL)


def relearn_command(
    model: ModelArgument,
    forget: Annotated[Path, typer.Option("--forget", help="What was to be forgotten: questions about pictures.")],
    heldout: Annotated[
        Path | None, typer.Option("--heldout", help="Other views of the same subjects, to measure on.")
    ] = None,
    retain: Annotated[Path | None, typer.Option("--retain", help="What utility is measured on.")] = None,
    benign_data: Annotated[
        Path | None,
        typer.Option(
            "--benign-data",
            help="What protocol benign trains on; without it half of the pictures of --retain, which are then not "
            "measured.",
        ),
    ] = None,
    attack_data: Annotated[
        Path | None, typer.Option("--attack-data", help="What protocol unrelated trains on: any other records.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", help="A model that never saw the forget set; attacked in the same way.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The model before unlearning; measured as the ceiling.")
    ] = None,
    protocol_file: Annotated[
        Path | None, typer.Option("--protocol-file", help="Settings of the attack, YAML or JSON; flags win over it.")
    ] = None,
    save_protocol: Annotated[
        Path | None, typer.Option("--save-protocol", help="Write the settings to this new file, for --protocol-file.")
    ] = None,
    protocol: Annotated[
        str | None,
        _setting(
            "--protocol",
            "people: relearn some subjects, measure the others. pairs: relearn some kinds of question of every "
            "subject, measure the others. views: relearn some pictures of every subject, measure the others. benign: "
            "train on what is to be kept. unrelated: train on --attack-data. [default: people]",
        ),
    ] = None,
    fraction: Annotated[
        str | None,
        _setting(
            "--fraction",
            "Share of subjects, of their tasks or pictures, or of the attacker's data, such as 0.1,0.25,0.5,1; with 1 "
            "the held-out views are measured. [default: 0.5]",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        _setting(
            "--scope",
            "visual: the attacker trains tower and projector. llm: LoRA on the linear layers of the language model "
            "(needs peft). llm_full: every weight of it. all: every weight. [default: visual]",
        ),
    ] = None,
    steps: Annotated[int | None, _setting("--steps", "Optimiser steps. [default: 15]")] = None,
    lr: Annotated[
        str | None, _setting("--lr", "Peak learning rate of AdamW; decays linearly to zero. [default: 3e-4]")
    ] = None,
    batch_size: Annotated[int | None, _setting("--batch-size", "Records per step. [default: 32]")] = None,
    rank: Annotated[int | None, _setting("--rank", "Rank of the LoRA matrices. [default: 8]")] = None,
    seeds: Annotated[
        str | None,
        _setting("--seeds", "Seeds of split and order, such as 0,1,2; each attack is run per seed. [default: 0]"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same as --seeds with one seed.")] = None,
    curve_every: Annotated[
        int | None,
        _setting("--curve-every", "Measure after every so many steps. [default: half way and at the end]"),
    ] = None,
    curve_steps: Annotated[
        str | None, _setting("--curve-steps", "Measure after these steps, such as 1,2,5,15, and at the end.")
    ] = None,
    recover: Annotated[
        float | None,
        _setting(
            "--recover",
            "Share of what the reference knows above chance (of everything, without --reference) that counts as "
            "recovered. [default: 0.5]",
        ),
    ] = None,
    limit: Annotated[int | None, _setting("--limit", "At most so many questions on utility. [default: 500]")] = None,
    length_normalised: Annotated[
        bool,
        _setting("--length-normalised", "Divide an option's log-likelihood by its number of tokens."),
    ] = False,
    max_new_tokens: Annotated[
        int | None, _setting("--max-new-tokens", "Bound on a generated answer. [default: 64]")
    ] = None,
    dtype: Annotated[
        str | None,
        _setting(
            "--dtype",
            "float32, bfloat16 or auto; weights move by less than bfloat16 can hold. [default: float32]",
        ),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            help='A bound such as "gap.relearn.ag<=5" (points) or, with several attacks, "relearn.pairs.50.ag<=10"; '
            "missing it ends with status 3.",
        ),
    ] = None,
    output: OutputOption = None,
    salt: SaltOption = None,
    tower: TowerOption = None,
    projector: ProjectorOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressMode.auto,
) -> None:
    """Fine-tune on a part of what was forgotten and measure what comes back of the rest.

    The result is AG (relearn.ag), in points from 0 to 100: the mean of after minus before over the metrics of the
    measured part. It depends on protocol, scope and budget, so they are always printed with it, and utility beside it.
    Lists give one attack per combination, in one document, with ids such as relearn.pairs.50.ag.
    """
    from vkdsurgeon.attacks.relearn import Relearning, relearn
    from vkdsurgeon.config.relearn import check_saving, make_plan, save_plan
    from vkdsurgeon.data.sets import read_set
    from vkdsurgeon.errors import UserError

    if seed is not None and seeds is not None:
        raise UserError("--seed and --seeds exclude each other", where="--seeds", value=seeds)
    given: dict[str, object] = {
        "protocol": protocol,
        "fraction": fraction,
        "scope": scope,
        "steps": steps,
        "lr": lr,
        "batch_size": batch_size,
        "rank": rank,
        "seeds": seeds if seed is None else str(seed),
        "curve_every": curve_every,
        "curve_steps": curve_steps,
        "recover": recover,
        "limit": limit,
        "length_normalised": length_normalised or None,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype,
    }
    plan = make_plan(protocol_file, {key: value for key, value in given.items() if value is not None})
    gates = gates_of(gate, output)
    if save_protocol is not None:
        check_saving(plan, save_protocol)
    out = Output(as_json, progress)

    attack = Relearning(
        model=model,
        forget=read_set("forget", forget),
        heldout=set_if_given("heldout", heldout),
        retain=set_if_given("retain", retain),
        benign=set_if_given("benign", benign_data),
        unrelated=set_if_given("unrelated", attack_data),
        reference=reference,
        gold=gold,
        plan=plan,
        gates=gates,
        device=device,
        tower=tower,
        projector=projector,
        salt=(salt or "").encode(),
    )
    result = relearn(attack, out.progress)
    if save_protocol is not None:
        save_plan(plan, save_protocol)
    conclude(result, output, out, lambda: stack(tables(result)))
