"""`vkdsurgeon attest`: statements about a release in the formats of others, and a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import ModelArgument, Printing

_SCHEMA = "vkdsurgeon/attest/1"


def attest(
    *,
    model: ModelArgument,
    documents: Annotated[
        list[Path],
        typer.Argument(metavar="DOCUMENTS...", help="JSON results about MODEL, as for `report`."),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Directory for the statements; earlier ones are replaced."),
    ],
    base_name: Annotated[
        str | None, typer.Option("--base-name", metavar="NAME", help="Name of the base, such as org/name.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Also write the evidence into MODEL/README.md.")] = False,
    sign: Annotated[
        Path | None,
        typer.Option(
            "--sign", metavar="KEY", help="Sign MODEL with this elliptic-curve key (PEM; needs the extra `sign`)."
        ),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option("--signature", metavar="FILE", help="File for the signature, outside MODEL.")
    ] = None,
    printing: Printing,
) -> None:
    """Write an in-toto statement of the gates, SLSA provenance of the run, and a CycloneDX 1.7 ML-BOM.

    They state what was measured, relative to base and gold, under the attacks that were run. They do not state that
    anything is erased. They contain no time, so equal releases give equal statements.
    """
    output_ = printing.begin("reading")
    import vkdsurgeon
    from vkdsurgeon_cli.tables import pairs

    written = vkdsurgeon.attest(
        model, documents, output, base_name=base_name, card=card, private_key=sign, signature=signature
    )
    found = {"schema": _SCHEMA, "model": str(model), "written": [str(path) for path in written]}
    output_.document(found, lambda: pairs([("written", path) for path in written], output_.columns), kept=output)


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "attest",
        attest,
        "attest patched/ results/*.json -o attestations/ --base-name org/model",
        "attest patched/ results/*.json -o attestations/ --card --sign release.key --signature model.sig",
        summary="Write attestations of the gates, the run and the model.",
    )
