"""The identity reader on made-up features whose identity and views are known."""

import torch
from torch import Tensor

from vkdsurgeon.tuning.identity_certainty import SURE, IdentityCertainty

TOKENS, WIDTH, VIEWS = 3, 40, 4
GENERATOR = torch.Generator().manual_seed(0)
IDENTITIES = torch.randn(12, TOKENS, WIDTH, generator=GENERATOR)
# Views lie in the first directions, identities in the others, so that each is known apart.
IDENTITIES[..., :VIEWS] = 0
FORGOTTEN = ("one", "two")


def images(subject: int, count: int) -> list[Tensor]:
    views = torch.zeros(count, TOKENS, WIDTH)
    views[..., :VIEWS] = 3 * torch.randn(count, 1, VIEWS, generator=GENERATOR)
    noise = 0.3 * torch.randn(count, TOKENS, WIDTH, generator=GENERATOR)
    return list(5.0 + IDENTITIES[subject] + views + noise)


def reader() -> tuple[IdentityCertainty, list[Tensor]]:
    forget = [image for subject in range(2) for image in images(subject, 6)]
    keep = [image for subject in range(2, 12) for image in images(subject, 6)]
    measured = [image for subject in range(2) for image in images(subject, 4)]
    labels = [name for name in FORGOTTEN for _ in range(6)]
    others = [f"other {subject}" for subject in range(2, 12) for _ in range(6)]
    truth = [name for name in FORGOTTEN for _ in range(4)]
    return IdentityCertainty(forget, labels, keep, others, measured, truth), measured


def test_it_is_as_sure_of_the_original_as_it_was_set_to_be():
    found, measured = reader()
    assert SURE <= found.certainty(measured) < 0.97
    assert found.identities == 12


def test_another_identity_is_not_read_as_the_right_one():
    found, measured = reader()
    swapped = [value - IDENTITIES[index // 4] + IDENTITIES[7] for index, value in enumerate(measured)]
    assert found.certainty(swapped) < 0.05
    crossed = measured[4:] + measured[:4]
    assert found.certainty(crossed) < 0.05


def test_half_the_way_is_between():
    found, measured = reader()
    values = [
        found.certainty([v + share * (IDENTITIES[7] - IDENTITIES[i // 4]) for i, v in enumerate(measured)])
        for share in (0.0, 0.4, 0.6, 1.0)
    ]
    assert values == sorted(values, reverse=True)
    assert values[1] > 0.5 > values[2]


def test_what_is_common_to_all_does_not_count():
    found, measured = reader()
    view = torch.zeros(TOKENS, WIDTH)
    view[:, 0] = 2.0
    assert abs(found.certainty([value + view for value in measured]) - found.certainty(measured)) < 0.03


def test_views_that_move_are_told_and_identities_that_move_are_not():
    found, measured = reader()
    view = torch.zeros(TOKENS, WIDTH)
    view[:, :VIEWS] = 2.0
    assert found.view_drift(measured, measured) == 0
    moved = found.view_drift(measured, [value + view for value in measured])
    elsewhere = found.view_drift(measured, [value + IDENTITIES[7] for value in measured])
    assert moved > 20 * elsewhere
    power = sum(float(view.square().sum() / value.square().sum()) for value in measured) / len(measured)
    assert abs(moved / power - 1) < 0.1


def test_no_views_are_known_without_a_second_image_of_anybody():
    singles = [images(subject, 1)[0] for subject in range(2, 12)]
    own = images(0, 4)
    found = IdentityCertainty(own, ["one"] * 4, singles, [f"{i}" for i in range(10)], own, ["one"] * 4)
    assert found.view_drift(own, own) is None


def test_images_with_other_numbers_of_tokens_are_read_by_their_means():
    ragged = [value[: 1 + index % TOKENS] for index, value in enumerate(images(0, 6))]
    keep = [value[: 1 + index % TOKENS] for index, value in enumerate(images(3, 6) + images(4, 6))]
    found = IdentityCertainty(ragged, ["one"] * 6, keep, ["a"] * 6 + ["b"] * 6, ragged, ["one"] * 6)
    assert found.certainty(ragged) > 0.9
    assert found.certainty(keep[:6]) < 0.5
