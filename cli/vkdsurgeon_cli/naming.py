"""Messages of the library name its arguments; here they get the names of the options that set them.

The library says "give `retain_teacher`" or "use `device=cpu`", and whoever typed `--retain-teacher` reads that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_ARGUMENT = re.compile(r"`([a-z][a-z_]*)(?:=([^`]*))?`")
# Arguments that an option sets under another name.
_OTHERWISE = {
    "attack_scopes": "attack_scope",
    "benign": "benign_data",
    "builtin": "no_builtin",
    "format": "format_",
    "gates": "gate",
    "k_percent": "k",
    "perturbations": "perturbation",
    "unrelated": "attack_data",
}

_options: dict[str, str] = {}


def use_options(parameters: Iterable[Any]) -> None:
    """Take the options of the command that runs from here on; both the parameter's name and the option's count."""
    _options.clear()
    for parameter in parameters:
        long = [option for option in parameter.opts if option.startswith("--")]
        if long and not getattr(parameter, "hidden", False):
            _options[long[0].removeprefix("--").replace("-", "_")] = long[0]
            _options[parameter.name] = long[0]


def with_options(text: str) -> str:
    """A message with options in place of arguments; what is no option of the command stays as it is."""
    return _ARGUMENT.sub(_option, text)


def _option(found: re.Match[str]) -> str:
    option = _options.get(found[1]) or _options.get(_OTHERWISE.get(found[1], ""))
    if option is None:
        return found[0]
    return option if found[2] is None else f"{option} {found[2]}"
