"""The names of the attacks, which stand in three places."""

from pathlib import Path
from typing import get_args

import pytest

import vkdsurgeon
from vkdsurgeon.api.names import AttackName
from vkdsurgeon.attacks.by_name import ATTACKS
from vkdsurgeon.data.sets import RESERVED_ATTACKS
from vkdsurgeon.errors import UserError


def test_the_lists_of_attacks_agree() -> None:
    assert set(get_args(AttackName)) == set(ATTACKS) == RESERVED_ATTACKS


@pytest.mark.parametrize(("key", "value"), [("font", 7), ("instruction", 7), ("instruction", " "), ("percent", "25")])
def test_settings_of_typography_are_checked_before_anything_is_read(
    key: str, value: object, sets: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=key):
        vkdsurgeon.attack("typography", tmp_path, sets["forget"], settings={key: value})
