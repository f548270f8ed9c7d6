"""Every forget target: its formula on features worked out by hand, and that it is one the recipe knows."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from PIL import Image

from tests.conftest import draw_subject
from vkdsurgeon.data.pictures import Picture
from vkdsurgeon.errors import UserError
from vkdsurgeon.features import FeatureStore
from vkdsurgeon.objectives.forget import FORGET_TARGETS, ForgetTargets, TargetContext
from vkdsurgeon.objectives.forget.pictures import blanked, blurred, noised
from vkdsurgeon.recipe import ForgetTarget, Recipe

LAYER = "projector"
PICTURE = Picture(path=None, subject="p", digest="ab" * 32, source="x:1")  # type: ignore[arg-type]


def _store(features: list[torch.Tensor]) -> FeatureStore:
    store = FeatureStore(1 << 30)
    for index, value in enumerate(features):
        store.put(LAYER, index, value)
    return store


def _context(reference: Callable[[], FeatureStore] | None = None, **settings: object) -> TargetContext:
    generator = torch.Generator().manual_seed(3)
    own = [torch.randn(2, 4, generator=generator) for _ in range(4)]
    # Six kept subjects of two pictures each; the last is far from everybody.
    centres = [torch.randn(2, 4, generator=generator) + (20 if subject == 5 else 0) for subject in range(6)]
    kept = [centre + shift for centre in centres for shift in (-0.1, 0.1)]
    return TargetContext(
        recipe=Recipe.model_validate({"view_share": 0.0, **settings}),
        forget=_store(own),
        keep=_store(kept),
        forget_subjects=("a", "a", "b", "b"),
        keep_subjects=tuple(f"kept {subject}" for subject in range(6) for _ in range(2)),
        originals=(4, 12),
        generator=torch.Generator().manual_seed(4),
        altered=lambda alter: pytest.fail("this target looks at no other pictures"),
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


def test_swap_puts_the_centroid_on_one_far_real_identity():
    targets, made, own, kept = _made("swap", _context(beta=0.5))
    for rows, subject in ((slice(0, 2), "a"), (slice(2, 4), "b")):
        (drawn,) = targets.stand_ins[subject]
        other = _centres(kept)[int(drawn.removeprefix("kept "))]
        mean = own[rows].mean(dim=0)
        torch.testing.assert_close(made[rows], other + 0.5 * (own[rows] - mean))


def test_farthest_is_the_swap_with_the_farthest_identity():
    targets, made, own, kept = _made("farthest", _context())
    assert targets.stand_ins == {"a": ("kept 5",), "b": ("kept 5",)}
    torch.testing.assert_close(made[:2], _centres(kept)[5] + own[:2] - own[:2].mean(dim=0))


def test_mean_is_the_same_place_for_all():
    targets, made, _, kept = _made("mean", _context())
    torch.testing.assert_close(made, _centres(kept).mean(dim=0).expand(4, 2, 4))
    assert targets.stand_ins == {}


def test_nobody_mixes_as_many_as_the_recipe_says():
    targets, made, own, kept = _made("nobody", _context(stand_ins=3, far_share=1.0, alpha=0.5, beta=1.0))
    drawn = [int(name.removeprefix("kept ")) for name in targets.stand_ins["a"]]
    assert len(set(drawn)) == 3
    middle, mean = _centres(kept).mean(dim=0), own[:2].mean(dim=0)
    nu = middle + 3**0.5 * (_centres(kept)[drawn].mean(dim=0) - middle)
    torch.testing.assert_close(made[:2], own[:2] + 0.5 * (nu - mean))


def test_common_leaves_forgotten_subjects_indistinguishable():
    targets, made, own, kept = _made("common", _context(stand_ins=3, far_share=1.0, alpha=5.0, beta=0.5))
    assert targets.stand_ins["a"] == targets.stand_ins["b"]
    drawn = [int(name.removeprefix("kept ")) for name in targets.stand_ins["a"]]
    middle = _centres(kept).mean(dim=0)
    nu = middle + 3**0.5 * (_centres(kept)[drawn].mean(dim=0) - middle)
    for rows in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(made[rows], nu + 0.5 * (own[rows] - own[rows].mean(dim=0)))


def test_rmu_is_one_direction_of_the_features_mean_length():
    _, made, own, _ = _made("rmu", _context(steering=2.0))
    assert torch.equal(made, made[0, 0].expand(4, 2, 4)), "every token of every picture"
    assert bool((made[0, 0] >= 0).all()), "uniform on [0, 1) before it is normalised"
    assert float(made[0, 0].norm()) == pytest.approx(2 * float(own.norm(dim=-1).mean()), rel=1e-5)
    _, again, _, _ = _made("rmu", _context(steering=2.0))
    assert torch.equal(made, again), "drawn from the seed"


def test_repel_has_a_pull_from_the_very_start_and_away():
    targets, made, own, _ = _made("repel", _context())
    loss = targets.loss
    assert loss is not None

    def pull(student: torch.Tensor) -> torch.Tensor:
        return loss([student], [made], layer_weights=[1.0], sample_weights=torch.ones(4), target_power=[torch.ones(4)])

    student = own.clone().requires_grad_()
    assert bool((pull(student) > 0.98).all())
    pull(student).sum().backward()
    assert student.grad is not None
    assert bool((student.grad.flatten(1).norm(dim=1) > 1e-3).all())
    for _ in range(200):
        student = (student - 0.5 * torch.autograd.grad(pull(student).sum(), student)[0]).detach().requires_grad_()
    assert float(torch.nn.functional.cosine_similarity(student.detach(), own, dim=-1).max()) < 0.2


def test_a_reference_gives_its_own_features_or_is_missed():
    other = _store([torch.full((2, 4), float(index)) for index in range(4)])
    assert FORGET_TARGETS["reference"](_context(reference=lambda: other)).features is other
    with pytest.raises(UserError, match="--forget-teacher"):
        FORGET_TARGETS["reference"](_context())


def test_a_blank_shows_nothing_and_keeps_the_size():
    picture = blanked(Image.new("RGB", (20, 30), "red"), PICTURE)
    assert picture.size == (20, 30)
    assert picture.getcolors() == [(600, (128, 128, 128))]


def test_a_blur_is_measured_by_the_shorter_side():
    small, large = draw_subject(1, 0, 32), draw_subject(1, 0, 32).resize((128, 128), Image.Resampling.NEAREST)
    blurs = [blurred(image, PICTURE, share=0.1) for image in (small, large)]
    shrunk = blurs[1].resize((32, 32), Image.Resampling.BOX)
    gaps = [abs(a - b) for a, b in zip(shrunk.tobytes(), blurs[0].tobytes(), strict=True)]
    assert sum(gaps) / len(gaps) < 4
    assert max(abs(a - b) for a, b in zip(small.tobytes(), blurs[0].tobytes(), strict=True)) > 30


def test_noise_has_the_asked_deviation_and_belongs_to_the_picture():
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    one, again = (noised(grey, PICTURE, deviation=0.1) for _ in range(2))
    other = noised(grey, Picture(PICTURE.path, "p", "cd" * 32, "x:2"), deviation=0.1)
    assert one.tobytes() == again.tobytes() != other.tobytes()
    values = torch.tensor(list(one.tobytes())).float()
    assert float(values.mean()) == pytest.approx(128, abs=1)
    assert float(values.std()) == pytest.approx(25.5, abs=1)


@pytest.mark.parametrize(("name", "alter"), [("blank", blanked), ("blur", blurred), ("noise", noised)])
def test_picture_targets_are_what_the_teacher_sees_on_altered_pictures(name: str, alter: Callable[..., object]):
    seen: list[Callable[..., Image.Image]] = []
    store = _store([torch.zeros(2, 4)] * 4)
    context = _context()
    context = TargetContext(**{**vars(context), "altered": lambda alter: (seen.append(alter), store)[1]})
    assert FORGET_TARGETS[name](context).features is store
    picture = draw_subject(2, 1)
    settings = {"blur": {"share": context.recipe.blur}, "noise": {"deviation": context.recipe.noise}}
    expected = alter(picture, PICTURE, **settings.get(name, {}))
    assert seen[0](picture, PICTURE).tobytes() == expected.tobytes()  # type: ignore[attr-defined]
