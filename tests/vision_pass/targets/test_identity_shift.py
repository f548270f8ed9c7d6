"""Forget targets: the formula, and that nobody is somebody else for every subject."""

import pytest
import torch

from vkdsurgeon.errors import UserError
from vkdsurgeon.vision_pass.identity_classifier import IdentityModel, IdentityReader, centroids
from vkdsurgeon.vision_pass.identity_space import POSITIONS, IdentitySpace, KnownImages
from vkdsurgeon.vision_pass.target_readings import read_all
from vkdsurgeon.vision_pass.targets.identity_shift import draw_stand_ins, shifts


def _identities(count: int, tokens: int = 3, width: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"kept {number}": torch.randn(tokens, width, generator=generator) for number in range(count)}


def test_centroids_are_means_per_subject_and_token():
    features = [torch.full((2, 3), value) for value in (1.0, 3.0, 10.0)]
    means = centroids(features, ["a", "a", "b"], per_token=True)
    assert list(means) == ["a", "b"]
    assert torch.equal(means["a"], torch.full((2, 3), 2.0))
    pooled = centroids([torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])], ["a", "a"], per_token=False)
    assert pooled["a"].tolist() == [[3.5]]


def test_the_shift_follows_the_formula_where_no_view_is_known():
    means = _identities(9)
    model = IdentityModel(list(means.values()), list(means), means)
    drawn = ("kept 2", "kept 7")
    kept = [name for name in means if name != "kept 0"]
    middle = torch.stack([means[name] for name in kept]).mean(0)
    nu = middle + 2**0.5 * ((means["kept 2"] + means["kept 7"]) / 2 - middle)
    assert model.count == 0
    moves = shifts(model, kept, {"kept 0": drawn})
    torch.testing.assert_close(moves["kept 0"], nu - means["kept 0"])
    torch.testing.assert_close(shifts(model, kept, {"kept 0": drawn}, stretch=2.0)["kept 0"], 2 * moves["kept 0"])


def test_without_stand_ins_the_identity_is_taken_out_and_nothing_put_in_its_place():
    means = _identities(9)
    model = IdentityModel(list(means.values()), list(means), means)
    kept = [name for name in means if name not in ("kept 0", "kept 1")]
    middle = torch.stack([means[name] for name in kept]).mean(0)
    moves = shifts(model, kept, {"kept 0": (), "kept 1": ("kept 4",)})
    torch.testing.assert_close(moves["kept 0"], middle - means["kept 0"])
    torch.testing.assert_close(moves["kept 1"], means["kept 4"] - means["kept 1"])


