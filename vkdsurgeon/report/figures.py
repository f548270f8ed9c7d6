"""Where the marks of a figure go; colours, fonts and text alternatives are the templates'.

Figures are drawn in units that are pixels at the width of a phone, so that their text stays readable there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vkdsurgeon.report.text import percent

WIDTH, HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 92, 12, 34
_LABEL_GAP = 14.0
_TICKS_AT_MOST = 6
_LAYER_LABELS_AT_MOST = 10
_LABEL_LETTERS = 6

INTERVAL_WIDTH, _INTERVAL_PAD = 168, 6


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Series:
    """Values of one model: (step, share) in the order of the steps."""

    role: str
    label: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Line:
    """A drawn series with the place of its label."""

    role: str
    label: str
    path: str
    marks: tuple[tuple[float, float], ...]
    label_y: float
    series: Series


@dataclass(frozen=True)
class Rule:
    """A horizontal line at a known value."""

    kind: str
    label: str
    y: float
    label_y: float


@dataclass(frozen=True)
class Curve:
    """A recovery curve.

    Attributes:
        name: What is measured.
        description: The same in words, for who cannot see it.
        lines: One per attacked model.
        rules: The base and chance, where they are known.
        xs: Ticks of the steps.
        ys: Ticks of the shares, in percent.
        steps: Every step measured, in order.
    """

    name: str
    description: str
    lines: tuple[Line, ...]
    rules: tuple[Rule, ...]
    xs: tuple[Tick, ...]
    ys: tuple[Tick, ...]
    steps: tuple[int, ...]

    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Bar:
    """The density of one layer."""

    layer: str
    label: str
    elements: int
    selected: int
    x: float
    y: float
    width: float
    height: float

    @property
    def share(self) -> str:
        """Selected share in percent."""
        return percent(self.selected / max(self.elements, 1))


@dataclass(frozen=True)
class Density:
    """Share of selected weights per layer.

    Attributes:
        description: The same in words.
        bars: One per layer.
        ys: Ticks, in percent.
        overall: Height of the line at the overall density.
        overall_label: Its value in percent.
        key: What letters below the bars stand for; empty where there are none.
    """

    description: str
    bars: tuple[Bar, ...]
    ys: tuple[Tick, ...]
    overall: float
    overall_label: str
    key: str

    left, right, top, bottom = _LEFT, WIDTH - 8, _TOP, HEIGHT - _BOTTOM


def place(share: float) -> float:
    """Where a share lies on the scale of an interval plot."""
    return round(_INTERVAL_PAD + _clamped(share) * (INTERVAL_WIDTH - 2 * _INTERVAL_PAD), 1)


def draw_curve(name: str, series: Sequence[Series], *, ceiling: float | None, chance: float | None) -> Curve:
    """Draw what came back over the steps of an attack.

    Args:
        name: What is measured.
        series: At least one, of at least two points each.
        ceiling: Share that the base reaches, if known.
        chance: Share that guessing reaches, if known.
    """
    steps = sorted({step for each in series for step, _ in each.points})
    span = max(steps[-1] - steps[0], 1)

    def x(step: int) -> float:
        return round(Curve.left + (step - steps[0]) / span * (Curve.right - Curve.left), 1)

    def y(share: float) -> float:
        return round(Curve.bottom - _clamped(share) * (Curve.bottom - Curve.top), 1)

    marks = [tuple((x(step), y(share)) for step, share in each.points) for each in series]
    known = [("base", ceiling), ("chance", chance)]
    levels = [(kind, share) for kind, share in known if share is not None]
    ends = [points[-1][1] for points in marks] + [y(share) for _, share in levels]
    labels = _spread(ends, low=Curve.top, high=Curve.bottom)
    told = "; ".join(
        f"{each.label} from {percent(each.points[0][1])} % to {percent(each.points[-1][1])} % after "
        f"{each.points[-1][0]} steps"
        for each in series
    )
    told += "".join(f"; {kind} {percent(share)} %" for kind, share in levels)
    return Curve(
        name=name,
        description=f"{name} over the steps of the attack: {told}.",
        lines=tuple(
            Line(
                role=each.role,
                label=f"{each.label} {percent(each.points[-1][1])}",
                path=" ".join(f"{px},{py}" for px, py in points),
                marks=points,
                label_y=label_y,
                series=each,
            )
            for each, points, label_y in zip(series, marks, labels, strict=False)
        ),
        rules=tuple(
            Rule(kind, f"{kind} {percent(share)}", y(share), label_y)
            for (kind, share), label_y in zip(levels, labels[len(series) :], strict=True)
        ),
        xs=tuple(Tick(x(step), f"{step:,}") for step in _some(steps, _TICKS_AT_MOST)),
        ys=tuple(Tick(y(tick / 100), str(tick)) for tick in (0, 25, 50, 75, 100)),
        steps=tuple(steps),
    )


def draw_density(layers: Sequence[tuple[str, int, int]]) -> Density:
    """Draw where the saliency mask lies.

    Args:
        layers: Name, elements and selected elements of each layer, in order; at least one.
    """
    shares = [selected / max(elements, 1) for _, elements, selected in layers]
    total = sum(elements for _, elements, _ in layers)
    overall = sum(selected for _, _, selected in layers) / max(total, 1)
    top = next((limit for limit in (0.05, 0.1, 0.25, 0.5) if max(shares) <= limit), 1.0)

    def y(share: float) -> float:
        return round(Density.bottom - _clamped(share / top) * (Density.bottom - Density.top), 1)

    slot = (Density.right - Density.left) / len(layers)
    labelled = set(_some(range(len(layers)), _LAYER_LABELS_AT_MOST))
    labels, key = _labels([layer for layer, _, _ in layers], labelled)
    bars = []
    for index, ((layer, elements, selected), share) in enumerate(zip(layers, shares, strict=True)):
        bars.append(
            Bar(
                layer=layer,
                label=labels[index],
                elements=elements,
                selected=selected,
                x=round(Density.left + slot * (index + 0.15), 2),
                y=y(share),
                width=round(slot * 0.7, 2),
                height=round(Density.bottom - y(share), 1),
            )
        )
    most, least = max(bars, key=lambda bar: bar.height), min(bars, key=lambda bar: bar.height)
    return Density(
        description=(
            f"Share of the weights of each of {len(layers)} layers that the mask selects: {percent(overall)} % over "
            f"all, most in {most.layer} ({most.share} %), least in {least.layer} ({least.share} %)."
        ),
        bars=tuple(bars),
        ys=tuple(Tick(y(top * part / 2), f"{100 * top * part / 2:g}") for part in range(3)),
        overall=y(overall),
        overall_label=f"{percent(overall)} % over all",
        key=key,
    )


def _labels(layers: Sequence[str], shown: Collection[int]) -> tuple[list[str], str]:
    """Labels below the bars, and a legend: a name that does not fit is replaced by a letter."""
    labels: list[str] = []
    key: list[str] = []
    for index, layer in enumerate(layers):
        label = "rest" if layer == "tower" else layer.removeprefix("layer.").rsplit(".", 1)[-1]
        if index not in shown:
            label = ""
        elif len(label) > _LABEL_LETTERS:
            label = chr(ord("A") + len(key))
            key.append(f"{label} is {layer}")
        labels.append(label)
    return labels, ", ".join(key)


def _some(items: Sequence[int], most: int) -> list[int]:
    """At most so many of a sequence, evenly, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _spread(places: Sequence[float], *, low: float, high: float) -> list[float]:
    """Move labels apart until none covers another, in their order, within bounds."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + _LABEL_GAP
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - _LABEL_GAP
    return [round(value, 1) for value in moved]


def _clamped(share: float) -> float:
    return min(max(share, 0.0), 1.0)
