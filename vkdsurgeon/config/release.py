"""What a release is made of and what it must satisfy, as a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vkdsurgeon.config.keys import suggestion
from vkdsurgeon.config.yaml import read_mapping
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.hub import model_path

# As in docs: what is forgotten is answered rarely, what is kept nearly as before, text exactly as before.
EVAL_GATES = ("forget.vqa.accuracy<=0.10", "retain.vqa.accuracy>=reference-0.03", "text.text.agreement==1")
EDITED_TEXT_GATE = ("text.text.agreement==1", "text.text.agreement>=0.95")
RELEARN_GATES = ("relearn.ag<=gold+10",)
RESTORE_GATES = ("restore.after.vqa.accuracy<=gold+0.05",)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReleaseRequest(_Section):
    """What asked for it; stands in the record, so it names nobody."""

    id: str | None = None
    date: str | None = Field(default=None, description="YYYY-MM-DD")


class ReleaseSignOff(_Section):
    """What the report's last block says."""

    product: str = ""
    date: str = ""
    approver: str = ""


class ReleaseGates(_Section):
    """Bounds per measurement; a list of your own replaces the default one."""

    eval: list[str] | None = None
    relearn: list[str] | None = None
    restore: list[str] | None = None


class ReleaseSigning(_Section):
    """An elliptic-curve key for OpenSSF model signing."""

    private_key: Path


class ReleasePlan(_Section):
    """A release as its file describes it; paths count from the file.

    Attributes:
        model: The checkpoint to unlearn from: a path, or a name on the hub that lies in the local cache.
        out: A directory for everything that is made.
        forget: What is trained on.
        retain: Likewise.
        forget_heldout: Questions about other images of the same, which are measured.
        retain_heldout: Likewise.
        text: Questions without images, which are measured.
        generic: Images of others, beside the retain set.
        gold: A model that never saw the forget set, likewise; without it attacks have no bound unless you give one.
        recipe: A recipe file, or its keys.
        preset: A recipe that ships with the tool.
        seed: Of every random draw.
        device: As `--device`.
        protocols: Of the relearning attack.
        relearn: Further settings of that attack, such as steps.
        gates: Bounds.
        restore_out_of_scope: Nobody who gets the model can get the original's visual weights.
        accept_unjudged: Attacks without a bound are good enough for you.
        request: What asked for it.
        sign_off: For the report.
        base_model: What the hub calls the model, for the card.
        compression: Of the patch file.
        sign: A key to sign with.
    """

    model: Path
    out: Path
    forget: Path
    retain: Path
    forget_heldout: Path
    retain_heldout: Path
    text: Path
    generic: Path | None = None
    gold: Path | None = None
    recipe: Path | dict[str, Any] | None = None
    preset: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    protocols: Annotated[list[str], Field(min_length=1)] = ["people", "pairs"]
    relearn: dict[str, Any] = {}
    gates: ReleaseGates = ReleaseGates()
    restore_out_of_scope: bool = False
    accept_unjudged: bool = False
    request: ReleaseRequest = ReleaseRequest()
    sign_off: ReleaseSignOff = ReleaseSignOff()
    base_model: str | None = None
    compression: Annotated[str, Field(pattern="^(none|zstd)$")] = "zstd"
    sign: ReleaseSigning | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ReleasePlan:
        if self.restore_out_of_scope and self.gates.restore:
            raise ValueError("restore_out_of_scope and gates.restore contradict each other: give one of them")
        return self

    @property
    def eval_gates(self) -> list[str]:
        """Bounds on the evaluation."""
        return list(EVAL_GATES) if self.gates.eval is None else self.gates.eval

    @property
    def relearn_gates(self) -> list[str]:
        """Bounds on relearning; none without gold, unless they were given."""
        default = list(RELEARN_GATES) if self.gold is not None else []
        return default if self.gates.relearn is None else self.gates.relearn

    @property
    def restore_gates(self) -> list[str]:
        """Bounds on what comes back with the original visual weights; likewise."""
        default = list(RESTORE_GATES) if self.gold is not None and not self.restore_out_of_scope else []
        return default if self.gates.restore is None else self.gates.restore


_PATHS = ("out", "forget", "retain", "forget_heldout", "retain_heldout", "text", "generic", "recipe")
_MODELS = ("model", "gold")


def load_release(path: Path) -> ReleasePlan:
    """Read a release file.

    Args:
        path: YAML; paths in it count from its folder.

    Raises:
        UserError: It cannot be read, a key is unknown or missing, or a value is out of range.
    """
    found = read_mapping(path, "release")
    try:
        plan = ReleasePlan.model_validate(found)
    except ValidationError as error:
        raise _broken(path, error) from None
    placed: dict[str, Any] = {}
    for name in _PATHS:
        value = getattr(plan, name)
        if isinstance(value, Path):
            placed[name] = path.parent / value.expanduser()
    for name in _MODELS:
        value = getattr(plan, name)
        if value is not None:
            placed[name] = model_path(value, path.parent)
    if plan.sign is not None:
        placed["sign"] = ReleaseSigning(private_key=path.parent / plan.sign.private_key.expanduser())
    return plan.model_copy(update=placed)


def _broken(path: Path, error: ValidationError) -> UserError:
    first = error.errors(include_url=False, include_context=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    known = list(ReleasePlan.model_fields)
    if first["type"] == "extra_forbidden":
        return UserError(
            f"unknown key {key!r} in the release",
            where=path,
            expected="one of " + ", ".join(known),
            remedy=suggestion(str(first["loc"][-1]), known),
        )
    if first["type"] == "missing":
        return UserError(f"the release does not say {key!r}", where=path, expected=f"{key}: PATH")
    told = first["msg"].removeprefix("Value error, ")
    return UserError(f"release key {key!r}: {told}" if key else told, where=path, value=first["input"] if key else None)
