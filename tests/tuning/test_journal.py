"""What becomes of a journal that is broken, or in use."""

from pathlib import Path

import pytest

from vkdsurgeon.errors import UserError
from vkdsurgeon.tuning.journal import FILE, check_folder, finished, opened

INPUTS = {"seed": 1}


def test_one_process_at_a_time(tmp_path: Path):
    with opened(tmp_path / "out", INPUTS) as study:
        study.ask()
        before = (tmp_path / "out" / FILE).read_bytes()
        with pytest.raises(UserError, match="another `tune` is at work"), opened(tmp_path / "out", INPUTS):
            pass
        assert (tmp_path / "out" / FILE).read_bytes() == before
    with opened(tmp_path / "out", INPUTS) as study:
        assert finished(study) == [], "a trial whose process died does not count"


def test_a_journal_that_cannot_be_read_is_told_and_kept(tmp_path: Path):
    (tmp_path / FILE).write_text('{"op_code": 0}\nnonsense\n')
    with pytest.raises(UserError, match="cannot be read"), opened(tmp_path, INPUTS):
        pass
    assert "nonsense" in (tmp_path / FILE).read_text()


def test_places_where_nothing_can_be_kept(tmp_path: Path):
    model = tmp_path / "model"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="no directory"):
        check_folder(tmp_path / "file", True, model)
    with pytest.raises(UserError, match="parent"):
        check_folder(tmp_path / "none" / "out", True, model)
    with pytest.raises(UserError, match="inside the model"):
        check_folder(model / "tuned", True, model)
    check_folder(tmp_path / "out", True, model)
