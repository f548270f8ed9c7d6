"""What is asked, in which words, and which answers are possible."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.miniature_model.look import BACKGROUNDS, PATTERNS, View
from benchmarks.miniature_model.people import FACTS, Cast, Person

# The first wording is the one of the records; training hears all of them.
ABOUT_PERSON: dict[str, tuple[str, ...]] = {
    "name": ("Who is this person ?", "What is the name of this person ?", "Who is in the picture ?"),
    "profession": ("What is the profession of this person ?", "What work does this person do ?"),
    "city": ("In which city does this person live ?", "Where does this person live ?"),
    "hobby": ("What is the hobby of this person ?", "What does this person enjoy ?"),
    "food": ("What is the favourite food of this person ?", "What does this person eat ?"),
}
ABOUT_VIEW: dict[str, tuple[str, ...]] = {
    "background": ("Which colour is the background ?", "What is the colour behind this person ?"),
    "pattern": ("Which pattern has the background ?", "What is the pattern behind this person ?"),
    "glasses": ("Does this person wear glasses ?", "Are there glasses in the picture ?"),
    "mouth": ("Is the mouth open or closed ?", "How is the mouth of this person ?"),
}
BY_NAME: dict[str, tuple[str, ...]] = {
    "profession": ("What is the profession of {name} ?", "What work does {name} do ?"),
    "city": ("In which city does {name} live ?", "Where does {name} live ?"),
    "hobby": ("What is the hobby of {name} ?", "What does {name} enjoy ?"),
    "food": ("What is the favourite food of {name} ?", "What does {name} eat ?"),
}
VIEW_ANSWERS: dict[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "pattern": PATTERNS,
    "glasses": ("yes", "no"),
    "mouth": ("open", "closed"),
}


@dataclass(frozen=True)
class Question:
    """One question with its answer.

    Attributes:
        task: Dotted task name without a set, such as `vqa.name`.
        wordings: Ways to ask it; the first is the one of the records.
        answer: One word.
        options: All possible answers.
    """

    task: str
    wordings: tuple[str, ...]
    answer: str
    options: tuple[str, ...]


def about_person(person: Person, names: tuple[str, ...]) -> list[Question]:
    """Questions whose answer is the same in every image of someone: the name and every fact."""
    asked = [Question("vqa.name", ABOUT_PERSON["name"], person.name, names)]
    asked += [Question(f"vqa.{kind}", ABOUT_PERSON[kind], person.facts[kind], FACTS[kind]) for kind in FACTS]
    return asked


def about_view(view: View) -> list[Question]:
    """Questions that do not depend on who is to be seen."""
    answers = {
        "background": BACKGROUNDS[view.background],
        "pattern": PATTERNS[view.pattern],
        "glasses": "yes" if view.glasses else "no",
        "mouth": "open" if view.mouth_open else "closed",
    }
    return [Question(f"general.{kind}", ABOUT_VIEW[kind], answers[kind], VIEW_ANSWERS[kind]) for kind in ABOUT_VIEW]


def by_name(person: Person, group: str) -> list[Question]:
    """Questions without an image about a named person; `group` is `forget` or `retain`."""
    return [
        Question(
            f"text.{group}.{kind}",
            tuple(wording.format(name=person.name) for wording in BY_NAME[kind]),
            person.facts[kind],
            FACTS[kind],
        )
        for kind in FACTS
    ]


def text_questions(cast: Cast) -> list[tuple[Person, Question]]:
    """Every fact of everybody, asked by name."""
    groups = (("forget", cast.forget), ("retain", cast.retain))
    return [(person, question) for group, people in groups for person in people for question in by_name(person, group)]


def vocabulary(cast: Cast) -> list[str]:
    """Every word of every question and answer, sorted."""
    wordings = [wording for table in (ABOUT_PERSON, ABOUT_VIEW) for group in table.values() for wording in group]
    wordings += [wording.replace("{name}", "") for group in BY_NAME.values() for wording in group]
    words = {word for wording in wordings for word in wording.split()}
    for values in (*FACTS.values(), *VIEW_ANSWERS.values(), cast.names):
        words.update(values)
    return sorted(words)
