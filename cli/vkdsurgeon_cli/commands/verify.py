"""`vkdsurgeon verify`: is this checkpoint what its record says?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vkdsurgeon_cli.command import add_command
from vkdsurgeon_cli.options import BaseOption, ModelArgument, Printing

if TYPE_CHECKING:
    from vkdsurgeon.results.verification import VerifyResult


def verify(
    *,
    model: ModelArgument,
    base: BaseOption = None,
    forget: Annotated[
        Path | None, typer.Option("--forget", metavar="SET", help="Check whether this is the forget set of the run.")
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option("--replay", metavar="FILE", help="Check that the run used these replay files. Needs no key."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", metavar="FILE", help="A copy of the record, kept elsewhere. [default: MODEL's own]"),
    ] = None,
    signature: Annotated[
        Path | None, typer.Option("--signature", metavar="FILE", help="A signature over MODEL (OpenSSF model signing).")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="The signer's key as PEM.")
    ] = None,
    printing: Printing,
) -> None:
    """Check MODEL against its record and, if given, its base, a forget set, replay files and a signature.

    Whoever can change the weights can also change the record inside MODEL. So give --record, --base or --signature for
    a check that does not depend on it. If any check fails, the status is 3.
    """
    output = printing.begin("reading")
    import vkdsurgeon
    from vkdsurgeon_cli.tables import pairs

    result = vkdsurgeon.verify(
        model,
        base=base,
        forget=forget,
        replay=replay,
        record=record,
        signature=signature,
        public_key=public_key,
    )
    output.document(result.model_dump(mode="json"), lambda: pairs(_rows(result), output.columns))
    result.raise_if_failed()


def _rows(result: VerifyResult) -> list[tuple[str, object]]:
    request = " of ".join(each for each in result.request.values() if each)
    return [
        ("verdict", result.verdict),
        *((each.check, f"{each.outcome}: {each.told}") for each in result.checks),
        ("request", request or "the record names none"),
        ("weights digest", result.weights_digest),
        ("base digest", result.base_weights_digest),
    ]


def register(app: typer.Typer) -> None:
    """Add the command."""
    add_command(
        app,
        "verify",
        verify,
        "verify patched/",
        "verify patched/ --base model/ --forget forget.jsonl --record released.json",
        "verify patched/ --signature model.sig --public-key release.pem",
        summary="Check a model against its record, its base and its signature.",
    )
