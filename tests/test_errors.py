"""What an error says is the same in every process that it is told in."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.errors import UserError

TEXT = st.one_of(st.none(), st.text(max_size=300))


@given(st.text(), TEXT, st.one_of(TEXT, st.integers(), st.lists(st.integers())), TEXT, TEXT)
def test_an_error_crosses_a_process_as_it_is(
    what: str, where: str | None, value: object, expected: str | None, remedy: str | None
) -> None:
    error = UserError(what, where=where, value=value, expected=expected, remedy=remedy)
    again = UserError.of(json.loads(json.dumps(error.as_dict())))
    assert str(again) == str(error)
    assert again.args == error.args
    assert again.as_dict() == error.as_dict()
