"""Where marks and labels of a figure land."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vkdsurgeon.report.figures import HEIGHT, WIDTH, Curve, Series, draw_curve, draw_density, place

shares = st.floats(min_value=0, max_value=1)


def test_a_curve_rises_where_its_values_rise():
    curve = draw_curve("vqa", [Series("model", "unlearned", ((0, 0.0), (5, 1.0)))], ceiling=None, chance=0.5)
    (line,) = curve.lines
    assert line.marks == ((Curve.left, Curve.bottom), (Curve.right, Curve.top))
    assert curve.rules[0].y == (Curve.top + Curve.bottom) / 2
    assert curve.description == (
        "vqa over the steps of the attack: unlearned from 0.0 % to 100.0 % after 5 steps; chance 50.0 %."
    )


@given(st.lists(shares, min_size=1, max_size=2), shares, shares)
def test_labels_never_cover_each_other(ends: list[float], ceiling: float, chance: float):
    series = [Series(role, role, ((0, 0.2), (9, end))) for role, end in zip(("model", "gold"), ends, strict=False)]
    curve = draw_curve("vqa", series, ceiling=ceiling, chance=chance)
    places = sorted([line.label_y for line in curve.lines] + [rule.label_y for rule in curve.rules])
    assert all(after - before >= 13.5 for before, after in pairwise(places))
    assert places[0] >= 0
    assert places[-1] <= HEIGHT


@given(st.lists(st.tuples(st.integers(0, 1000), shares), min_size=1, max_size=40))
def test_bars_stay_inside_and_the_share_is_told(layers: list[tuple[int, float]]):
    density = draw_density([("layer.0", elements, int(elements * share)) for elements, share in layers])
    assert len(density.bars) == len(layers)
    for bar in density.bars:
        assert bar.x >= density.left
        assert bar.x + bar.width <= WIDTH
        assert density.top <= bar.y <= density.bottom


def test_shares_outside_the_scale_are_drawn_at_its_end():
    assert place(-0.5) == place(0.0) < place(1.0) == place(7.0)
