"""The settings of an attack as a file: read back as they were, equal in digest when equal, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vkdsurgeon.config.relearn import RelearnPlan, make_plan, save_plan
from vkdsurgeon.errors import UserError

PROTOCOLS = st.lists(st.sampled_from(["people", "pairs", "views", "benign", "unrelated"]), min_size=1, unique=True)
SHARES = st.lists(st.sampled_from([0.0, 0.1, 0.125, 0.3333, 0.5, 1.0]), min_size=1, max_size=4, unique=True)
PLANS = st.builds(
    RelearnPlan,
    protocol=PROTOCOLS,
    fraction=SHARES,
    scope=st.lists(st.sampled_from(["visual", "llm", "llm_full", "all"]), min_size=1, unique=True),
    lr=st.lists(st.sampled_from([1e-7, 3e-4, 1.5e-4, 0.1, 1.0]), min_size=1, max_size=3, unique=True),
    steps=st.integers(1, 10_000),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True),
    curve_every=st.none() | st.integers(1, 500),
    limit=st.none() | st.integers(1, 500),
    length_normalised=st.booleans(),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


# Every example is made durable, however slow the disk.
@settings(deadline=None)
@given(plan=PLANS, suffix=st.sampled_from(["yaml", "json"]))
def test_a_saved_plan_is_read_back_as_it_was(plan: RelearnPlan, suffix: str, folder: Path) -> None:
    file = folder / f"{plan.digest}.{suffix}"
    save_plan(plan, file)
    assert make_plan(file, {}) == plan
    assert make_plan(file, {}).digest == plan.digest


@given(plan=PLANS)
def test_every_attack_has_an_id_that_a_gate_can_name(plan: RelearnPlan) -> None:
    ids = [case.id for case in plan.cases]
    assert len(set(ids)) == len(plan.protocol) * len(plan.fraction) * len(plan.scope) * len(plan.lr)
    assert all(part.replace("_", "").replace("-", "").isalnum() for name in ids for part in name.split("."))


def test_ids_name_what_there_are_several_of() -> None:
    plan = RelearnPlan(protocol="pairs,people", fraction="0.1,1", lr="3e-4,1e-3")
    assert [case.id for case in plan.cases][:3] == ["pairs.10.lr3e-4", "pairs.10.lr1e-3", "pairs.100.lr3e-4"]
    assert [case.id for case in RelearnPlan(fraction="0.125").cases] == ["people.12_5"]
    assert [case.id for case in RelearnPlan(scope="visual,llm").cases] == ["people.50.visual", "people.50.llm"]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, (7, 15)),
        ({"steps": 1}, (1,)),
        ({"curve_every": 4}, (4, 8, 12, 15)),
        ({"curve_every": 5}, (5, 10, 15)),
        ({"curve_steps": "1,2"}, (1, 2, 15)),
    ],
)
def test_the_last_step_is_always_measured(settings: dict[str, object], steps: tuple[int, ...]) -> None:
    assert RelearnPlan(**settings).measured_steps == steps


def test_equal_settings_have_one_digest_however_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("protocol: pairs\nlr: 3e-4\nfraction: [0.1, 0.25]\nseeds: 0,1\n")
    flags = {"protocol": "pairs", "lr": "0.0003", "fraction": "0.1,0.25", "seeds": "0,1"}
    assert make_plan(file, {}).digest == make_plan(None, flags).digest != RelearnPlan().digest


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 60\ncurve_every: 10\nrank: 4\n")
    plan = make_plan(file, {"curve_steps": "5", "rank": 16})
    assert (plan.steps, plan.rank, plan.measured_steps) == (60, 16, (5, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "unknown key 'stepz'"),
        ("steps: 0", "steps"),
        ("steps: 1.5", "steps"),
        ("attack: quantize", "attack"),
        ("protocol: everybody", "protocol"),
        ("fraction: 1.2", "less than or equal to 1"),
        ("fraction: half", "'half' is no number"),
        ("fraction: []", "at least 1"),
        ("lr: .nan", "lr"),
        ("lr: 0", "greater than 0"),
        ("seeds: 0,1,0", "same value twice"),
        ("seeds: 0,x", "no whole number"),
        ("curve_every: 2\ncurve_steps: 3", "cannot be combined"),
        ("fraction: 0.1,0.10000000001", "their metric ids would be equal"),
        ("curve_steps: 99", "the attack has only 15 steps"),
        ("steps: 3\nsteps: 4", "twice"),
        ("- steps", "not a mapping"),
        ("steps: [", "not YAML"),
        ("length_normalised: 1", "length_normalised"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "attack.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        make_plan(file, {})
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_wrong_flag_is_named_and_not_the_file(tmp_path: Path) -> None:
    file = tmp_path / "attack.yaml"
    file.write_text("steps: 3")
    with pytest.raises(UserError) as caught:
        make_plan(file, {"batch_size": 0})
    assert caught.value.where == "--batch-size"


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    file = tmp_path / "attack.yaml"
    save_plan(RelearnPlan(), file)
    save_plan(RelearnPlan(), file)
    before = file.read_bytes()
    with pytest.raises(UserError, match="other content"):
        save_plan(RelearnPlan(steps=3), file)
    assert file.read_bytes() == before
    with pytest.raises(UserError, match="does not exist"):
        save_plan(RelearnPlan(), tmp_path / "no" / "attack.yaml")
