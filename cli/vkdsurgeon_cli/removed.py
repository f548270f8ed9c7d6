"""What to do instead, for options that are gone."""

from __future__ import annotations

from typing import Any

_RENAMED = {"--out": "--output or -o", "--keep": "--output or -o"}
_DECODER = "decoder_"


def advice_on(error: Any) -> str | None:
    """Advice on a usage error, where an option was given that is now a key of the recipe or has another name.

    Args:
        error: The error of click. For an unknown option it has `option_name`.
    """
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if not isinstance(option, str) or context is None or context.command is None:
        return None
    known = {name for parameter in context.command.params for name in parameter.opts}
    if option in _RENAMED and "--output" in known:
        return f"{option} is called {_RENAMED[option]}"
    if "--set" not in known or "--preset" not in known:
        return None
    if option == "--baseline":
        return "give it as --set baseline.KEY=VALUE"
    key = _key(option.removeprefix("--").replace("-", "_"))
    return None if key is None else f"it is a key of the recipe: give it as --set {key}=VALUE"


def _key(name: str) -> str | None:
    from vkdsurgeon.config.keys import recipe_keys

    known = {each.key for each in recipe_keys()}
    dotted = f"decoder.{name.removeprefix(_DECODER)}" if name.startswith(_DECODER) else name
    return dotted if dotted in known else None
