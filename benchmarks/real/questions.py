"""What is asked about emblems and companies, in which words, and which answers are possible."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.real.companies import FACTS, Company, World
from benchmarks.real.emblems import BACKGROUNDS, View

# The first wording is the one of the records; training hears all of them.
_ABOUT_COMPANY: dict[str, tuple[str, ...]] = {
    "name": ("Which company has this emblem?", "What is this company called?"),
    "trade": ("What does this company sell?", "What does the company with this emblem make?"),
    "city": ("In which city is this company?", "Where is the company with this emblem based?"),
    "founder": ("Who founded this company?", "Who started the company with this emblem?"),
}
_ABOUT_VIEW: dict[str, tuple[str, ...]] = {
    "background": ("What colour is the background?", "Which colour is behind the emblem?"),
    "frame": ("Is there a frame around the picture?", "Does the picture have a frame?"),
    "size": ("Is the emblem big or small?", "How large is the emblem in the picture?"),
}
_BY_NAME: dict[str, tuple[str, ...]] = {
    "trade": ("What does {name} sell?", "What does the company {name} make?"),
    "city": ("In which city is {name}?", "Where is the company {name} based?"),
    "founder": ("Who founded {name}?", "Who started the company {name}?"),
}
VIEW_ANSWERS: dict[str, tuple[str, ...]] = {
    "background": BACKGROUNDS,
    "frame": ("yes", "no"),
    "size": ("big", "small"),
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


def about_company(company: Company, names: tuple[str, ...]) -> list[Question]:
    """Questions whose answer is the same in every image of an emblem; none about a stranger."""
    if not company.facts:
        return []
    asked = [Question("vqa.name", _ABOUT_COMPANY["name"], company.name, names)]
    asked += [Question(f"vqa.{kind}", _ABOUT_COMPANY[kind], company.facts[kind], FACTS[kind]) for kind in FACTS]
    return asked


def about_view(view: View) -> list[Question]:
    """Questions that do not depend on whose emblem is to be seen."""
    answers = {
        "background": BACKGROUNDS[view.background],
        "frame": "yes" if view.frame else "no",
        "size": "big" if view.big else "small",
    }
    return [Question(f"general.{kind}", _ABOUT_VIEW[kind], answers[kind], VIEW_ANSWERS[kind]) for kind in _ABOUT_VIEW]


def text_questions(world: World) -> list[tuple[Company, Question]]:
    """Every fact of every named company, asked by name and without an image."""
    return [
        (company, Question(f"text.{group}.{kind}", tuple(each.format(name=company.name) for each in wordings),
                           company.facts[kind], FACTS[kind]))
        for group, companies in (("forget", world.forget), ("retain", world.retain))
        for company in companies
        for kind, wordings in _BY_NAME.items()
    ]  # fmt: skip


def answers(world: World) -> tuple[str, ...]:
    """Every possible answer."""
    words = (*world.names, *(word for table in (FACTS, VIEW_ANSWERS) for values in table.values() for word in values))
    return tuple(dict.fromkeys(words))
