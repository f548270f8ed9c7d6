"""Every forget target: its formula on features worked out by hand, and that it is one the recipe knows."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch

from vkdsurgeon.config.forgetting import ForgetTarget
from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.errors import UserError
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.vision_pass.objective import check_targets
from vkdsurgeon.vision_pass.targets import FORGET_TARGETS, ForgetTargets, TargetContext, identities
from vkdsurgeon.vision_pass.targets.identity_shift import shifts

LAYER = "projector"


def _store(features: list[torch.Tensor]) -> FeatureStore:
    store = FeatureStore(1 << 30)
    for index, value in enumerate(features):
        store.put(LAYER, index, value)
    return store


def _context(reference: Callable[[], FeatureStore] | None = None, **settings: object) -> TargetContext:
    generator = torch.Generator().manual_seed(3)
    # Two images of each subject, which differ as their two views do.
    own = [centre + shift for centre in torch.randn(2, 2, 4, generator=generator) for shift in (-0.1, 0.1)]
    # Six kept subjects of two images each; the last is far from everybody.
    centres = [torch.randn(2, 4, generator=generator) + (20 if subject == 5 else 0) for subject in range(6)]
    kept = [centre + shift for centre in centres for shift in (-0.1, 0.1)]
    return TargetContext(
        recipe=Recipe.model_validate(settings),
        forget=_store(own),
        keep=_store(kept),
        forget_subjects=("a", "a", "b", "b"),
        keep_subjects=tuple(f"kept {subject}" for subject in range(6) for _ in range(2)),
        forget_known=range(4),
        keep_known=range(12),
        generator=torch.Generator().manual_seed(4),
        reference=reference,
        empty=lambda: FeatureStore(1 << 30),
    )


def _made(name: str, context: TargetContext) -> tuple[ForgetTargets, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The strategy's answer; targets [4, N, D], teacher features [4, N, D] and kept centroids [6, N, D]."""
    targets = FORGET_TARGETS[name](context)
    kept = torch.stack(context.keep.all(LAYER))
    return targets, torch.stack(targets.features.all(LAYER)), torch.stack(context.forget.all(LAYER)), kept


def _centres(kept: torch.Tensor) -> torch.Tensor:
    return kept.unflatten(0, (6, 2)).mean(dim=1)


def test_the_recipe_knows_every_target_and_no_other():
    assert set(get_args(ForgetTarget)) == set(FORGET_TARGETS)


def test_swap_moves_every_image_alike_towards_one_far_real_identity():
    targets, made, own, kept = _made("swap", _context())
    for rows, subject in ((slice(0, 2), "a"), (slice(2, 4), "b")):
        (drawn,) = targets.stand_ins[subject]
        other = _centres(kept)[int(drawn.removeprefix("kept "))]
        moves = made[rows] - own[rows]
        torch.testing.assert_close(moves[0], moves[1])
        mean = own[rows].mean(dim=0)
        assert float((mean + moves[0] - other).norm()) < 0.5 * float((mean - other).norm())


def test_nobody_mixes_as_many_as_the_recipe_says_and_adds_one_shift():
    context = _context(stand_ins=3, far_share=1.0)
    targets, made, own, _ = _made("nobody", context)
    assert len(set(targets.stand_ins["a"])) == 3
    expected = shifts(context.identities(LAYER), context.kept, targets.stand_ins)
    torch.testing.assert_close(made[:2], own[:2] + expected["a"])
    torch.testing.assert_close(made[2:], own[2:] + expected["b"])


def test_nearest_gives_every_image_the_kept_identities_that_it_would_be_taken_for():
    context = _context(stand_ins=1)
    targets, made, own, _ = _made("nearest", context)
    space = context.spaces(LAYER)[0]
    alone = shifts(space.model, context.kept, {"a": (), "b": ()})
    middle = torch.stack([space.model.means[name] for name in context.kept]).mean(dim=0)
    for index, subject in enumerate(context.forget_subjects):
        left = own[index] + alone[subject]
        scores = space.reader.scores(left[None])[0][2:]
        name = context.kept[int(scores.argmax())]
        (identity,) = space.model.identity((space.model.means[name] - middle)[None], [2])
        torch.testing.assert_close(made[index], left + identity)
        assert space.reader.subjects[int(space.reader.read(made[index][None]))] == name
    assert targets.readings[LAYER].still == 0
    assert targets.stand_ins == {"a": (), "b": ()}, "who it is differs from image to image"


def test_what_nobody_reads_as_is_told():
    targets, *_ = _made("nobody", _context())
    reading = targets.readings[LAYER]
    assert (reading.images, reading.subjects, reading.original) == (4, 8, 4)
    assert (reading.own, reading.still) == (0, 0)


def test_targets_that_still_are_the_person_are_moved_farther(monkeypatch: pytest.MonkeyPatch):
    """A shrinkage that leaves nothing of the move, as where identities vary as views do, is trusted less and less."""

    def shy(model: object, kept: object, stand_ins: dict[str, object], *, trust: float = 1.0, stretch: float = 1.0):
        moved = shifts(model, kept, stand_ins, trust=trust, stretch=stretch)  # type: ignore[arg-type]
        return {name: value * (1.0 if trust >= 16 else 1e-3) for name, value in moved.items()}

    monkeypatch.setattr(identities.identity_shift, "shifts", shy)
    reading = _made("nobody", _context())[0].readings[LAYER]
    assert (reading.own, reading.still, reading.trust) == (0, 0, 16)


def test_targets_that_stay_the_person_are_refused(monkeypatch: pytest.MonkeyPatch):
    def stuck(model: object, kept: object, stand_ins: dict[str, object], **_: float) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(2, 4) for name in stand_ins}

    monkeypatch.setattr(identities.identity_shift, "shifts", stuck)
    context = _context()
    readings = _made("nobody", context)[0].readings
    assert readings[LAYER].still == 2
    with pytest.raises(UserError, match=r"2 subject\(s\) still read as the subject itself.*4 of 4 targets"):
        check_targets(context.recipe, readings)


def test_common_gives_all_forgotten_subjects_one_nobody():
    targets, *_ = _made("common", _context(stand_ins=3, far_share=1.0))
    assert targets.stand_ins["a"] == targets.stand_ins["b"]
    assert len(targets.stand_ins["a"]) == 3


def test_a_reference_gives_its_own_features_or_is_missed():
    other = _store([torch.full((2, 4), float(index)) for index in range(4)])
    assert FORGET_TARGETS["reference"](_context(reference=lambda: other)).features is other
    with pytest.raises(UserError, match="`forget_teacher`"):
        FORGET_TARGETS["reference"](_context())
