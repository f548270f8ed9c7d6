"""Scores and exact global selection: every implementation against the sort."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vkdsurgeon_kernels import BitMask, accumulate_scores, select_top_fraction
from vkdsurgeon_kernels.backend import compile_obstacle, triton_obstacle

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PLACES = [
    pytest.param(name, device, id=f"{name}-{device}", marks=pytest.mark.skipif(bool(obstacle), reason=str(obstacle)))
    for device in DEVICES
    for name, obstacle in (
        ("triton", triton_obstacle(torch.device(device))),
        ("compiled", compile_obstacle(device)),
        ("reference", None),
    )
]
FAST = [
    pytest.param(name, device, id=f"{name}-{device}", marks=pytest.mark.skipif(bool(obstacle), reason=str(obstacle)))
    for device in DEVICES
    for name, obstacle in (("triton", triton_obstacle(torch.device(device))), ("histogram", None))
]
# Equal values, both zeros, denormals, neighbours in the last bit, neighbours across a 16-bit and an 8-bit digit, huge.
VALUES = [0.0, -0.0, 1e-45, 3e-45, 1e-39, 1e-38, 0.25, 0.25, 1.0, 3.0, 3.0000002, 1.0 + 2**-8, 1e30, 3.4e38]


@pytest.fixture
def poisoned_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integer memory that `torch.empty` hands out is full of ones, so that a word nobody writes shows."""
    plain = torch.empty

    def poisoned(*size: object, **options: object) -> torch.Tensor:
        return plain(*size, **options).fill_(-1) if options.get("dtype") == torch.int32 else plain(*size, **options)

    monkeypatch.setattr(torch, "empty", poisoned)


def agree(scores: list[torch.Tensor], fraction: float, implementation: str, device: str) -> None:
    truth = select_top_fraction(scores, fraction, implementation="reference")
    got = select_top_fraction([score.to(device) for score in scores], fraction, implementation=implementation)
    assert [mask.to("cpu") for mask in got] == truth
    assert sum(mask.count for mask in got) == round(fraction * sum(score.numel() for score in scores))


@pytest.mark.parametrize(("implementation", "device"), FAST)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=40),
    cut=st.floats(0, 1),
    fraction=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
)
def test_selection_equals_sorting(poisoned_words, implementation, device, values, cut, fraction):
    flat = torch.tensor(values, dtype=torch.float32)
    split = int(cut * len(values))
    agree([flat[:split], flat[split:]], fraction, implementation, device)


@pytest.mark.parametrize(("implementation", "device"), FAST)
@pytest.mark.parametrize("fraction", [0.0, 0.003, 0.2, 0.5, 0.86, 1.0])
def test_selection_over_many_blocks_and_odd_shapes(poisoned_words, implementation, device, fraction):
    generator = torch.Generator().manual_seed(0)
    scores = [
        torch.rand(63, 100, generator=generator) ** 8,
        torch.randint(0, 4, (5001,), generator=generator).float() / 3,
        torch.zeros(0),
        torch.zeros(3, 0),
        torch.tensor(3.0),
        -torch.zeros(1024),
        torch.rand(2049, generator=generator) * 1e-42,
        torch.rand(80, 30, generator=generator).t(),
        torch.rand(40, 64, generator=generator)[:, ::2],
    ]
    agree(scores, fraction, implementation, device)


@pytest.mark.parametrize(("implementation", "device"), FAST)
def test_ties_cross_blocks_and_tensors(poisoned_words, implementation, device):
    scores = [torch.full((3000,), 0.5), torch.full((4096,), 0.5), torch.full((2500,), 0.5)]
    scores[1][7] = 2.0
    for count in (1, 2, 3000, 3001, 3002, 6500, 7096, 7097, 9595):
        agree(scores, count / 9596, implementation, device)


