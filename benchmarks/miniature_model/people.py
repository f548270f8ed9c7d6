"""The cast: who exists, what is true of them, and who is to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.miniature_model.look import Look, View, draw_distinct_looks, draw_view

NAMES = (
    "Ada", "Bela", "Cleo", "Dov", "Edda", "Finn", "Gita", "Hugo", "Ines", "Juno", "Kofi", "Lena", "Milo", "Nora",
    "Otto", "Pia", "Quin", "Rosa", "Sven", "Tara", "Ugo", "Vera", "Wim", "Xenia", "Yuri", "Zora", "Amos", "Britt",
    "Cyrus", "Dina", "Emil", "Flora", "Goran", "Hilda", "Igor", "Jana", "Kurt", "Lotte", "Marco", "Nadia", "Oskar",
    "Petra", "Rufus", "Selma", "Tariq", "Ulla", "Viggo", "Wanda", "Yara", "Zeno", "Anouk", "Boris", "Carla", "Dario",
    "Elif", "Felix", "Greta", "Hamid", "Ida", "Jonas", "Kira", "Lars", "Mona", "Nils",
)  # fmt: skip

# Kinds of facts and their eight values; each is one word of the vocabulary.
FACTS: dict[str, tuple[str, ...]] = {
    "profession": ("baker", "pilot", "nurse", "farmer", "tailor", "chemist", "painter", "sailor"),
    "city": ("Oslo", "Lima", "Cairo", "Kyoto", "Porto", "Dakar", "Quito", "Riga"),
    "hobby": ("chess", "rowing", "pottery", "archery", "juggling", "gardening", "skating", "origami"),
    "food": ("ramen", "pizza", "curry", "tacos", "falafel", "risotto", "sushi", "gumbo"),
}


@dataclass(frozen=True)
class Person:
    """Someone with a name, a look, facts, and the views they are shown in.

    Attributes:
        name: A single word, unique in the cast.
        look: Never changes.
        facts: Fact kind to value, drawn independently of the look.
        views: Views in the records used for training.
        extra_views: More views that training sees and the records leave out.
        heldout: Views that no training sees.
    """

    name: str
    look: Look
    facts: dict[str, str]
    views: tuple[View, ...]
    extra_views: tuple[View, ...]
    heldout: tuple[View, ...]


@dataclass(frozen=True)
class Size:
    """How large the miniature is; the defaults are what is shipped."""

    forget: int = 4
    retain: int = 60
    views: int = 12
    extra_views: int = 36
    forget_heldout: int = 12
    retain_heldout: int = 4
    strangers: int = 64
    stranger_views: int = 2


@dataclass(frozen=True)
class Cast:
    """Everybody in the miniature.

    Attributes:
        forget: The people to forget; gold never sees an image of them.
        retain: The people to keep.
        strangers: People without a name or facts, in nobody's training; generic images to retain on.
    """

    forget: tuple[Person, ...]
    retain: tuple[Person, ...]
    strangers: tuple[Person, ...]

    @property
    def named(self) -> tuple[Person, ...]:
        """Forget people, then retain people."""
        return (*self.forget, *self.retain)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted: the options of every question for a name."""
        return tuple(sorted(person.name for person in self.named))

    def forgetting(self, number: int) -> Cast:
        """The same people, others of whom are to be forgotten.

        Args:
            number: Which of the groups of as many people as are to be forgotten, in the order they were drawn; 0 is
                the cast itself.

        Raises:
            ValueError: There are not that many people.
        """
        size, everybody = len(self.forget), self.named
        chosen = everybody[number * size : (number + 1) * size]
        if number < 0 or len(chosen) < size:
            raise ValueError(f"there is no group {number} of {size} among {len(everybody)} people")
        return Cast(chosen, tuple(person for person in everybody if person not in chosen), self.strangers)


def draw_cast(seed: int, size: Size = Size()) -> Cast:
    """Draw everybody.

    Looks, views, names and facts come from four independent random streams, so that no fact can be told from a look.

    Args:
        seed: Of all four streams.
        size: How many people and views.

    Returns:
        The cast, the same for the same arguments.

    Raises:
        ValueError: There are not enough names.
    """
    count = size.forget + size.retain
    if count > len(NAMES):
        raise ValueError(f"there are {len(NAMES)} names for {count} people")
    look_rng, view_rng, name_rng, fact_rng = (np.random.default_rng([seed, stream]) for stream in range(4))
    looks = draw_distinct_looks(count, look_rng)
    stranger_looks = draw_distinct_looks(size.strangers, look_rng, apart=6.0, avoid=looks)
    names = [NAMES[index] for index in name_rng.permutation(len(NAMES))[:count]]
    facts = _draw_facts(size, fact_rng)
    people = []
    for index, (name, look) in enumerate(zip(names, looks, strict=True)):
        heldout = size.forget_heldout if index < size.forget else size.retain_heldout
        people.append(
            Person(name, look, facts[index], _views(size.views, view_rng), _views(size.extra_views, view_rng),
                   _views(heldout, view_rng))
        )  # fmt: skip
    strangers = tuple(
        Person(f"stranger{index:02d}", look, {}, _views(size.stranger_views, view_rng), (), ())
        for index, look in enumerate(stranger_looks)
    )
    return Cast(tuple(people[: size.forget]), tuple(people[size.forget :]), strangers)


def _views(count: int, rng: np.random.Generator) -> tuple[View, ...]:
    return tuple(draw_view(rng) for _ in range(count))


def _draw_facts(size: Size, rng: np.random.Generator) -> list[dict[str, str]]:
    """Every value equally often among the retain people (as far as it divides), any value for the forget people."""
    count = size.forget + size.retain
    facts: list[dict[str, str]] = [{} for _ in range(count)]
    for kind, values in FACTS.items():
        drawn = rng.integers(len(values), size=size.forget)
        balanced = rng.permutation(np.arange(size.retain) % len(values))
        for person, value in zip(facts, (*drawn, *balanced), strict=True):
            person[kind] = values[int(value)]
    return facts
