"""Tags of YAML that its constructors cannot read are wrong input, and no crash."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vkdsurgeon.config.yaml import read_mapping, read_value
from vkdsurgeon.errors import UserError

EMPTY = ('!!int ""', '!!float ""')
WRONG = ("!!timestamp nonsense", "!!int x", "!!bool perhaps", "!!binary é", "!!set [1]", "!!omap 3")


@pytest.mark.parametrize("text", [*EMPTY, *WRONG])
def test_a_tag_without_a_value(tmp_path: Path, text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        read_value(text)
    path = tmp_path / "recipe.yaml"
    path.write_text(f"steps: {text}\n")
    with pytest.raises(UserError, match="not YAML"):
        read_mapping(path, "recipe")
