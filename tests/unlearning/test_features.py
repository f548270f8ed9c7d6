"""Pictures and teacher features."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import draw_subject
from tests.families import build_checkpoint
from vkdsurgeon.data.pictures import pictures_of
from vkdsurgeon.data.read import read_records
from vkdsurgeon.features import FeatureStore, PictureSet, teacher_features
from vkdsurgeon.visual import load_visual_stack


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint("qwen2_vl", tmp_path_factory.mktemp("models") / "qwen")


def test_teacher_features_do_not_depend_on_batching_or_cache(llava: Path, sets: dict[str, Path]):
    stack = load_visual_stack(llava, device="cpu")
    pictures = pictures_of(read_records(sets["forget"], role="forget"), role="forget")
    layers = ("layer.0", "projector")
    one = teacher_features(stack, PictureSet(stack, pictures, 1 << 30), layers, 64, 1 << 30)
    two = teacher_features(stack, PictureSet(stack, pictures, 0), layers, 3, 0)
    for layer in layers:
        assert len(one.all(layer)) == len(pictures)
        for first, second in zip(one.all(layer), two.all(layer), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_pictures_of_different_shapes_share_no_batch(qwen: Path, tmp_path: Path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate([(56, 56), (112, 56), (56, 112), (56, 56)]):
        draw_subject(number, 0, side=112).resize(size, Image.Resampling.NEAREST).save(folder / f"{number}.png")
    stack = load_visual_stack(qwen, device="cpu")
    pictures = pictures_of(read_records(folder, role="forget"), role="forget")
    prepared = PictureSet(stack, pictures, 1 << 30)
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
