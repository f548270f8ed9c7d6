"""The rows of a comparison by name: methods, and variants of VKD. Imports nothing heavy: `--help` reads it."""

from __future__ import annotations

from dataclasses import dataclass

from vkdsurgeon.errors import UserError
from vkdsurgeon.methods.names import BASELINES, VKD

BASE, GOLD = "base", "gold"
_OUTPUT = {f"vkd-{loss}": loss for loss in ("npo", "idk", "ga", "uniform")}
_DECODER = "vkd-decoder"


@dataclass(frozen=True)
class Contestant:
    """One row.

    Attributes:
        name: As in the table and in gates.
        method: As `unlearn --method` takes it.
        title: For people.
        overrides: Recipe keys that make the variant.
        reads_text: Whether it is given the text set.
    """

    name: str
    method: str
    title: str
    overrides: dict[str, object]
    reads_text: bool


def known_names() -> list[str]:
    """Every name that can be compared."""
    return [VKD, *_OUTPUT, _DECODER, *BASELINES]


def contestant(name: str) -> Contestant:
    """The contestant of a name.

    Raises:
        UserError: There is none.
    """
    if name in BASELINES:
        return Contestant(name, name, BASELINES[name].title, {}, BASELINES[name].reads_text)
    if name == VKD:
        return Contestant(name, VKD, "visual knowledge distillation, feature mode", {}, False)
    if name in _OUTPUT:
        title = f"visual knowledge distillation, {_OUTPUT[name]} through the frozen language model"
        return Contestant(name, VKD, title, {"output_loss": _OUTPUT[name]}, False)
    if name == _DECODER:
        return Contestant(name, VKD, "visual knowledge distillation with the decoder pass", {"decoder": {}}, True)
    raise UserError("no such method", where="--methods", value=name, expected=", ".join(known_names()))


def parse_names(text: str) -> list[Contestant]:
    """The contestants of a comma-separated list; `all` is every method in its default form.

    Raises:
        UserError: An unknown name, one given twice, or none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        names = [VKD, "vkd-npo", *BASELINES]
    if not names or len(set(names)) != len(names):
        raise UserError(
            "not a list of methods",
            where="--methods",
            value=text,
            expected=f"different names, separated by commas: {', '.join(known_names())}, or all",
        )
    return [contestant(name) for name in names]


def parse_seeds(text: str) -> list[int]:
    """The seeds of a comma-separated list.

    Raises:
        UserError: Not different natural numbers.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) < 2**63 for word in words) or len(set(words)) != len(words):
        raise UserError("not a list of seeds", where="--seeds", value=text, expected="different numbers such as 0,1,2")
    return [int(word) for word in words]
