"""What a run was asked for by: an id and a date that the caller gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date

from vkdsurgeon.errors import UserError

_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True)
class RequestTag:
    """The request behind a run. It is published with the weights, so it names nobody.

    Attributes:
        id: Such as a ticket's number.
        date: As YYYY-MM-DD; given, so that equal runs leave equal records.
    """

    id: str | None = None
    date: str | None = None


UNTAGGED = RequestTag()


def request_tag(request_id: str | None, request_date: str | None) -> RequestTag:
    """Check the id and the date of a request.

    Args:
        request_id: One line of at most 200 characters.
        request_date: As YYYY-MM-DD.

    Raises:
        UserError: The id or the date is not valid.
    """
    if request_id is not None and _ID.fullmatch(request_id) is None:
        raise UserError("not an id", where="--request-id", value=request_id, expected="a line of 1 to 200 characters")
    if request_date is not None:
        try:
            well = date.fromisoformat(request_date).isoformat() == request_date
        except ValueError:
            well = False
        if not well:
            raise UserError("not a date", where="--request-date", value=request_date, expected="such as 2026-03-01")
    return RequestTag(request_id, request_date)
