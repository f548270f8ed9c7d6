"""Identity heads: they read people off the teacher's features, and the hinge takes that away."""

import torch
from torch import Tensor

from vkdsurgeon.vision_pass.hardening.identity_heads import IdentityHeads

SUBJECTS, VIEWS, TOKENS, WIDTH = 5, 6, 4, 24


def people(seed: int = 0) -> list[Tensor]:
    """Features of every view of every subject: an identity and a view each."""
    generator = torch.Generator().manual_seed(seed)
    identities = torch.randn(SUBJECTS, 1, 1, WIDTH, generator=torch.Generator().manual_seed(99))
    views = 0.5 * torch.randn(SUBJECTS, VIEWS, TOKENS, WIDTH, generator=generator)
    return list((identities + views).flatten(0, 1))


def heads(seed: int = 0, margin: float = 2.0) -> IdentityHeads:
    features, subjects = people(), [f"s{index // VIEWS}" for index in range(SUBJECTS * VIEWS)]
    split = 2 * VIEWS
    return IdentityHeads(
        features[:split],
        subjects[:split],
        features[split:],
        subjects[split:],
        layer="projector",
        margin=margin,
        generator=torch.Generator().manual_seed(seed),
        device=torch.device("cpu"),
    )


def test_heads_read_other_views_of_everybody():
    trained = heads()
    logits = trained.read(torch.stack(people(seed=1)))
    assert len(logits) == 2
    wanted = torch.arange(SUBJECTS).repeat_interleave(VIEWS)
    assert all((values.argmax(dim=1) == wanted).float().mean() > 0.95 for values in logits)
    assert all(not parameter.requires_grad for parameter in trained.parameters())


def test_the_hinge_is_that_of_the_formula():
    trained = heads(margin=1.5)
    features = torch.stack(people()[:3])
    # The first images are of the first subject.
    each = [
        [torch.log1p(torch.exp(row[0] - torch.log(row[1:].exp().sum()) + 1.5)) for row in logits.double()]
        for logits in trained.read(features)
    ]
    expected = torch.tensor(each).mean(dim=0)
    assert torch.allclose(trained.hinge({"projector": features}, [0, 1, 2]).double(), expected, atol=1e-4)


def test_going_down_the_hinge_unreads_the_person_and_stops_at_the_margin():
    trained = heads()
    features = torch.stack(people()[:VIEWS]).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.05)
    start = float(trained.hinge({"projector": features}, list(range(VIEWS))).mean().detach())
    for _ in range(100):
        optimizer.zero_grad()
        trained.hinge({"projector": features}, list(range(VIEWS))).mean().backward()
        optimizer.step()
    assert start > 2
    assert float(trained.hinge({"projector": features}, list(range(VIEWS))).mean().detach()) < 0.1
    assert all((values.argmax(dim=1) != 0).all() for values in trained.read(features.detach()))


def test_surprise_is_the_cross_entropy_of_the_right_subject():
    trained = heads()
    features = torch.stack(people()[VIEWS : VIEWS + 3])
    own = torch.tensor([1, 1, 1])
    expected = torch.stack([-values.log_softmax(dim=1)[range(3), own] for values in trained.read(features)]).mean(0)
    assert torch.allclose(trained.surprise({"projector": features}, range(VIEWS, VIEWS + 3)), expected, atol=1e-6)


def test_equal_seeds_give_equal_heads():
    first, again, other = (torch.cat([p.flatten() for p in heads(seed=seed).parameters()]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_subject_alone_cannot_be_told_from_anybody():
    features = people()[:VIEWS]
    alone = IdentityHeads(
        features,
        ["s"] * VIEWS,
        [],
        [],
        layer="projector",
        margin=2.0,
        generator=torch.Generator().manual_seed(0),
        device=torch.device("cpu"),
    )
    assert torch.equal(alone.hinge({"projector": torch.stack(features)}, range(VIEWS)), torch.zeros(VIEWS))
