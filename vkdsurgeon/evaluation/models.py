"""Load, measure, free: the models of a comparison, one after another."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, TypeAlias, TypeVar

from vkdsurgeon.checkpoint.inventory import check_unchanged
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import Gate
from vkdsurgeon.model.device_map import DeviceMap
from vkdsurgeon.model.multimodal import LoadedModel, load_model
from vkdsurgeon.results.evaluation import ModelFacts
from vkdsurgeon.training.events import Event, Listener

Role = Literal["model", "reference", "gold"]
Roles: TypeAlias = Sequence[tuple[Role, Path]]
Model = TypeVar("Model")
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The settings that evaluations and attacks share.

    Attributes:
        model: Directory of the unlearned model; never written to.
        reference: The model before unlearning, as the ceiling.
        gold: A model that never knew what is to be forgotten.
        gates: Bounds; they do not stop anything while measuring.
        device: Where, as in `load_model`.
        device_map: Several places instead, likewise.
        salt: For the digests of the sets.
    """

    model: Path
    reference: Path | None = None
    gold: Path | None = None
    gates: Sequence[Gate] = ()
    device: str = "auto"
    device_map: DeviceMap | None = None
    salt: bytes = b""

    @property
    def roles(self) -> Roles:
        """The models to measure, in order."""
        return roles_of(("model", self.model), ("reference", self.reference), ("gold", self.gold))


def roles_of(*roles: tuple[Role, Path | None]) -> list[tuple[Role, Path]]:
    """The roles that somebody has, in their order."""
    return [(role, root) for role, root in roles if root is not None]


def measure_each(
    roles: Roles,
    load: Callable[[Path], Model],
    measure: Callable[[Role, Model], Found],
    listener: Listener,
    *,
    doing: str = "loading",
) -> dict[Role, Found]:
    """Load, measure and free one model after another, so that one is in memory at a time.

    Args:
        roles: Whom, in which order.
        load: Loads a model from its directory.
        measure: Measures it; must not hold it afterwards.
        listener: Called with an event for every model.
        doing: Text of that event.

    Returns:
        What was measured, by role.
    """
    found: dict[Role, Found] = {}
    for role, root in roles:
        listener(Event("model", f"{doing} {role}", {"role": role}))
        model = load(root)
        found[role] = measure(role, model)
        del model
        gc.collect()
    return found


@dataclass(frozen=True)
class Asked(Generic[Found]):
    """The answers of several models to the same questions.

    Attributes:
        found: What was measured, by role.
        models: What a result says of the models, in the order they were loaded.
        first: The first model without its weights; its encoder made the inputs of all.
    """

    found: dict[Role, Found]
    models: list[ModelFacts]
    first: LoadedModel


def ask_each(
    asked: Measurement, ask: Callable[[Role, LoadedModel], Found], *, dtype: str, listener: Listener
) -> Asked[Found]:
    """`measure_each` for whole models that all get exactly the inputs of the first.

    Args:
        asked: Whom, in which order, and where.
        ask: Measures a model; must not hold it afterwards.
        dtype: In what precision, as in `load_model`.
        listener: Called with an event for every model.

    Raises:
        UserError: A model cannot be loaded, or is not of the kind and vocabulary of the first.
        SurgeryError: A file of it changed meanwhile.
    """
    facts: list[ModelFacts] = []
    firsts: list[LoadedModel] = []

    def measure(role: Role, loaded: LoadedModel) -> Found:
        if firsts:
            _share_encoder(loaded, firsts[0])
        else:
            firsts.append(replace(loaded, model=None))
        facts.append(_facts(role, loaded))
        try:
            found = ask(role, loaded)
            # Weights on disk were read until now.
            check_unchanged(loaded.inventory)
        finally:
            loaded.release()
        return found

    def load(root: Path) -> LoadedModel:
        return load_model(root, device=asked.device, dtype=dtype, device_map=asked.device_map)

    found = measure_each(asked.roles, load, measure, listener)
    return Asked(found, facts, firsts[0])


def _share_encoder(loaded: LoadedModel, first: LoadedModel) -> None:
    sizes = [len(model.encoder.tokenizer) for model in (loaded, first)]
    if loaded.model_type != first.model_type or sizes[0] != sizes[1]:
        raise UserError(
            "this model cannot be compared: it differs from the first in kind or vocabulary",
            where=loaded.root,
            value=[loaded.model_type, sizes[0]],
            expected=f"like {first.root}: {[first.model_type, sizes[1]]}",
        )
    loaded.encoder = first.encoder


def _facts(role: Role, loaded: LoadedModel) -> ModelFacts:
    return ModelFacts(
        role=role,
        model_type=loaded.model_type,
        weights_digest=loaded.digest,
        dtype=str(loaded.dtype).removeprefix("torch."),
    )
