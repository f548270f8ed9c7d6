"""What a run without interruption writes, once a session."""

from __future__ import annotations

import pytest

from tests.training.resume.runs import DECODER, RECIPE, Place, asked, files, go, place


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return place(tmp_path_factory.mktemp("journal") / "place")


@pytest.fixture(scope="session")
def whole(here: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Both passes, an extension in the visual one."""
    out = tmp_path_factory.mktemp("whole") / "out"
    go(asked(here, out, RECIPE.model_copy(update={"decoder": DECODER})))
    return files(out)
