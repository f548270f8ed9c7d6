"""One family per reason why families once did not work; `python -m benchmarks.families` goes through all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.families.survey import image_types, quiet, survey
from benchmarks.families.table import PAGE, RESULTS, page, read_rows
from vkdsurgeon.model.image_features import ADAPTERS, AUDIO_ADAPTERS

# Type -> what it stands for. None of them needs torchvision or timm.
REPRESENTATIVES = {
    "lighton_ocr": "the processor's class says in what form it wants tensors",
    "deepseek_vl": "only an inner module has a method for image features",
    "mllama": "no such method at all, and cross-attention",
    "qwen3_omni_moe": "a whole model that speaks, and several depths",
    "qianfan_ocr": "attention joined on disk",
    "granite4_vision": "every depth has a projector of its own",
    "t5gemma2": "another encoder around the tower",
    "minicpmv4_6": "images side by side in one strip",
    "janus": "a second visual part that draws",
    "instructblip": "a projector that reads questions",
}


@pytest.fixture(scope="module", autouse=True)
def without_noise() -> Iterator[None]:
    """Tiny configs make transformers talk."""
    with quiet():
        yield


# Their tiny models are not that small: ten seconds each and more.
LARGE = ("qwen3_omni_moe", "granite4_vision", "minicpmv4_6", "instructblip")


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=pytest.mark.campaign) if name in LARGE else name for name in REPRESENTATIVES],
)
def test_it_is_unlearned_and_loads_as_it_was_trained(model_type: str) -> None:
    row = survey(model_type)
    assert row.works, row
    assert row.adapter == ADAPTERS.get(model_type, "")
    assert (row.rebuilt > 0) == (model_type == "qianfan_ocr")


@pytest.mark.parametrize("model_type", ["chameleon", "fuyu"])
def test_a_family_without_a_tower_is_refused_by_inspect(model_type: str) -> None:
    row = survey(model_type)
    assert (row.refused, row.stage) == (True, "inspect"), row


def test_the_page_is_made_from_the_results_and_knows_every_family() -> None:
    rows = read_rows(RESULTS)
    assert PAGE.read_text(encoding="utf-8") == page(rows)
    assert {row["model_type"] for row in rows} >= {*ADAPTERS} & {*image_types()}
    assert sum(row["works"] for row in rows) >= 90


@pytest.mark.slow
@pytest.mark.campaign
@pytest.mark.parametrize("model_type", image_types())
def test_every_family(model_type: str) -> None:
    row = survey(model_type)
    assert row.works or row.refused, row


def test_every_adapter_is_a_file_of_its_own() -> None:
    folder = Path(__file__).parents[2] / "vkdsurgeon" / "model" / "families"
    known = {*ADAPTERS.values(), *AUDIO_ADAPTERS.values(), "audio"}
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == known
