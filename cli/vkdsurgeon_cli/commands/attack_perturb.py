"""`vkdsurgeon attack perturb`: change the pictures and ask again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.commands.attack_options import Shared, with_attack_options
from vkdsurgeon_cli.commands.attack_shared import attack_tables
from vkdsurgeon_cli.commands.eval_ import set_if_given


@with_attack_options("perturb.worst.vqa.accuracy<=gold+0.05")
def perturb_command(
    *,
    forget: Annotated[
        Path, typer.Option("--forget", help="What was to be forgotten; a universal perturbation is trained on it.")
    ],
    heldout: Annotated[
        Path | None, typer.Option("--heldout", help="Other views of the same subjects, to measure on.")
    ] = None,
    perturbation: Annotated[
        list[str] | None,
        typer.Option(
            "--perturbation",
            metavar="KIND[=PERCENT]",
            help="noise, blur, crop, occlusion, hflip, vflip, brightness or contrast, with a strength; more than once "
            "for several. Otherwise all at two strengths each.",
        ),
    ] = None,
    universal: Annotated[
        bool,
        typer.Option(
            "--universal/--no-universal",
            help="Also train one perturbation for all pictures, on every model that is attacked.",
        ),
    ] = False,
    eps: Annotated[
        float, typer.Option("--eps", help="Bound of the universal perturbation, in 1/255 of black to white.")
    ] = 12.0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the universal perturbation.")] = 40,
    step_size: Annotated[
        float | None, typer.Option("--step-size", help="Of one step, in 1/255; otherwise 2.5 eps / steps.")
    ] = None,
    attack_batch: Annotated[
        int, typer.Option("--attack-batch", min=1, help="Questions per step of the universal perturbation.")
    ] = 32,
    shared: Shared,
) -> None:
    """Ask about pictures with noise, blur, a window, a cover, flipped, darker or lighter; or with one trained pattern.

    Strengths are percentages: of white for noise, of the shorter side for blur, of each side kept for crop, of the area
    covered for occlusion, of the original for brightness and contrast. --universal trains one pattern of at most --eps
    per pixel, through the model, that makes the right answers likely on the forget set (PGD), for gold its own; it
    needs a processor that makes one picture-shaped tensor, as CLIP's and SigLIP's do.
    """
    from vkdsurgeon.attacks.image_transforms import perturbations_of
    from vkdsurgeon.attacks.perturb import Perturbing, perturb
    from vkdsurgeon.attacks.universal import Universal
    from vkdsurgeon.errors import UserError

    for name, value in (("--eps", eps), ("--step-size", step_size)):
        if value is not None and not 0.0 < value <= 255.0:
            raise UserError("out of range", where=name, value=value, expected="above 0, at most 255")
    target = shared.target(forget)
    seed = target["seed"]
    attack = Perturbing(
        **target,
        heldout=set_if_given("heldout", heldout),
        perturbations=perturbations_of(perturbation or [], seed),
        universal=Universal(eps, steps, step_size, attack_batch, seed) if universal else None,
    )
    result = perturb(attack, shared.out.progress)
    title = f"pictures changed, measured on the {result.settings.measured_on} set"
    if result.settings.universal is not None:
        told = result.settings.universal
        title += f"; universal: {told.eps:g}/255, {told.steps} steps on {told.records} questions"
    shared.conclude(result, lambda: attack_tables(result, title, first="pictures"))