def _images_with_two_views(per_token: bool) -> tuple[list[torch.Tensor], list[str], torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    view = torch.randn(4, 6, generator=generator)
    features, subjects = [], []
    for subject in range(5):
        identity = torch.randn(4, 6, generator=generator)
        for side in (-1.0, 1.0, 2.0):
            features.append(identity + side * view + 1e-3 * torch.randn(4, 6, generator=generator))
            subjects.append(f"s{subject}")
    return features, subjects, view if per_token else view.mean(0, keepdim=True)


@pytest.mark.parametrize("per_token", [True, False])
def test_what_only_views_vary_in_is_left_out_and_the_rest_is_kept(per_token: bool):
    features, subjects, view = _images_with_two_views(per_token)
    model = IdentityModel(features, subjects, centroids(features, subjects, per_token=per_token))
    assert float(model.between[-1]) < 0.1 * float(model.within[-1]), "nobody differs along the view"
    move = torch.randn(view.shape, generator=torch.Generator().manual_seed(9))
    (left,) = model.identity((move + 10 * view)[None], [3])
    assert abs(float((left * view).sum())) < 0.1 * float(view.norm() * left.norm())
    (everything,) = model.identity(move[None], [float("inf")])
    torch.testing.assert_close(everything, move, rtol=1e-3, atol=1e-3)


def test_identity_along_a_view_direction_is_kept_as_far_as_means_are_trusted():
    generator = torch.Generator().manual_seed(3)
    direction = torch.zeros(2, 5)
    direction[0, 0] = 1
    sizes = torch.randn(400, generator=generator) * 2.0
    features, subjects = [], []
    for subject, size in enumerate(sizes.tolist()):
        for _ in range(4):
            noise = 1e-3 * torch.randn(2, 5, generator=generator)
            features.append((size + 3.0 * float(torch.randn((), generator=generator))) * direction + noise)
            subjects.append(f"s{subject}")
    model = IdentityModel(features, subjects, centroids(features, subjects, per_token=True))
    # b = 4, w = 9: the shares are b / (b + w / n).
    for views, share in ((1, 4 / 13), (4, 4 / (4 + 9 / 4)), (100, 4 / 4.09)):
        (left,) = model.identity(direction[None], [views])
        assert float(left[0, 0]) == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize("per_token", [True, False])
def test_subjects_are_read_where_views_vary_far_more_than_identities(per_token: bool):
    generator = torch.Generator().manual_seed(5)
    view = 30 * torch.randn(4, 30, generator=generator)
    features, subjects, held_out = [], [], []
    for subject in range(8):
        identity = torch.randn(1, 30, generator=generator).expand(4, 30)
        for count in range(7):
            size = float(torch.randn((), generator=generator))
            value = identity + size * view + 0.1 * torch.randn(4, 30, generator=generator)
            (held_out if count == 6 else features).append(value)
            if count < 6:
                subjects.append(f"s{subject}")
    means = centroids(features, subjects, per_token=per_token)
    reader = IdentityReader(IdentityModel(features, subjects, means), list(means))
    assert reader.chance == 1 / 8
    assert read_all(reader, held_out).tolist() == list(range(8))
    assert reader.indices(["s3", "nobody"]).tolist() == [3, -1]
    flat, seen = torch.stack(list(means.values())).flatten(1), torch.stack(held_out)
    plain = torch.cdist(seen.flatten(1) if per_token else seen.mean(dim=1), flat)
    assert plain.argmin(dim=1).tolist() != list(range(8)), "the plain distance is ruled by the views"


@pytest.mark.parametrize(("few", "others", "views_vary"), [(1, 10, 0), (2, 10, 0), (4, 10, 0), (2, 80, 0), (2, 80, 8)])
def test_who_is_known_from_many_images_is_not_read_everywhere(few: int, others: int, views_vary: int):
    generator = torch.Generator().manual_seed(2)
    views = {"many": 12, **{f"few {number}": few for number in range(others)}}
    identities = {name: 0.8 * torch.randn(1, 60, generator=generator) for name in views}
    wide = views_vary * torch.eye(60)[:4]

    def image(name: str | None) -> torch.Tensor:
        identity = 0.8 * torch.randn(1, 60, generator=generator) if name is None else identities[name]
        view = torch.randn(1, 60, generator=generator) + torch.randn(1, 4, generator=generator) @ wide
        return identity + view

    subjects = tuple(name for name, count in views.items() for _ in range(count))
    rows = [image(name) for name in subjects]
    images = tuple(("forget" if name == "many" else "retain", index) for index, name in enumerate(subjects))
    space = IdentitySpace(POSITIONS, KnownImages(images, subjects, forgotten=12), lambda which: rows[which[1]])
    plain = IdentityReader(space.model, space.reader.subjects)
    strangers = [image(None) for _ in range(200)]

    def as_many(reader: IdentityReader, seen: list[torch.Tensor]) -> int:
        return int((read_all(reader, seen) == reader.indices(["many"])).sum())

    chance = 200 / (others + 1)
    assert as_many(plain, strangers) > 1.9 * chance
    # The reader of the last fold was made from all images of the others.
    for reader in (space.reader, space._folded[3]):
        assert as_many(reader, strangers) < 1.6 * chance + 5
        assert as_many(reader, [image("many") for _ in range(200)]) > 150
    assert int(space.own(range(12), rows[:12]).sum()) >= 8


def test_subjects_with_one_image_show_no_views_and_nothing_is_shrunk():
    features = list(torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)))
    subjects = ["a", "b", "c", "d"]
    model = IdentityModel(features, subjects, centroids(features, subjects, per_token=True))
    assert model.count == 0
    torch.testing.assert_close(model.identity(features[0][None], [1])[0], features[0])


def test_identical_images_show_no_views():
    features = [torch.ones(3, 8)] * 4
    model = IdentityModel(features, ["a", "a", "b", "b"], centroids(features, ["a", "a", "b", "b"], per_token=True))
    assert model.count == 0


def test_stand_ins_come_from_the_farthest_share():
    kept = {f"kept {number}": torch.full((1, 2), float(number)) for number in range(9)}
    draws = set()
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        drawn = draw_stand_ins({"p": torch.zeros(1, 2)}, kept, count=2, far_share=1 / 3, generator=generator)["p"]
        assert len(set(drawn)) == 2
        assert set(drawn) <= {"kept 6", "kept 7", "kept 8"}
        draws.add(drawn)
    assert len(draws) > 1, "the seed has a say"


def test_no_stand_ins_need_one_identity_all_the_same():
    drawn = {"generator": torch.Generator(), "count": 0, "far_share": 0.5}
    assert draw_stand_ins({"p": torch.zeros(1, 2)}, {"q": torch.ones(1, 2)}, **drawn) == {"p": ()}
    with pytest.raises(UserError, match="too few retain identities"):
        draw_stand_ins({"p": torch.zeros(1, 2)}, {}, **drawn)


def test_too_few_identities_are_refused():
    with pytest.raises(UserError, match="too few retain identities"):
        draw_stand_ins({"p": torch.zeros(1, 2)}, _identities(1), count=2, far_share=0.5, generator=torch.Generator())
