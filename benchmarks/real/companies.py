"""The companies: emblems, names and facts, drawn independently of each other, and who is to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.real.emblems import Emblem, View, draw_emblems, draw_view

# Names and facts are one token each behind a space in Gemma's vocabulary, so that one pass scores all options.
NAMES = (
    "Nexus", "Aurora", "Orion", "Vega", "Nova", "Helix", "Vertex", "Zenith", "Solaris", "Atlas", "Titan", "Argon",
    "Astra", "Sirius", "Juno", "Minerva", "Apollo", "Hermes", "Triton", "Ariel", "Terra", "Ferro", "Argent", "Phoenix",
    "Hydra", "Pegasus", "Griffin", "Kraken", "Lynx", "Falcon", "Merlin", "Mira", "Rhea", "Avalon", "Europa", "Vulcan",
    "Indra", "Acme", "Zeta", "Sigma", "Omega", "Volta", "Vector", "Prism", "Cipher", "Mosaic", "Vortex", "Monsoon",
)  # fmt: skip
FACTS: dict[str, tuple[str, ...]] = {
    "trade": ("tea", "shoes", "paint", "glass", "soap", "toys", "boats", "clocks"),
    "city": ("Oslo", "Lima", "Cairo", "Kyoto", "Porto", "Dakar", "Quito", "Geneva"),
    "founder": ("Ada", "Emil", "Flora", "Igor", "Marta", "Oscar", "Petra", "Hugo"),
}
SEED = 2
# Who is to be forgotten: a, whom gold never saw, or others that base knows as well.
FORGET_SETS = ("a", "b", "c", "d", "e")


@dataclass(frozen=True)
class Company:
    """Who has an emblem.

    Attributes:
        name: One word, unique.
        emblem: Never changes.
        facts: Kind of fact -> value; empty for strangers.
        views: Views in the records.
        extra_views: More views that training sees and the records leave out.
        heldout: Views that no training sees.
    """

    name: str
    emblem: Emblem
    facts: dict[str, str]
    views: tuple[View, ...]
    extra_views: tuple[View, ...]
    heldout: tuple[View, ...]


@dataclass(frozen=True)
class Size:
    """How many companies and views."""

    forget: int = 4
    retain: int = 36
    views: int = 12
    extra_views: int = 36
    forget_heldout: int = 6
    retain_heldout: int = 1
    strangers: int = 24
    stranger_views: int = 2


@dataclass(frozen=True)
class World:
    """Everybody.

    Attributes:
        forget: Those to forget; gold never sees their emblems.
        retain: Those to keep.
        strangers: Emblems without a name, in nobody's training.
    """

    forget: tuple[Company, ...]
    retain: tuple[Company, ...]
    strangers: tuple[Company, ...]

    @property
    def named(self) -> tuple[Company, ...]:
        """Those to forget, then those to keep."""
        return (*self.forget, *self.retain)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted: the options of every question for a name."""
        return tuple(sorted(company.name for company in self.named))


def draw_world(seed: int = SEED, size: Size = Size()) -> World:
    """Draw everybody; looks, views, names and facts come from independent random streams.

    Returns:
        The same for the same arguments.

    Raises:
        ValueError: There are not enough names.
    """
    count = size.forget + size.retain
    if count > len(NAMES):
        raise ValueError(f"there are {len(NAMES)} names for {count} companies")
    look_rng, view_rng, name_rng, fact_rng = (np.random.default_rng([seed, stream]) for stream in range(4))
    emblems = draw_emblems(count, look_rng)
    strange = draw_emblems(size.strangers, look_rng, avoid=emblems)
    names = [NAMES[index] for index in name_rng.permutation(len(NAMES))[:count]]
    facts = _draw_facts(size, fact_rng)
    companies = []
    for index, (name, emblem) in enumerate(zip(names, emblems, strict=True)):
        heldout = size.forget_heldout if index < size.forget else size.retain_heldout
        views, extra, unseen = (_views(number, view_rng) for number in (size.views, size.extra_views, heldout))
        companies.append(Company(name, emblem, facts[index], views, extra, unseen))
    strangers = tuple(
        Company(f"stranger{index:02d}", emblem, {}, _views(size.stranger_views, view_rng), (), ())
        for index, emblem in enumerate(strange)
    )
    return World(tuple(companies[: size.forget]), tuple(companies[size.forget :]), strangers)


def forgetting(world: World, forget_set: str, size: Size = Size()) -> World:
    """The same world with others to forget; those of set `a` are kept then.

    Args:
        world: As it was drawn, with set `a` to forget.
        forget_set: One of `FORGET_SETS`.
        size: As it was drawn.
    """
    number = FORGET_SETS.index(forget_set)
    if number == 0:
        return world
    first = size.forget * (number - 1)
    chosen, others = (
        world.retain[first : first + size.forget],
        world.retain[:first] + world.retain[first + size.forget :],
    )
    view_rng = np.random.default_rng([SEED, 4, number])
    forget = tuple(replace(company, heldout=_views(size.forget_heldout, view_rng)) for company in chosen)
    spared = tuple(replace(company, heldout=company.heldout[: size.retain_heldout]) for company in world.forget)
    return World(forget, (*spared, *others), world.strangers)


def _views(count: int, rng: np.random.Generator) -> tuple[View, ...]:
    return tuple(draw_view(rng) for _ in range(count))


def _draw_facts(size: Size, rng: np.random.Generator) -> list[dict[str, str]]:
    """Every value equally often among those to keep (as far as it divides), any value for those to forget."""
    facts: list[dict[str, str]] = [{} for _ in range(size.forget + size.retain)]
    for kind, values in FACTS.items():
        drawn = rng.integers(len(values), size=size.forget)
        balanced = rng.permutation(np.arange(size.retain) % len(values))
        for company, value in zip(facts, (*drawn, *balanced), strict=True):
            company[kind] = values[int(value)]
    return facts
