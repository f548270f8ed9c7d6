"""What becomes of a journal that is broken, or in use."""

from pathlib import Path

import pytest

from vkdsurgeon.errors import UserError
from vkdsurgeon.tuning.output import _is_written_here
from vkdsurgeon.tuning.storage import FILE, check_folder, finished, opened

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
    with opened(tmp_path, INPUTS) as study:
        study.ask()
    with (tmp_path / FILE).open("a") as file:
        file.write("nonsense\n{}\n")
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


@pytest.mark.parametrize(
    "content",
    [
        '{"day": 1, "text": "dear diary"}\n{"day": 2, "text": "no line',
        "dear diary",
        '{"op_code":0,"worker_id":"x","study_name":"mine","directions":[1]}\n{"op_code":4,"wor',
        '{"op_code":0,"worker_id":"x","study_name":"tune","directions":[1,1,1]}\n{"op_code":4,"study_id":0}\n{"op',
    ],
)
def test_a_journal_of_somebody_elses_is_never_touched(tmp_path: Path, content: str):
    """The name is a common one, and the last line may end without a line break."""
    path = tmp_path / "out" / FILE
    path.parent.mkdir()
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(UserError, match="not of an earlier `tune`"):
            check_folder(path.parent, True, tmp_path / "model")
        with pytest.raises(UserError, match="not of an earlier `tune`"), opened(path.parent, INPUTS):
            pass
    assert path.read_text() == content


def test_what_a_kill_left_of_a_journal_is_gone_on_with(tmp_path: Path):
    out = tmp_path / "out"
    with opened(out, INPUTS) as study:
        study.ask()
    whole = (out / FILE).read_bytes()
    for length in (0, 1, 30, 60, 130, 200, len(whole) - 1):
        (out / FILE).write_bytes(whole[:length])
        check_folder(out, True, tmp_path / "model")
        with opened(out, INPUTS) as study:
            assert finished(study) == []


def test_recipes_that_somebody_put_beside_the_front_stay(tmp_path: Path):
    (tmp_path / "07.yaml").write_text("steps: 3\n")
    (tmp_path / "08.yaml").write_text("# Member 8 of 9 of the front; trial 3 of `vkdsurgeon tune`. Less is better.\n")
    assert not _is_written_here(tmp_path / "07.yaml")
    assert not _is_written_here(tmp_path / "09.yaml")
    assert _is_written_here(tmp_path / "08.yaml")
