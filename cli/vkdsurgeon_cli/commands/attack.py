"""`vkdsurgeon attack`: try to bring back what a model was made to forget."""

from __future__ import annotations

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.commands.attack_membership import membership_command
from vkdsurgeon_cli.commands.attack_perturb import perturb_command
from vkdsurgeon_cli.commands.attack_probe import probe_command
from vkdsurgeon_cli.commands.attack_prompt import prompt_command
from vkdsurgeon_cli.commands.attack_quantize import quantize_command
from vkdsurgeon_cli.commands.attack_relearn import relearn_command
from vkdsurgeon_cli.commands.attack_restore import restore_command
from vkdsurgeon_cli.commands.attack_typography import typography_command


def register(app: typer.Typer) -> None:
    """Add the commands."""
    attacks = typer.Typer(
        name="attack",
        help="Try to bring back what a model was made to forget. Checkpoints on disk are not changed.",
        epilog="Example: vkdsurgeon attack relearn patched/ --forget f.jsonl --gold gold/",
        no_args_is_help=True,
    )
    add_command(
        attacks,
        "relearn",
        relearn_command,
        "attack relearn patched/ --forget f.jsonl --heldout h.jsonl",
        "attack relearn patched/ --forget f.jsonl --protocol people,pairs --seeds 0,1",
        'attack relearn patched/ --gold gold/ --forget f.jsonl --gate "relearn.after.vqa.accuracy<=gold+0.1"',
        summary="Fine-tune on a part of the forget set, and ask about the rest.",
    )
    add_command(
        attacks,
        "restore",
        restore_command,
        "attack restore patched/ --base model/ --forget h.jsonl",
        "attack restore patched/ --base model/ --gold gold/ --forget h.jsonl "
        '--gate "restore.after.vqa.name.accuracy<=gold+0.03"',
        summary="Put the original vision tower and projector back.",
    )
    add_command(
        attacks,
        "probe",
        probe_command,
        "attack probe patched/ --forget f.jsonl --retain r.jsonl --gold gold/",
        "attack probe patched/ --gold gold/ --forget f.jsonl --retain r.jsonl "
        '--gate "gap.probe.projector.crowd.accuracy<=0.1"',
        summary="Train classifiers to read identities off the visual features.",
    )
    add_command(
        attacks,
        "quantize",
        quantize_command,
        "attack quantize patched/ --base model/ --forget h.jsonl",
        "attack quantize patched/ --gold gold/ --forget h.jsonl --format nf4 "
        '--gate "quantize.nf4.vqa.accuracy<=gold+0.03"',
        summary="Quantize the weights in memory, and ask again.",
    )
    add_command(
        attacks,
        "perturb",
        perturb_command,
        "attack perturb patched/ --forget f.jsonl --heldout h.jsonl",
        "attack perturb patched/ --gold gold/ --forget f.jsonl --perturbation noise=20 "
        '--gate "perturb.worst.vqa.accuracy<=gold+0.05"',
        summary="Ask about changed images: noise, blur, crop and others.",
    )
    add_command(
        attacks,
        "prompt",
        prompt_command,
        "attack prompt patched/ --forget h.jsonl --templates own.yaml",
        'attack prompt patched/ --gold gold/ --forget h.jsonl --gate "prompt.worst.vqa.accuracy<=gold+0.05"',
        summary="Ask the same questions in other words.",
    )
    add_command(
        attacks,
        "typography",
        typography_command,
        "attack typography patched/ --forget h.jsonl --retain r.jsonl",
        'attack typography patched/ --gold gold/ --forget h.jsonl --gate "typography.name.vqa.accuracy<=gold+0.05"',
        summary="Write words into the images, such as the subject's name.",
    )
    add_command(
        attacks,
        "membership",
        membership_command,
        "attack membership patched/ --forget f.jsonl --nonmembers new.jsonl",
        "attack membership patched/ --gold gold/ --forget f.jsonl --nonmembers new.jsonl "
        '--gate "membership.loss.advantage<=gold+0.1"',
        summary="Tell the forget set from images that were never seen.",
    )
    app.add_typer(attacks)
