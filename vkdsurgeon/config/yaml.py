"""Settings files people write: a plain YAML (or JSON) mapping, without the parts of YAML that surprise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vkdsurgeon.errors import UserError
from vkdsurgeon.files.library_errors import machine_or

# Settings have no list in a list in a list; the reader's time grows with the square of the depth.
_DEEPEST = 32


class PlainLoader(yaml.SafeLoader):
    """Takes 1e-4 for a number and 2026-03-01 for text, as YAML 1.2 does; YAML 1.1 has text and a date. Refuses brackets
    in brackets without end."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """As the original, to a depth."""
        if self.flow_level >= _DEEPEST:
            raise yaml.YAMLError(f"more than {_DEEPEST} brackets in each other")
        super().fetch_flow_collection_start(TokenClass)


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in PlainLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_value(text: str) -> Any:
    """One value as YAML.

    Raises:
        yaml.YAMLError: It is none.
    """
    try:
        return yaml.load(text, PlainLoader)
    except (ArithmeticError, LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:
        # Tags such as !!int make its constructors read text that is no number.
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def read_mapping(path: Path, what: str) -> dict[str, object]:
    """Read a file of settings.

    Args:
        path: YAML, of which JSON is a part; an empty file is an empty mapping.
        what: What the file is, such as `recipe`, for messages.

    Raises:
        UserError: It cannot be read, is no YAML or no mapping, has an alias, a key twice, or a key that is no word.
    """
    try:
        loaded = _parse(path.read_text(encoding="utf-8"), path, what)
    except OSError as error:
        raise machine_or(UserError(f"cannot read the {what}: {error.strerror}", where=path), error) from error
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"the {what} is not YAML", where=path, value=" ".join(str(error).split())) from error
    if loaded is not None and not isinstance(loaded, dict):
        raise UserError(f"the {what} is not a mapping", where=path, value=loaded, expected="lines of `key: value`")
    return loaded or {}


def _parse(text: str, path: Path, what: str) -> object:
    # An alias can make a short file unfold without end; settings need none. Of two equal keys one would vanish.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, PlainLoader)):
        raise UserError(f"a {what} has no use for YAML aliases", where=path, remedy="write the value out")
    node = yaml.compose(text, PlainLoader)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise UserError(f"the {what} has key {key!r} twice", where=path, remedy="keep one of them")
            seen.add(key)
        if any(not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str" for key, _ in node.value):
            raise UserError(f"a key of the {what} is no word", where=path, expected="lines of `key: value`")
    return read_value(text)
