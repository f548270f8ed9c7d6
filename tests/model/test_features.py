"""Images and teacher features."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import draw_subject
from tests.families import build_checkpoint
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import samples_of
from vkdsurgeon.model import feature_store
from vkdsurgeon.model.feature_store import FeatureStore
from vkdsurgeon.model.features import SampleSet, spread, teacher_features
from vkdsurgeon.model.load_vision import load_visual_stack


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("qwen2_vl", tmp_path_factory.mktemp("models") / "qwen")


def test_teacher_features_do_not_depend_on_batching_or_cache(llava: Path, sets: dict[str, Path]):
    stack = load_visual_stack(llava, device="cpu")
    samples = samples_of(read_records(sets["forget"], role="forget"), role="forget")
    layers = ("layer.0", "projector")
    one = teacher_features(stack, SampleSet(stack, samples, 1 << 30), layers, 64, 1 << 30)
    two = teacher_features(stack, SampleSet(stack, samples, 0), layers, 3, 0)
    for layer in layers:
        assert len(one.all(layer)) == len(samples)
        for first, second in zip(one.all(layer), two.all(layer), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_images_of_different_shapes_share_no_batch(qwen: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(56, 56), (112, 56), (56, 112), (56, 56)]):
        draw_subject(number, 0, side=112).resize(size, Image.Resampling.NEAREST).save(folder / f"{number}.png")
    stack = load_visual_stack(qwen, device="cpu")
    samples = samples_of(read_records(folder, role="forget"), role="forget")
    prepared = SampleSet(stack, samples, 1 << 30)
    groups = [indices for indices, _ in prepared.batches(range(4), 8)]
    assert groups == [[0, 3], [1], [2]]
    features = teacher_features(stack, prepared, ("projector",), 8, 1 << 30).all("projector")
    assert features[1].shape[0] > features[0].shape[0]


def test_features_beyond_the_memory_bound_come_back_from_disk():
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(5, 7, generator=generator) for _ in range(4)]
    store = FeatureStore(budget_bytes=2 * values[0].nbytes)
    for index, value in enumerate(values):
        store.put("projector", index, value)
    got = store.get("projector", [3, 0, 2], torch.device("cpu"))
    assert torch.equal(got, torch.stack([values[3], values[0], values[2]]))


@pytest.mark.parametrize("room", [0, 3, 100], ids="{} copies fit".format)
def test_copies_near_the_gpu_change_no_feature(room: int, monkeypatch: pytest.MonkeyPatch):
    """With the CPU in the place of a GPU, which differs in where its memory is."""
    values = [torch.full((2, 3), float(index)) for index in range(6)]
    monkeypatch.setattr(feature_store, "room_for_copies", lambda device, leave: room * values[0].nbytes - leave)
    store, here = FeatureStore(budget_bytes=0, leave=0), torch.device("cpu")
    for index, value in enumerate(values):
        store.put("projector", index, value)
    # Twice: with copies of none or some of them, and with those that the first left.
    for _ in range(2):
        got = store.get("projector", [4, 0, 4, 5, 1], here)
        assert torch.equal(got, torch.stack([values[index] for index in (4, 0, 4, 5, 1)]))
    store.put("projector", 4, values[4] + 0.5)
    got = store.get("projector", [4, 1, 2, 3], here)
    assert torch.equal(got, torch.stack([values[4] + 0.5, values[1], values[2], values[3]]))
    assert torch.equal(store.one("projector", 4), values[4] + 0.5)
    assert len(store._copies) == min(room, 6)
    store.release()
    assert not store._copies
    assert torch.equal(store.get("projector", [4, 1], here), torch.stack([values[4] + 0.5, values[1]]))
    assert not store._copies


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_images_on_disk_share_a_few_files():
    """The system lets a process map some 65,000 files, and sets have more images."""
    store = FeatureStore(budget_bytes=0)
    for index in range(300):
        store.put("projector", index, torch.full((3, 5), float(index)))
    assert Path("/proc/self/maps").read_text().count("vkdsurgeon-features-") < 10
    assert all(torch.equal(store.one("projector", index), torch.full((3, 5), float(index))) for index in range(300))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_every_visual_parameter_has_a_layer(family: str, tmp_path: Path):
    stack = load_visual_stack(build_checkpoint(family, tmp_path / "model"), device="cpu")
    layers = {name: stack.layer_of(name) for name in stack.visual_parameters()}
    tapped = [layer for layer in stack.layers if layer.startswith("layer.")]
    assert set(tapped) <= set(layers.values())
    assert len({name for name, layer in layers.items() if layer == "layer.0"}) > 4
    assert {*layers.values()} - {*tapped} == {"tower", *stack.split.placement.projector}
    names = [name for name in layers if ".1." in name and layers[name] == "layer.1"]
    assert names, "a layer's own parameters, not those of layer 10 or of the embeddings"


def test_the_power_of_kept_features_is_that_of_what_was_kept():
    store = FeatureStore(budget_bytes=200)
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(5, 4, generator=generator).to(torch.bfloat16) for _ in range(3)]
    for index, value in enumerate(values):
        store.put("projector", index, value)
    powers = store.powers("projector", [2, 0], torch.device("cpu"))
    kept = store.get("projector", [2, 0], torch.device("cpu")).float()
    torch.testing.assert_close(powers, kept.square().mean(dim=(1, 2)))


@given(offset=st.floats(-1000, 1000), scale=st.floats(0.5, 10), seed=st.integers(0, 5))
def test_spread_is_of_what_images_differ_by(offset: float, scale: float, seed: int):
    """What all images share adds power and no spread; the estimate is that of the variance over images."""
    drawn = torch.randn(400, 3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    positions = torch.arange(3.0).view(1, 3, 1)
    values = list((scale * drawn + offset / 1000 + positions).float())
    assert spread(values) == pytest.approx(scale**2, rel=0.1)


def test_spread_of_images_of_several_sizes():
    """Positions are compared among images of one size; a lone size adds nothing, lone sizes alone are compared."""
    generator = torch.Generator().manual_seed(0)
    alike = [torch.randn(4, 8, generator=generator) for _ in range(50)]
    lone = torch.full((9, 8), 100.0)
    assert spread([*alike, lone]) == pytest.approx(max(spread(alike), 0.005 * (50 * 1 + 1e4) / 51), rel=0.1)
    assert spread([torch.ones(4, 8), -torch.ones(5, 8)]) == pytest.approx(1.0, rel=0.2)


def test_spread_of_a_collapsed_teacher_has_a_floor():
    assert spread([torch.ones(4, 8)] * 3) == pytest.approx(0.005)
    assert spread([torch.zeros(4, 8)]) > 0
