"""`vkdsurgeon attack perturb`: change the images and ask again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from vkdsurgeon_cli.commands.attack_shared import ForgetOption, RetainOption, attack_sheets, run
from vkdsurgeon_cli.measuring import Answering, ComparedModels, Results
from vkdsurgeon_cli.options import ModelArgument


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How images are changed."""

    perturbation: Annotated[
        list[str] | None,
        typer.Option(
            "--perturbation",
            metavar="KIND[=PERCENT]",
            help="noise, blur, crop, occlusion, hflip, vflip, brightness or contrast; repeat for several. Otherwise "
            "all, at two strengths each.",
        ),
    ] = None
    universal: Annotated[
        bool, typer.Option("--universal/--no-universal", help="Also train one pattern for all images.")
    ] = False
    eps: Annotated[
        float, typer.Option("--eps", metavar="N", help="Largest value of the pattern, in 1/255 of black to white.")
    ] = 12.0
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Training steps of the pattern.")] = 40
    step_size: Annotated[
        float | None,
        typer.Option("--step-size", metavar="N", help="Size of one step, in 1/255. [default: 2.5 eps / steps]"),
    ] = None
    attack_batch: Annotated[
        int, typer.Option("--attack-batch", metavar="N", min=1, help="Questions per training step.")
    ] = 32
    panel: ClassVar[str] = "Attack"

    def trained(self) -> dict[str, Any] | None:
        """The recipe of the trained pattern; None without one.

        Raises:
            UserError: A number is out of range.
        """
        from vkdsurgeon.errors import UserError

        for name, value in (("--eps", self.eps), ("--step-size", self.step_size)):
            if value is not None and not 0.0 < value <= 255.0:
                raise UserError("out of range", where=name, value=value, expected="above 0, at most 255")
        if not self.universal:
            return None
        return {"eps": self.eps, "steps": self.steps, "step_size": self.step_size, "batch_size": self.attack_batch}


def perturb_command(
    *,
    model: ModelArgument,
    forget: ForgetOption,
    heldout: Annotated[
        Path | None, typer.Option("--heldout", metavar="SET", help="Other images of the same subjects, to measure on.")
    ] = None,
    retain: RetainOption = None,
    changes: Changes,
    others: ComparedModels,
    answering: Answering,
    results: Results,
) -> None:
    """Ask about changed images: noise, blur, crop, occlusion, flips, brightness, contrast; or one trained pattern.

    Strengths are percentages: of white for noise, of the shorter side for blur, of each side kept for crop, of the
    covered area for occlusion, of the original for brightness and contrast. --universal trains one pattern of at most
    --eps per pixel, by PGD through the model, that makes the right answers on the forget set likely; gold gets a
    pattern of its own. It needs a processor with one image-shaped tensor, such as CLIP's and SigLIP's.
    """
    results.begin()
    own = {"heldout": heldout, "perturbations": changes.perturbation or None, "universal": changes.trained()}
    result = run("perturb", model, (forget, retain), others, answering, results, own)
    title = f"images changed, measured on the {result.settings.measured_on} set"
    if result.settings.universal is not None:
        told = result.settings.universal
        title += f"; universal: {told.eps:g}/255, {told.steps} steps on {told.records} questions"
    results.conclude(result, lambda: attack_sheets(result, title, first="images"))
