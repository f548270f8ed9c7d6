"""The pages of the recipe keys and of the release plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from docs.generate.markdown import MADE, row
from vkdsurgeon.config.keys import RecipeKey, recipe_keys
from vkdsurgeon.config.release import EDITED_TEXT_GATE, EVAL_GATES, RELEARN_GATES, RESTORE_GATES, ReleasePlan


def recipe_page() -> str:
    keys = recipe_keys()
    text = f"""# Recipe keys

{MADE}
Every setting of `unlearn`. Give one as `--set KEY=VALUE`, or write it into a YAML file for `--recipe`; a section such
as `decoder` is a mapping there. `vkdsurgeon recipe keys WORD` prints them, `vkdsurgeon recipe show --preset robust`
prints what a preset comes to. Unknown keys are refused. The symbols are those of [the method](../studies/method.md).
"""
    groups: dict[str, list[RecipeKey]] = {}
    for key in keys:
        groups.setdefault(key.key.rpartition(".")[0], []).append(key)
    titles = {"": "Visual pass", "decoder": "Decoder pass", "baseline": "Other methods"}
    for section, members in groups.items():
        text += f"\n## {titles.get(section, section)}\n\n| key | type | default | meaning |\n|-|-|-|-|\n"
        text += "".join(row(f"`{each.key}`", each.type, _value(each.default), _meaning(each)) for each in members)
    return text


def _meaning(key: RecipeKey) -> str:
    presets = "; ".join(f"`{name}` sets {_value(value)}" for name, value in key.presets.items())
    return f"{key.meaning} Preset {presets}." if presets else key.meaning


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "`" + ", ".join(f"{name}: {weight:g}" for name, weight in value.items()) + "`"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} sentences"
    told = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return f"`{told}`"


def release_page() -> str:
    gates = "".join(
        row(f"`{key}`", ", ".join(f"`{gate}`" for gate in default), when)
        for key, default, when in (
            ("gates.eval", EVAL_GATES, "always"),
            ("gates.relearn", RELEARN_GATES, "with `gold`"),
            ("gates.restore", RESTORE_GATES, "with `gold`, unless `restore_out_of_scope`"),
        )
    )
    return f"""# Release plan

{MADE}
The keys of the file that `vkdsurgeon release` reads ([how it is used](../tutorials/pipeline.md)). Paths count
from the file. Unknown keys are refused. Its JSON schema: [release-plan.json](../schemas/release-plan.json).

| key | default | meaning |
|-|-|-|
{"".join(_release_rows(ReleasePlan))}
## Gates by default

A list of your own takes the place of the default list.

| key | gates | when |
|-|-|-|
{gates}
Where a decoder pass has changed the language model, `{EDITED_TEXT_GATE[0]}` becomes `{EDITED_TEXT_GATE[1]}`.
What the words of a gate mean: [metrics](metrics.md).
"""


def _release_rows(model: type[BaseModel], within: str = "") -> Iterator[str]:
    for key, field in model.model_fields.items():
        parts = (field.annotation, *get_args(field.annotation))
        section = next((each for each in parts if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if section is None:
            default = field.get_default(call_default_factory=True)
            plain = default in (None, "", {})
            needed = f"required with `{within[:-1]}`" if within else "required"
            shown = needed if field.is_required() else "" if plain else f"`{json.dumps(default)}`"
            yield row(f"`{within}{key}`", shown, str(field.description))
        else:
            yield from _release_rows(section, f"{within}{key}.")
