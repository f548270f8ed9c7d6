"""The probing attack: can a linear classifier still recognise the subject from the features?

Linear probes: arXiv 1610.01644. Feature mode: the language model is not loaded.

A probe finds any face apart, also in a model that never saw it: features of faces differ. So a high accuracy alone says
nothing; the gap to gold under the same probe does, and the *reader*: trained on the base's features and shown the
model's, it says whether what used to read the person there still does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vkdsurgeon.attacks.linear_probe import LinearReader
from vkdsurgeon.attacks.probe_images import Gallery, build_gallery, layer_features
from vkdsurgeon.attacks.probe_metrics import FORGET_KINDS, Read, gaps, measured_metrics, row_of
from vkdsurgeon.attacks.target import Attack
from vkdsurgeon.attacks.warnings import missing_warnings
from vkdsurgeon.checkpoint.digest import weights_digest
from vkdsurgeon.checkpoint.inventory import take_inventory
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.checkpoint.split import split_checkpoint
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import check_gates, judge_metrics
from vkdsurgeon.evaluation.models import Role, Roles, measure_each, roles_of
from vkdsurgeon.evaluation.sets import set_facts
from vkdsurgeon.files.optional import optional
from vkdsurgeon.model.device import resolve_device
from vkdsurgeon.model.image_features import outputs_of
from vkdsurgeon.model.layers import find_layers
from vkdsurgeon.model.load_vision import load_visual_stack
from vkdsurgeon.model.vision import VisualStack
from vkdsurgeon.results.attacks import Pooling, ProbeKind, ProbeResult, ProbeSettings
from vkdsurgeon.results.evaluation import Metric, ModelFacts
from vkdsurgeon.training.events import Event, Listener, unheard

FORGET, OTHERS = "forget", "others"


@dataclass(frozen=True, kw_only=True)
class Probing(Attack):
    """One attack; the reader is trained on the features of the reference.

    Attributes:
        forget: Images of what was to be forgotten, with subjects.
        retain: Images of others, with subjects.
        heldout: Other views of the forget subjects to test on.
        retain_heldout: Other views of the retain subjects to test on.
        layers: Tapped layers; None for all.
        probe: Which reader.
        regularisation: Strength of its L2 penalty.
        pooling: What a reader gets of an image's tokens.
        folds: Into which views are dealt without `heldout`.
        limit: At most about so many retain images; None for all.
        batch_size: Images per forward pass.
        seed: Seed of the random draw and folds.
    """

    forget: NamedSet
    retain: NamedSet | None = None
    heldout: NamedSet | None = None
    retain_heldout: NamedSet | None = None
    layers: Sequence[str] | None = None
    probe: ProbeKind = "logistic"
    regularisation: float = 1.0
    pooling: Pooling = "mean"
    folds: int = 4
    limit: int | None = None
    batch_size: int = 32
    seed: int = 0

    @property
    def roles(self) -> Roles:
        """The models to probe; the base comes first, because probes are trained on it."""
        return roles_of(("reference", self.reference), ("model", self.model), ("gold", self.gold))


def probe(attack: Probing, listener: Listener = unheard) -> ProbeResult:
    """Probe a model's features, and those of its base and gold alike.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included. Per layer: `identity`, the forget subjects among themselves; `crowd`, among all
        subjects; `detect.auc`, forget against retain; `reader`, `crowd` (or `identity`) by a reader of the reference's
        features; for retain images `crowd` and `reader` as utility.

    Raises:
        UserError: Sets, layers, gates or models are wrong, or features cannot be compared; all that can be is checked
            before a tower is loaded.
    """
    optional("sklearn", "attacks", "the attack probe")
    started = time.perf_counter()
    sets = {
        name: chosen
        for name, chosen in (
            ("forget", attack.forget),
            ("retain", attack.retain),
            ("heldout", attack.heldout),
            ("retain-heldout", attack.retain_heldout),
        )
        if chosen is not None
    }
    images: dict[str, list[Sample]] = {name: samples_of(each.records, role=name) for name, each in sets.items()}
    if attack.retain_heldout and not (attack.retain and attack.heldout):
        raise UserError("held-out retain views need `retain` and `heldout`", where="`retain_heldout`")
    gallery, warnings = build_gallery(
        images["forget"],
        images.get("retain", []),
        images.get("heldout", []),
        images.get("retain-heldout", []),
        folds=attack.folds,
        limit=attack.limit,
        seed=attack.seed,
    )
    kinds = _kinds(attack, gallery)
    layers = _layers(attack)
    check_gates(attack.gates, _known(attack, kinds, layers))

    facts: dict[Role, ModelFacts] = {}
    readers: dict[tuple[str, int], LinearReader] = {}
    stuck = 0
    device = resolve_device(attack.device)

    def measure(role: Role, stack: VisualStack) -> dict[str, Read]:
        nonlocal stuck
        _check_layers(stack, layers, stack.inventory.root)
        facts[role] = _facts(role, stack)
        found = {}
        for layer, values in layer_features(
            stack, gallery, layers, attack.pooling, attack.batch_size, listener
        ).items():
            found[layer], missed = _read(attack, gallery, kinds, values, layer, role, readers)
            stuck += missed
            listener(Event("probe", f"{role}: probed {layer}", {"model": role, "layer": layer}))
        return found

    def load(root: Path) -> VisualStack:
        return load_visual_stack(root, device=device, tower=attack.tower, projector=attack.projector)

    found = measure_each(attack.roles, load, measure, listener, doing="probing")
    metrics: list[Metric] = []
    order: tuple[Role, ...] = ("model", "reference", "gold")
    for role in order:
        if role in found:
            metrics += measured_metrics("" if role == "model" else f"{role}.", found[role], gallery, kinds)
    if "gold" in found:
        metrics += gaps(found["model"], found["gold"], gallery, kinds)
    if stuck:
        warnings.append(f"{stuck} probes did not converge; raise `regularisation`")
    counted = [sum(1 for mine in gallery.forget if mine == part) for part in (True, False)]
    return ProbeResult(
        models=[facts[role] for role in order if role in facts],
        sets=[set_facts(chosen, chosen, attack.salt) for chosen in sets.values()],
        settings=ProbeSettings(
            probe=attack.probe,
            regularisation=attack.regularisation,
            pooling=attack.pooling,
            layers=list(layers),
            splits=len(gallery.splits),
            tested_on="heldout" if attack.heldout else "folds",
            forget_subjects=len(gallery.people(forget=True)),
            forget_pictures=counted[0],
            retain_subjects=len(gallery.people(forget=False)),
            retain_pictures=counted[1],
            limit=attack.limit,
            device=str(device),
            seed=attack.seed,
        ),
        metrics=metrics,
        gates=judge_metrics(attack.gates, metrics),
        warnings=[*warnings, *_warnings(attack, kinds, layers, metrics)],
        versions={**versions(), "scikit-learn": version("scikit-learn")},
        seconds=round(time.perf_counter() - started, 3),
    )


def _kinds(attack: Probing, gallery: Gallery) -> tuple[str, ...]:
    mine, others = gallery.people(forget=True), gallery.people(forget=False)
    found = ["identity"] if len(mine) > 1 else []
    found += ["crowd"] if len(others) > 1 else []
    found += ["detect"] if others else []
    if not found:
        raise UserError(
            "the forget set has one subject only, and there are no others to compare with",
            expected="two or more subjects, or `retain`",
        )
    if attack.reference and found != ["detect"]:
        found.append("reader")
    return tuple(found)


def _layers(attack: Probing) -> tuple[str, ...]:
    """The layers to probe, known from config and shard headers alone."""
    split = split_checkpoint(take_inventory(attack.model), tower=attack.tower, projector=attack.projector)
    every = (*(f"layer.{index}" for index in range(len(find_layers(split)))), *outputs_of(split))
    unknown = [layer for layer in attack.layers or () if layer not in every]
    if unknown:
        raise UserError("no such layer", where="`layers`", value=unknown[0], expected="one of " + ", ".join(every))
    return tuple(layer for layer in every if attack.layers is None or layer in attack.layers)


def _check_layers(stack: VisualStack, layers: Sequence[str], root: Path) -> None:
    absent = [layer for layer in layers if layer not in stack.layers]
    if absent:
        raise UserError(
            "this model cannot be compared, because it does not have this layer",
            where=root,
            value=absent[0],
            expected="a checkpoint of the same architecture",
        )


def _read(
    attack: Probing,
    gallery: Gallery,
    kinds: Sequence[str],
    features: np.ndarray,
    layer: str,
    role: Role,
    readers: dict[tuple[str, int], LinearReader],
) -> tuple[Read, int]:
    from sklearn.metrics import roc_auc_score

    found = Read({}, [])
    stuck = 0

    def train(indices: Sequence[int], labels: Sequence[str], *, balanced: bool = False) -> LinearReader:
        nonlocal stuck
        made = LinearReader(attack.probe, attack.regularisation, balanced=balanced)
        made.fit(features[list(indices)], [labels[index] for index in indices])
        stuck += not made.converged
        return made

    def name(kind: str, reader: LinearReader, indices: Sequence[int]) -> None:
        said = reader.read(features[list(indices)])
        answers = found.right.setdefault(kind, {})
        answers |= {index: gallery.subjects[index] == who for index, who in zip(indices, said, strict=True)}

    sides = [FORGET if mine else OTHERS for mine in gallery.forget]
    for number, (shown, tested) in enumerate(gallery.splits):
        mine = [index for index in shown if gallery.forget[index]]
        asked = [index for index in tested if gallery.forget[index]]
        if "identity" in kinds:
            by_themselves = train(mine, gallery.subjects)
            name("identity", by_themselves, asked)
        if "crowd" in kinds:
            among_all = train(shown, gallery.subjects)
            name("crowd", among_all, tested)
        if "reader" in kinds:
            if role == "reference":
                readers[layer, number] = among_all if "crowd" in kinds else by_themselves
            reader = readers[layer, number]
            if reader.width != features.shape[1]:
                raise UserError(
                    f"the {role}'s features at {layer} have another width than the reference's",
                    value=features.shape[1],
                    expected=str(reader.width),
                )
            name("reader", reader, tested if "crowd" in kinds else asked)
        if "detect" in kinds:
            # Sorted, "forget" comes before "others", so a high score means others.
            scores = train(shown, sides, balanced=True).score(features[list(tested)])
            truth = [gallery.forget[index] for index in tested]
            if 0 < sum(truth) < len(truth):
                found.areas.append(float(roc_auc_score(truth, -scores)))
    return found, stuck


def _known(attack: Probing, kinds: Sequence[str], layers: Sequence[str]) -> list[str]:
    own = []
    for layer in layers:
        row = row_of(layer)
        own += [f"probe.{row}.{kind}.accuracy" for kind in kinds if kind in FORGET_KINDS]
        own += [f"probe.{row}.detect.auc"] if "detect" in kinds else []
        own += [
            f"probe.retain.{row}.{kind}.accuracy" for kind in ("crowd", "reader") if "crowd" in kinds and kind in kinds
        ]
    known = list(own)
    known += [f"{role}.{name}" for role, _ in attack.roles if role != "model" for name in own]
    return known + ([f"gap.{name}" for name in own] if attack.gold else [])


def _facts(role: Role, stack: VisualStack) -> ModelFacts:
    inventory = stack.inventory
    return ModelFacts(
        role=role,
        model_type=stack.split.model_type,
        weights_digest=weights_digest(inventory.root, inventory.shards),
        dtype="float32",
    )


def _warnings(attack: Probing, kinds: Sequence[str], layers: Sequence[str], metrics: Sequence[Metric]) -> list[str]:
    found = missing_warnings(has_retain=attack.retain is not None, has_gold=attack.gold is not None)
    by_id: Mapping[str, Metric] = {metric.id: metric for metric in metrics}
    last = row_of(layers[-1])
    for kind in (kind for kind in kinds if kind in FORGET_KINDS):
        name = f"probe.{last}.{kind}.accuracy"
        own, base, gold = (by_id.get(f"{role}{name}") for role in ("", "reference.", "gold."))
        if kind != "reader" and gold is not None and gold.chance is not None and (gold.low or 0.0) > gold.chance:
            found.append(
                f"{kind} at {layers[-1]}: gold, which never saw these subjects, is read at {gold.value:.3f} (chance "
                f"{gold.chance:.3f}): a probe finds any face apart, so only the gap to gold counts"
            )
        low, high = base.low if base else None, gold.high if gold else None
        if base and gold and low is not None and high is not None and low <= high:
            found.append(
                f"{kind} at {layers[-1]}: reference ({base.value:.3f}) and gold ({gold.value:.3f}) lie within each "
                "other's noise, so this probe cannot tell forgetting from never having known"
            )
        if kind == "reader" and own is not None and own.chance is not None and (own.low or 0.0) > own.chance:
            found.append(
                f"a reader of the reference's features still names the forgotten at {layers[-1]}: {own.value:.3f}, "
                f"chance {own.chance:.3f}"
            )
    if attack.reference is None:
        found.append("no base was given (`base`), so no reader of the old features was tried")
    return found
