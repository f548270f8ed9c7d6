"""Linear probes: readers by hand, views that never leak, and a reader of the old features that sees what changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import RidgeClassifier
from vkdsurgeon_cli.main import run

from tests.families import build_checkpoint
from tests.tiny_llava import World, world
from vkdsurgeon.attacks.linear_probe import LinearReader
from vkdsurgeon.attacks.probe import Probing, probe
from vkdsurgeon.attacks.probe_images import build_gallery, deal_folds
from vkdsurgeon.data.read import read_records
from vkdsurgeon.data.samples import Sample, samples_of
from vkdsurgeon.data.sets import NamedSet
from vkdsurgeon.errors import UserError
from vkdsurgeon.evaluation.gates import parse_gates
from vkdsurgeon.results.attacks import ProbeResult


@pytest.fixture(scope="module")
def facts() -> World:
    return world()


def named(name: str, path: Path) -> NamedSet:
    return NamedSet(name, tuple(read_records(path, role=name)))


def images(counts: dict[str, int], start: int = 0) -> list[Sample]:
    names = [name for name, count in counts.items() for _ in range(count)]
    return [Sample(Path(f"{i}"), name, f"digest-{start + i}", f"set:{i}") for i, name in enumerate(names)]


def test_a_reader_tells_apart_what_a_line_can() -> None:
    features = np.array([[0.0, 5.0], [0.1, -5.0], [1.0, 5.0], [0.9, -5.0]])
    for kind in ("logistic", "ridge"):
        reader = LinearReader(kind, 0.1).fit(features, ["a", "a", "b", "b"])
        assert reader.read(np.array([[0.2, 9.0], [0.8, -9.0]])) == ["a", "b"]
        assert reader.score(np.array([[0.2, 0.0]])) < 0 < reader.score(np.array([[0.8, 0.0]]))


def test_the_span_of_the_training_part_loses_nothing() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(12, 40)), [str(number % 3) for number in range(12)]
    other = generator.normal(size=(5, 40))
    standard = (features - features.mean(0)) / features.std(0)
    plain = RidgeClassifier(alpha=2.0).fit(standard, labels)
    wanted = plain.decision_function((other - features.mean(0)) / features.std(0))
    assert np.allclose(LinearReader("ridge", 2.0).fit(features, labels).score(other), wanted)


def test_constant_features_do_no_harm() -> None:
    features = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.1], [1.0, 0.9]])
    assert LinearReader("logistic", 1.0).fit(features, ["a", "b", "a", "b"]).read(features) == ["a", "b", "a", "b"]


def test_every_subject_is_dealt_to_every_fold() -> None:
    subjects = ["a"] * 6 + ["b"] * 4
    dealt = deal_folds(subjects, 2, seed=0)
    assert [sum(dealt[:6]), sum(dealt[6:])] == [3, 2]
    assert dealt == deal_folds(subjects, 2, seed=0)
    assert any(deal_folds(subjects, 2, seed=seed) != dealt for seed in range(1, 5))


def test_folds_test_every_image_once_on_a_reader_that_never_saw_it() -> None:
    gallery, told = build_gallery(
        images({"a": 4, "b": 3}), images({"c": 4, "d": 1, "e": 4}, 50), [], [], folds=4, limit=None, seed=0
    )
    assert len(gallery.splits) == 3, "no more folds than views"
    assert sorted(index for _, tested in gallery.splits for index in tested) == list(range(15))
    assert all(not set(shown) & set(tested) for shown, tested in gallery.splits)
    assert gallery.people(forget=False) == ["c", "e"]
    assert any("2 of 3 retain subjects" in each for each in told)


def test_held_out_views_are_what_is_tested() -> None:
    forget, heldout = images({"a": 2, "b": 2}), images({"a": 1, "b": 1, "z": 1}, 20)
    retain, more = images({"c": 4, "d": 4}, 40), images({"c": 1, "d": 1}, 60)
    gallery, told = build_gallery(forget, retain, heldout, more, folds=4, limit=None, seed=0)
    ((shown, tested),) = gallery.splits
    assert {gallery.images[index] for index in tested} == {*heldout[:2], *more}
    assert {gallery.images[index] for index in shown} == {*forget, *retain}
    assert any("does not have" in each for each in told)
    gallery, _ = build_gallery(forget, retain, heldout, [], folds=4, limit=None, seed=0)
    ((shown, tested),) = gallery.splits
    assert sum(not gallery.forget[index] for index in tested) == 2, "a fold of the retain views"
    assert not set(shown) & set(tested)


def test_whole_subjects_are_drawn() -> None:
    retain = images(dict.fromkeys("cdefgh", 4), 50)
    gallery, _ = build_gallery(images({"a": 4}), retain, [], [], folds=2, limit=9, seed=1)
    assert len(gallery.people(forget=False)) == 2
    assert len(gallery.images) == 4 + 8


def test_sets_that_make_no_test_are_refused() -> None:
    with pytest.raises(UserError, match="single image"):
        build_gallery(images({"a": 1, "b": 2}), [], [], [], folds=2, limit=None, seed=0)
    with pytest.raises(UserError, match="in the forget and in the heldout"):
        build_gallery(images({"a": 2}), [], images({"a": 1}), [], folds=2, limit=None, seed=0)


@pytest.fixture(scope="module")
def rewired(facts: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base behind a projector whose output is turned, and with a language model that nobody may read."""
    root = Path(shutil.copytree(facts.base, tmp_path_factory.mktemp("rewired") / "model"))
    weights = load_file(root / "model.safetensors")
    for name, value in weights.items():
        if "multi_modal_projector.linear_2" in name:
            weights[name] = value.flip(0).contiguous()
        elif "vision_tower" not in name and "multi_modal_projector" not in name:
            weights[name] = torch.full_like(value, float("nan"))
    save_file(weights, root / "model.safetensors", metadata={"format": "pt"})
    return root