def test_density_is_exact_and_ranking_global_on_a_large_input():
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(1000, 700, generator=generator) ** 8, torch.rand(5_000_001, generator=generator) * 0.01]
    masks = select_top_fraction(scores, 0.1)
    total = sum(score.numel() for score in scores)
    assert sum(mask.count for mask in masks) == round(0.1 * total)
    chosen = torch.cat([score[mask.to_bool()] for score, mask in zip(scores, masks, strict=True)])
    left = torch.cat([score[~mask.to_bool()] for score, mask in zip(scores, masks, strict=True)])
    assert chosen.min() >= left.max()
    # A per-tensor threshold would have taken the same share of both.
    assert masks[0].density > 3 * masks[1].density


def test_ties_go_to_the_earlier_element():
    first, second = select_top_fraction([torch.ones(4), torch.ones(2, 3)], 0.6)
    assert first.to_bool().tolist() == [True] * 4
    assert second.to_bool().tolist() == [[True, True, False], [False, False, False]]


BOUND = """
import resource, torch
from vkdsurgeon_kernels import select_top_fraction
scores = torch.empty(20_000_000)
generator = torch.Generator().manual_seed(0)
for part in scores.split(1 << 20):
    part.exponential_(generator=generator)
select_top_fraction([scores[: 1 << 20]], 0.25, implementation="histogram")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
masks = select_top_fraction([scores], 0.25, implementation="histogram")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert masks[0].count == 5_000_000
print((after - before) * 1024 / scores.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_masks_and_working_memory_fit_in_a_third_of_the_scores():
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 0.3


# By sums the tensor of nine would come first, by means the scalar does.
ROWS = [torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 9.0], [2.0, 2.0, 2.0]]), torch.tensor([2.5, 0.5]), torch.tensor(7.0)]


@pytest.mark.parametrize(
    ("granularity", "groups", "fraction", "expected"),
    [
        # Means 7 | 3 | 2.5 | 2 | 1 | 0.5, running totals 1, 4, 5, 8, 11, 12.
        ("row", None, 1 / 12, [[0, 0, 0], [0, 0], 1]),
        ("row", None, 2 / 12, [[0, 0, 0], [0, 0], 1]),
        ("row", None, 3 / 12, [[0, 1, 0], [0, 0], 1]),
        ("row", None, 6 / 12, [[0, 1, 0], [1, 0], 1]),
        ("row", None, 7 / 12, [[0, 1, 1], [1, 0], 1]),
        ("row", None, 1.0, [[1, 1, 1], [1, 1], 1]),
        ("row", None, 0.0, [[0, 0, 0], [0, 0], 0]),
        # Means 7 | 2 | 1.5, running totals 1, 10, 12.
        ("tensor", None, 5 / 12, [[0, 0, 0], [0, 0], 1]),
        ("tensor", None, 6 / 12, [[1, 1, 1], [0, 0], 1]),
        # Means 7 | 20 / 11, then 3.3 | 2, then 2.4 | 1.5.
        ("layer", ["a", "a", "b"], 0.1, [[0, 0, 0], [0, 0], 1]),
        ("layer", ["a", "b", "b"], 0.1, [[0, 0, 0], [1, 1], 1]),
        ("layer", [("x", 1), ("x", 2), ("x", 1)], 0.5, [[1, 1, 1], [0, 0], 1]),
    ],
)
def test_units_move_as_a_whole_and_come_nearest_to_the_budget(granularity, groups, fraction, expected):
    masks = select_top_fraction(ROWS, fraction, granularity=granularity, groups=groups)
    assert masks[0].to_bool().int().tolist() == [[flag] * 3 for flag in expected[0]]
    assert masks[1].to_bool().int().tolist() == expected[1]
    assert masks[2].to_bool().int().item() == expected[2]


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.sampled_from([(3, 4), (5,), (), (2, 2, 3), (0,), (0, 3), (4, 0), (1, 7)]), min_size=1, max_size=6
    ),
    fraction=st.floats(0, 1),
    granularity=st.sampled_from(["row", "tensor", "layer"]),
    seed=st.integers(0, 1000),
)
def test_no_other_number_of_the_best_units_is_nearer(shapes, fraction, granularity, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(0, 5, shape, generator=generator).float() for shape in shapes]
    groups = [index // 2 for index in range(len(shapes))] if granularity == "layer" else None
    masks = select_top_fraction(scores, fraction, granularity=granularity, groups=groups)

    def units(index: int) -> list[tuple[object, int]]:
        rows = granularity == "row" and scores[index].dim() > 0
        label = groups[index] if groups else index
        return [((label, row), row) for row in range(shapes[index][0])] if rows else [(label, 0)]

    members: dict[object, list[tuple[float, bool]]] = {}
    for index, (score, mask) in enumerate(zip(scores, masks, strict=True)):
        owners = units(index)
        if score.numel() == 0:
            continue
        values = score.reshape(len(owners), -1).tolist()
        flags = mask.to_bool().reshape(len(owners), -1).tolist()
        for (owner, _), row, chosen in zip(owners, values, flags, strict=True):
            members.setdefault(owner, []).extend(zip(row, chosen, strict=True))
    ranked = sorted(members.values(), key=lambda unit: -sum(value for value, _ in unit) / len(unit))
    taken = [all(chosen for _, chosen in unit) for unit in ranked]
    assert taken == [any(chosen for _, chosen in unit) for unit in ranked], "a unit is selected as a whole"
    assert taken == sorted(taken, reverse=True), "the best units come first, equal ones in order"
    budget = round(fraction * sum(score.numel() for score in scores))
    totals = [sum(len(unit) for unit in ranked[:amount]) for amount in range(len(ranked) + 1)]
    if budget == 0:
        assert not any(taken)
    else:
        assert abs(totals[sum(taken)] - budget) == min(abs(total - budget) for total in totals[1:])


@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("bad", [float("nan"), -1.0])
def test_a_unit_does_not_hide_a_value_without_rank(granularity, bad):
    with pytest.raises(ValueError, match="score 1 has a negative or non-finite"):
        select_top_fraction([torch.ones(2), torch.tensor([[9.0, bad]])], 0.5, granularity=granularity)


@pytest.mark.parametrize(("implementation", "device"), [*FAST, pytest.param("reference", "cpu", id="reference")])
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf"), -1.0, -1e-45])
def test_a_value_without_rank_is_refused_with_its_place(implementation, device, bad):
    scores = [torch.ones(3, device=device), torch.tensor([1.0, -0.0, bad], device=device)]
    for fraction in (0.0, 0.5):
        with pytest.raises(ValueError, match="score 1 has a negative or non-finite"):
            select_top_fraction(scores, fraction, implementation=implementation)


def operand(dtype: torch.dtype, layout: str, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    made = torch.randn(63, 100, generator=generator).to(dtype).to(device)
    return {"plain": made, "transposed": made.t().contiguous().t(), "strided": made.repeat(1, 2)[:, ::2]}[layout]


@pytest.mark.parametrize(("implementation", "device"), PLACES)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layouts", [("plain", "plain"), ("plain", "transposed"), ("strided", "plain")], ids=str)
def test_scores_are_float32_sums(implementation, device, squared, dtype, layouts):
    score = operand(torch.float32, layouts[0], device).abs_()
    gradient = operand(dtype, layouts[1], device)
    wide = gradient.double()
    truth = score.double() + (wide.square() if squared else wide.abs())
    accumulate_scores(score, gradient, squared=squared, implementation=implementation)
    # One rounding of the product and one of the sum.
    assert ((score.double() - truth).abs() <= 2**-23 * truth).all()


@pytest.mark.parametrize(("implementation", "device"), PLACES)
def test_squares_do_not_underflow_and_neighbours_stay(implementation, device):
    around = torch.full((5003,), 7.0, device=device)
    score = around[1:-1].zero_()
    accumulate_scores(
        score, torch.full((5001,), 1e-5, device=device).half(), squared=True, implementation=implementation
    )
    assert (score > 0).all()
    assert around[0] == around[-1] == 7.0


@pytest.mark.parametrize(("implementation", "device"), PLACES)
def test_nothing_to_accumulate(implementation, device):
    score = torch.zeros(0, 3, device=device)
    accumulate_scores(score, torch.zeros(0, 3, device=device), implementation=implementation)
    assert score.shape == (0, 3)


def test_accumulation_compiles_without_a_graph_break():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def gather(score: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        accumulate_scores(score, gradient * 2, squared=True)
        return score + 1

    score = torch.zeros(7)
    assert torch.equal(gather(score, torch.full((7,), 3.0)), torch.full((7,), 37.0))
    assert torch.equal(score, torch.full((7,), 36.0))


def test_operators_keep_the_rules_of_torch():
    operators = torch.ops.vkdsurgeon
    torch.library.opcheck(operators.accumulate_scores_, (torch.zeros(5, 3), torch.ones(5, 3), True, "reference"))
    scores = [torch.rand(5, 3), torch.rand(2000), torch.zeros(0)]
    for implementation in ("reference", "histogram"):
        torch.library.opcheck(operators.select_top, (scores, 700, implementation))


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ([], {}, "no scores"),
        (torch.ones(3), {}, "one tensor"),
        ({"weight": torch.ones(3)}, {}, "score 0 is a str"),
        ([torch.ones(3)], {"fraction": 1.5}, "0..1"),
        ([torch.ones(3)], {"fraction": float("nan")}, "0..1"),
        ([torch.ones(3, dtype=torch.float64)], {}, "float32"),
        ([torch.ones(3), torch.ones(3, device="meta")], {}, "one device"),
        ([torch.ones(3)], {"granularity": "column"}, "element, row, tensor, layer"),
        ([torch.ones(3)], {"granularity": "layer"}, "groups"),
        ([torch.ones(3)], {"groups": ["a"]}, "groups"),
        ([torch.ones(3)], {"granularity": "layer", "groups": []}, "one group per score"),
        ([torch.ones(3)], {"implementation": "compiled"}, "triton, histogram, reference"),
    ],
)
def test_wrong_arguments_say_what_is_right(scores, options, message):
    with pytest.raises(ValueError, match=message):
        select_top_fraction(scores, **{"fraction": 0.5, **options})


@pytest.mark.parametrize(
    ("score", "gradient", "message"),
    [
        (torch.zeros(3, dtype=torch.bfloat16), torch.ones(3), "float32"),
        (torch.zeros(3), torch.ones(3, dtype=torch.int64), "floating-point"),
        (torch.zeros(3), torch.ones(4), "one shape"),
        (torch.zeros(3), torch.ones(3, device="meta"), "device"),
        (torch.zeros(3), None, "NoneType"),
    ],
)
def test_wrong_gradients_say_what_is_right(score, gradient, message):
    with pytest.raises(ValueError, match=message):
        accumulate_scores(score, gradient)


def test_scores_may_come_from_any_iterable():
    scores = {"first": torch.tensor([1.0, 4.0]), "second": torch.tensor([3.0, 2.0])}
    first, second = select_top_fraction(scores.values(), 0.5)
    assert (first.to_bool().tolist(), second.to_bool().tolist()) == ([False, True], [True, False])


@pytest.mark.skipif(bool(compile_obstacle("cpu")), reason="torch.compile cannot run")
def test_every_kind_of_gradient_stays_compiled():
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for squared in (False, True):
                for elements in (1, 2, 3000):
                    score = torch.zeros(elements)
                    gradient = torch.full((elements,), -2.0, dtype=dtype)
                    accumulate_scores(score, gradient, squared=squared, implementation="compiled")
                    assert score.unique().item() == (4.0 if squared else 2.0)


@pytest.mark.parametrize(("implementation", "device"), PLACES)
def test_autograd_learns_that_a_score_changed(implementation, device):
    score = torch.zeros(10, device=device)
    weight = torch.ones(10, device=device, requires_grad=True)
    product = (weight * score).sum()
    accumulate_scores(score, torch.ones(10, device=device), implementation=implementation)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_masks_are_an_eighth_of_bool():
    (mask,) = select_top_fraction([torch.rand(64, 1024)], 0.5)
    assert isinstance(mask, BitMask)
    assert mask.words.nbytes == 64 * 1024 // 8
