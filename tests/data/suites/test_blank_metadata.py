"""A blank cell says as little as one that is not there."""

from __future__ import annotations

import pytest

from vkdsurgeon.data.suites import columns, mllmu
from vkdsurgeon.data.suites.parquet import Row

BLANK_QUESTION = '[{"Question": " ", "Answer": "x"}]'
BLANK_ANSWER = '[{"Question": "q", "Answer": "\\n"}]'


@pytest.mark.parametrize("metadata", ["", "  ", None, "[]", "null", "[{}]", BLANK_QUESTION, BLANK_ANSWER])
def test_blank_metadata_of_the_training_split(metadata: str | None) -> None:
    class Images:
        def keep(self, *arguments: object) -> None:
            return None

    row = Row({"image": {}, "ID": "7", "metadata": metadata}, "file.parquet, row 1", "row-1")
    record = mllmu._image_record(row, Images())  # type: ignore[arg-type]
    assert (record.question, record.answer, record.subject) == (None, None, "7")
    assert columns.nested(row, "metadata", mllmu._FACTS) is None or metadata not in ("", "  ")