def test_a_reader_of_the_old_features_fails_where_a_new_probe_does_not(facts: World, rewired: Path) -> None:
    result = probe(
        Probing(
            model=rewired,
            reference=facts.base,
            gold=facts.gold,
            forget=named("forget", facts.forget),
            retain=named("retain", facts.retain),
            device="cpu",
            gates=parse_gates(
                [
                    "probe.projector.reader.accuracy<0.9",
                    "gap.probe.projector.crowd.accuracy<=1",
                    "probe.layer-0.detect.auc<=gold",
                ]
            ),
        )
    )
    values = {metric.id: metric.value for metric in result.metrics}
    # A probe of its own does not care in which order the features stand.
    for kind in ("identity", "crowd"):
        assert values[f"probe.projector.{kind}.accuracy"] == values[f"reference.probe.projector.{kind}.accuracy"] > 0.8
    assert values["reference.probe.projector.reader.accuracy"] == values["reference.probe.projector.crowd.accuracy"]
    assert values["probe.projector.reader.accuracy"] < 0.7
    assert values["probe.retain.projector.reader.accuracy"] < 0.7
    # Nothing happened in the tower.
    assert values["probe.layer-1.reader.accuracy"] == values["reference.probe.layer-1.reader.accuracy"]
    gap = values["probe.projector.crowd.accuracy"] - values["gold.probe.projector.crowd.accuracy"]  # type: ignore[operator]
    assert values["gap.probe.projector.crowd.accuracy"] == pytest.approx(gap)
    chances = {metric.id: metric.chance for metric in result.metrics}
    assert chances["probe.projector.identity.accuracy"] == pytest.approx(1 / 3)
    assert chances["probe.projector.crowd.accuracy"] == pytest.approx(1 / 8)
    assert any("a probe finds any face apart" in warning for warning in result.warnings)
    assert result.settings.layers == ["layer.0", "layer.1", "projector"]
    assert "Ann" not in json.dumps(result.model_dump(mode="json")), "no names"


def test_all_tokens_and_held_out_views(facts: World) -> None:
    result = probe(
        Probing(
            model=facts.base,
            forget=named("forget", facts.forget),
            heldout=named("heldout", facts.heldout),
            layers=["projector"],
            probe="ridge",
            pooling="tokens",
            device="cpu",
        )
    )
    (metric,) = result.metrics
    assert metric.id == "probe.projector.identity.accuracy"
    assert metric.n == len(samples_of(read_records(facts.heldout, role="heldout"), role="heldout"))
    assert metric.value is not None
    assert metric.value > 0.6
    assert result.settings.tested_on == "heldout"


def test_a_family_without_a_projector_apart_is_probed(sets: dict[str, Path], tmp_path: Path) -> None:
    root = build_checkpoint("qwen2_vl", tmp_path / "model")
    result = probe(Probing(model=root, forget=named("forget", sets["forget"]), device="cpu", folds=2))
    assert [metric.id for metric in result.metrics][-1] == "probe.projector.identity.accuracy"


def test_the_command(facts: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe.json"
    words = ["attack", "probe", str(facts.base), "--forget", str(facts.forget), "--retain", str(facts.retain)]
    words += ["--device", "cpu", "--layer", "projector", "--folds", "2", "--limit", "16"]
    assert run([*words, "-o", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["kind"] == "attack.probe"
    assert "no gold model" in printed.err
    result = ProbeResult.model_validate_json(out.read_text())
    assert result.settings.retain_subjects == 2
    assert "scikit-learn" in result.versions
    assert run([*words, "--gate", "probe.projector.crowd.accuracy<0"]) == 3
    assert "chance" in capsys.readouterr().out
    for wrong in (
        ["--gate", "probe.projector.reader.accuracy<=0.1"],
        ["--layer", "layer.9"],
        ["--regularisation", "0"],
        ["--retain-heldout", str(facts.heldout)],
        ["--heldout", str(facts.forget)],
    ):
        assert run([*words, *wrong]) == 2, wrong
    capsys.readouterr()
