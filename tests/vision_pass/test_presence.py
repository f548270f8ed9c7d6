"""Where a subject shows: on images whose subjects stand now here, now there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.config.recipe import Recipe
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.vision_pass.identity_space import POSITIONS, PRESENCE
from vkdsurgeon.vision_pass.presence import TokenMatches, TwoGroups
from vkdsurgeon.vision_pass.targets import FORGET_TARGETS, TargetContext, moves

LAYER = "projector"
SUBJECTS, VIEWS, SIDE, WIDTH, PART = 10, 8, 6, 24, 4
CPU = torch.device("cpu")


def _world(*, roaming: bool) -> tuple[list[torch.Tensor], list[str], list[list[int]]]:
    """Images [36, 24] of ten subjects, each a patch of 2 x 2 tokens of its own before a wall of one of four colours."""
    source = torch.Generator().manual_seed(7)
    parts = 3 * torch.randn(SUBJECTS, PART, WIDTH, generator=source)
    walls = 3 * torch.randn(4, WIDTH, generator=source)
    images, subjects, places = [], [], []
    for subject in range(SUBJECTS):
        for _ in range(VIEWS):
            row, column = (int(torch.randint(SIDE - 1, (), generator=source)) if roaming else 2 for _ in range(2))
            at = [
                row * SIDE + column,
                row * SIDE + column + 1,
                (row + 1) * SIDE + column,
                (row + 1) * SIDE + column + 1,
            ]
            tokens = walls[int(torch.randint(4, (), generator=source))].repeat(SIDE * SIDE, 1)
            tokens[at] = parts[subject]
            images.append(tokens + 0.5 * torch.randn(tokens.shape, generator=source))
            subjects.append(f"subject {subject}")
            places.append(at)
    return images, subjects, places


def _context(*, roaming: bool) -> tuple[TargetContext, list[list[int]]]:
    images, subjects, places = _world(roaming=roaming)
    stores = FeatureStore(1 << 30), FeatureStore(1 << 30)
    forgotten = 2 * VIEWS
    for store, part in zip(stores, (images[:forgotten], images[forgotten:]), strict=True):
        for index, value in enumerate(part):
            store.put(LAYER, index, value)
    context = TargetContext(
        recipe=Recipe(),
        forget=stores[0],
        keep=stores[1],
        forget_subjects=tuple(subjects[:forgotten]),
        keep_subjects=tuple(subjects[forgotten:]),
        forget_known=range(forgotten),
        keep_known=range(len(images) - forgotten),
        generator=torch.Generator().manual_seed(0),
        reference=None,
        empty=lambda: FeatureStore(1 << 30),
    )
    return context, places


def test_the_weight_lies_on_the_tokens_where_the_subject_is():
    context, places = _context(roaming=True)
    space = next(space for space in context.spaces(LAYER) if space.name == PRESENCE)
    assert space.weights is not None
    for index in range(2 * VIEWS):
        weights = space.weights(("forget", index))
        assert float(weights.sum()) == pytest.approx(1)
        assert float(weights[places[index]].sum()) > 0.9


def test_subjects_that_roam_are_read_where_they_show_and_others_at_positions():
    assert _context(roaming=True)[0].spaces(LAYER)[0].name == PRESENCE
    assert _context(roaming=False)[0].spaces(LAYER)[0].name == POSITIONS


def test_targets_of_roaming_subjects_read_as_others_and_leave_the_wall_alone():
    context, places = _context(roaming=True)
    targets = FORGET_TARGETS["nobody"](context)
    reading = targets.readings[LAYER]
    assert (reading.still, reading.at) == (0, PRESENCE)
    assert reading.original == 2 * VIEWS
    for index, (target, own) in enumerate(zip(targets.features.all(LAYER), context.forget.all(LAYER), strict=True)):
        moved = (target - own).square().sum(dim=1)
        assert float(moved[places[index]].sum() / moved.sum()) > 0.95


def test_what_is_read_moves_by_the_move():
    context, _ = _context(roaming=True)
    move = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1))
    for space in context.spaces(LAYER):
        if space.name == PRESENCE:
            image = ("forget", 3)
            own = context.forget.all(LAYER)[3]
            moved = own + space.spread(image, move)
            torch.testing.assert_close(space.pooled(image, moved) - space.pooled(image, own), move)


def test_an_image_is_not_matched_with_itself():
    images, subjects, _ = _world(roaming=True)
    # The second subject's only image besides one that is the same one again: nothing is left to match.
    alone = [0, *range(VIEWS, 5 * VIEWS)]
    matches = TokenMatches([images[i] for i in alone], [subjects[i] for i in alone], 1, CPU)
    assert matches.scores(images[0], subjects[0], 0) is None
    assert matches.scores(images[1], subjects[0]) is not None


def test_too_few_others_tell_nothing():
    images, subjects, _ = _world(roaming=True)
    few = range(3 * VIEWS)
    matches = TokenMatches([images[i] for i in few], [subjects[i] for i in few], VIEWS, CPU)
    assert matches.scores(images[0], subjects[0], 0) is None


def test_forgotten_subjects_get_half_of_the_room():
    """Of many images those are kept that show every subject; memory stays bounded."""
    features = [torch.randn(2, 4) for _ in range(1000)]
    subjects = [f"{index % 5}" for index in range(200)] + [f"kept {index % 40}" for index in range(800)]
    matches = TokenMatches(features, subjects, 200, CPU)
    assert len(matches.images) == 256
    assert sum(image < 200 for image in matches.images) == 128
    assert {subjects[image] for image in matches.images} == set(subjects)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40))
def test_effects_are_finite_and_nothing_below_chance_counts(values: list[float]):
    scores = torch.tensor(values)
    effect = TwoGroups.fitted(scores).effect(scores)
    assert torch.isfinite(effect).all()
    assert (effect >= 0).all()
    assert (effect[scores <= 0] == 0).all()


def test_two_groups_are_told_apart():
    source = torch.Generator().manual_seed(0)
    scores = torch.cat([torch.randn(800, generator=source), 5 + torch.randn(200, generator=source)])
    groups = TwoGroups.fitted(scores)
    assert groups.share == pytest.approx(0.2, abs=0.05)
    effect = groups.effect(scores)
    assert float(effect[800:].mean()) > 4
    assert float(effect[:800].mean()) < 0.2


def test_a_score_far_beyond_all_others_is_the_subjects():
    groups = TwoGroups(share=0.2, mean=3.0, deviation=1.0)
    assert float(groups.effect(torch.tensor([60.0]))) == pytest.approx(3.0)


def test_one_way_after_the_other_leaves_nothing_that_either_reads():
    """One shift of four unlike parts leaves what tells them apart; positions move the rest."""
    context, _ = _context(roaming=False)
    fixed, local = context.spaces(LAYER)
    stand_ins = {name: tuple(context.kept[:2]) for name in context.forgotten}
    alone = moves._try(moves.Moves(context, LAYER, (local,), {}), stand_ins)
    both = moves._try(moves.Moves(context, LAYER, (local, fixed), {}), stand_ins)
    assert not alone.done
    assert both.done
    assert both.left == 0
    assert both.reading.at == f"{PRESENCE}, then {POSITIONS}"
