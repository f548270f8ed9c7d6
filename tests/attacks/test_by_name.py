"""The names of the attacks, which stand in three places."""

from typing import get_args

from vkdsurgeon.api.names import AttackName
from vkdsurgeon.attacks.by_name import ATTACKS
from vkdsurgeon.data.sets import RESERVED_ATTACKS


def test_the_lists_of_attacks_agree() -> None:
    assert set(get_args(AttackName)) == set(ATTACKS) == RESERVED_ATTACKS
