"""Shards are written as I/N, take every run once, and count from 0."""

from __future__ import annotations

import pytest

from vkdsurgeon.config.shard import Shard, shard_of
from vkdsurgeon.errors import UserError


def test_every_run_belongs_to_one_shard() -> None:
    for of in (1, 2, 3, 7):
        taken = [[at for at in range(20) if Shard(number, of).takes(at)] for number in range(of)]
        assert sorted(at for part in taken for at in part) == list(range(20))
    assert [at for at in range(8) if Shard(1, 3).takes(at)] == [1, 4, 7]
    assert shard_of(" 1/3 ") == Shard(1, 3)
    assert str(Shard(1, 3)) == "1/3"
    assert shard_of(None) is None


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "1/0", "0/0", "a/b", "1/3/4", "1.0/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="shard"):
        shard_of(text)
