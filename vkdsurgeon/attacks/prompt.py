"""The prompt attack: put the same questions in other words, and make the answer begin as an attacker likes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from vkdsurgeon.attacks.target import Target
from vkdsurgeon.attacks.templates import BUILTIN, Template, unknown_share
from vkdsurgeon.attacks.variation import Variation, measure_variations
from vkdsurgeon.checkpoint.provenance import versions
from vkdsurgeon.data.record import Record
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import judge_metrics
from vkdsurgeon.evaluation.models import Role
from vkdsurgeon.model.multimodal import LoadedModel, load_processor
from vkdsurgeon.results.attacks import PromptResult, PromptSettings, TemplateFacts
from vkdsurgeon.training.events import Listener, unheard

# With more unknown words than this a template does not say what it was written to say.
_MOST_UNKNOWN = 0.5


@dataclass(frozen=True, kw_only=True)
class Prompting(Target):
    """The settings of the prompt attack.

    Attributes:
        templates: The user's.
        builtin: Whether the built-in templates are asked too; the user's win where names are equal.
    """

    templates: Sequence[Template] = ()
    builtin: bool = True

    @property
    def every(self) -> list[Template]:
        """All templates, the user's last."""
        own = {template.name for template in self.templates}
        known = [template for template in BUILTIN if template.name not in own] if self.builtin else []
        return [*known, *self.templates]


class OtherWords(Variation):
    """Every question put by one template."""

    def __init__(self, template: Template) -> None:
        super().__init__(template.name)
        self._template = template

    def concerns(self, record: Record) -> bool:
        """As in `Variation`."""
        return self._template.concerns(record)

    def reword(self, record: Record) -> Record:
        """As in `Variation`."""
        return self._template.ask(record)

    def applied(self, loaded: LoadedModel, role: Role) -> AbstractContextManager[None]:
        """As in `Variation`."""
        return loaded.encoder.altered(beginning=self._template.prefix.strip())


def prompt(attack: Prompting, listener: Listener = unheard) -> PromptResult:
    """Ask a model in other words, and its base and gold alike.

    Args:
        attack: The settings: models, sets, gates and device.
        listener: Gets progress events.

    Returns:
        The result, gates included; it holds no text of a template.

    Raises:
        UserError: Sets, gates or models are wrong, or no template can be asked; found before a model is loaded.
    """
    started = time.perf_counter()
    tokenizer = load_processor(attack.model).tokenizer
    records = [*attack.forget.records, *(attack.retain.records if attack.retain else ())]
    unknown = {template.name: unknown_share(template, tokenizer) for template in attack.every}
    idle = [each.name for each in attack.templates if not any(each.concerns(record) for record in records)]
    if idle:
        raise UserError(
            "no record has the task of this template",
            where="`templates`",
            value=idle[0],
            expected="a task of the sets: " + ", ".join(sorted({record.task for record in records})),
        )
    asked = [template for template in attack.every if unknown[template.name] <= _MOST_UNKNOWN]
    if not asked:
        raise UserError(
            "the model's tokenizer knows too few words of every template",
            where=attack.model,
            expected=f"templates of which it knows {1 - _MOST_UNKNOWN:.0%} or more",
            remedy="give `templates` in words of its vocabulary",
        )
    measured = measure_variations(attack, "prompt", [OtherWords(template) for template in asked], listener)
    own = {template.name for template in attack.templates}
    return PromptResult(
        models=measured.models,
        sets=measured.sets,
        settings=PromptSettings(
            **attack.asking(measured.device),
            templates=[
                TemplateFacts(
                    name=template.name,
                    digest=template.digest(attack.salt if template.name in own else b""),
                    builtin=template.name not in own,
                    prefixed=bool(template.prefix.strip()),
                    unknown=unknown[template.name],
                    asked=template in asked,
                )
                for template in attack.every
            ],
        ),
        metrics=measured.metrics,
        gates=judge_metrics(attack.gates, measured.metrics),
        warnings=[*_warnings(unknown, {template.name for template in asked}), *measured.warnings],
        versions=versions(),
        seconds=round(time.perf_counter() - started, 3),
    )


def _warnings(unknown: dict[str, float], asked: set[str]) -> list[str]:
    left_out = [f"{name} ({share:.0%})" for name, share in unknown.items() if name not in asked]
    partly = [f"{name} ({share:.0%})" for name, share in unknown.items() if name in asked and share > 0]
    found = []
    if left_out:
        found.append(
            "the tokenizer does not know most words of some templates (share unknown), so they were not asked: "
            f"{', '.join(left_out)}; give `templates` in words of its vocabulary"
        )
    if partly:
        found.append(f"the tokenizer does not know all words of some templates (share unknown): {', '.join(partly)}")
    return found
