"""Charts of the results, drawn by matplotlib: what is forgotten against what is kept, and what comes back."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.study.attacks import PROTOCOLS, RATES, STEPS
from benchmarks.study.bounds import GENERAL, NAME, RETAIN
from benchmarks.study.cases import Role
from benchmarks.study.figures import Case, choose, read_cases, shared_by
from benchmarks.study.marks import GOLD, Panel, clouds, panel, recipes_of
from vkdsurgeon.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FRONTIER, RELEARNING = "study_frontier.svg", "study_relearning.svg"
INSTALL = 'pip install "vkdsurgeon[figures]"'

# Okabe and Ito's colours for all kinds of colour vision, without those that are too light for lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKS, _DASHES = ("o", "s", "^", "v"), ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
_GREY, _RULE = "#757575", "#333333"
# Inches; of the legend, letters in the width and height of a line.
_WIDTH, _LETTERS, _LINE = 8.0, 104, 0.19
# Linear as far as the bounds reach, logarithmic where a method takes half of everything away.
_LINEAR = 5
_TICKS = (0, 1, 2, 5, 10, 20, 50, 100)
_STYLE = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "vkdsurgeon",
}


@dataclass(frozen=True)
class _Look:
    colour: str
    mark: str
    dashes: str | tuple[int, tuple[float, ...]]


def draw(
    files: Sequence[Path],
    out: Path,
    role: Role = "reporting",
    recipes: Sequence[str] = ("*",),
    relearning: Sequence[str] = ("*",),
) -> list[Path]:
    """Write both charts; the same rows and matplotlib give the same bytes.

    Args:
        files: Rows, all measured on the same checkpoints.
        out: Directory; made where missing.
        role: Which cases.
        recipes: Patterns of the recipes to draw.
        relearning: Patterns of those among them that the second chart shows.

    Returns:
        What was written.

    Raises:
        UserError: matplotlib is missing, `out` is a file, or the rows hold nothing that can be drawn. Nothing is
            written then.
    """
    if out.exists() and not out.is_dir():
        raise UserError("this is no directory", where="--out", value=str(out), expected="where the charts go")
    cases = _drawable(read_cases(files, recipes).get(role, []), files, role)
    attacked = [case for case in choose(cases, relearning) if case.recipes]
    panels = [found for protocol in PROTOCOLS if (found := panel(attacked, protocol))]
    if not panels:
        raise UserError(
            "no recipe that is to be drawn was attacked",
            where=", ".join(map(str, files)),
            value=" ".join(relearning),
            expected=f"attacks at peak {RATES[0]:g} on one of {', '.join(recipes_of(cases))}",
            remedy="measure attacks: python -m benchmarks.study run --quick",
        )
    _require()
    looks = {GOLD: _Look(_GREY, "D", "-")}
    for index, name in enumerate(recipes_of(cases)):
        turn = index // len(_COLOURS) % len(_MARKS)
        looks[name] = _Look(_COLOURS[index % len(_COLOURS)], _MARKS[turn], _DASHES[turn])
    with _plain():
        drawn = {FRONTIER: _svg(_frontier(cases, looks)), RELEARNING: _svg(_relearning(panels, looks))}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in drawn.items():
        (out / name).write_bytes(content)
    return [out / name for name in drawn]


def _require() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"charts need the library matplotlib, which cannot be imported: {error}",
            where="figure",
            remedy=f"install it: {INSTALL}",
        ) from error


def _drawable(cases: Sequence[Case], files: Sequence[Path], role: Role) -> list[Case]:
    found = [case for case in cases if case.recipes]
    if not found:
        raise UserError(
            f"there is no case for {role} with base, gold and a recipe",
            where=", ".join(map(str, files)),
            expected="rows of base, of gold and of a recipe on one case",
            remedy="measure them: python -m benchmarks.study run; or draw the other cases with --role",
        )
    return found


@contextmanager
def _plain() -> Iterator[None]:
    """The library's own style and this one, whatever the user's settings are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    # Date and version would make other bytes of the same chart.
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _frontier(cases: Sequence[Case], looks: Mapping[str, _Look]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 3.9), layout="constrained")
    measures = (("retain", "Retained people", RETAIN), ("general", "General vision", GENERAL))
    for axes, (measure, title, bound) in zip(figure.subplots(1, 2), measures, strict=True):
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.set_yscale("symlog", linthresh=_LINEAR)
        axes.axvline(NAME, color=_RULE, linewidth=0.7, zorder=1)
        axes.axhline(-bound, color=_RULE, linewidth=0.7, zorder=1)
        found = clouds(cases, measure)
        for cloud in found:
            mark, colour = looks[cloud.recipe].mark, looks[cloud.recipe].colour
            xs, ys = zip(*cloud.points, strict=True)
            axes.scatter(xs, ys, s=18, marker=mark, facecolors="none", edgecolors=colour, linewidths=0.8, zorder=2)
            if cloud.mean:
                axes.scatter(*cloud.mean, s=75, marker=mark, color=colour, edgecolors="white", zorder=3)
        points = [point for cloud in found for point in cloud.points]
        _label(axes.xaxis, [x for x, _ in points], NAME)
        _label(axes.yaxis, [y for _, y in points], -bound)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("names still known, minus gold (points)")
        axes.set_ylabel("right answers, minus base (points)")
    counts = {cloud.recipe: len(cloud.points) for cloud in found}
    large = _over(len({case.name for case in shared_by(cases)}))
    title = f"small: one case; large: {large}; thin lines: bounds; beyond {_LINEAR} points the scale is logarithmic"
    _legend(figure, looks, counts, title, lines=False)
    return figure


def _label(axis: Axis, values: Sequence[float], bound: float) -> None:
    low, high = min(*values, bound, 0), max(*values, bound, 0)
    ticks = {sign * tick for tick in _TICKS for sign in (-1, 1) if low <= sign * tick <= high} | {bound}
    axis.set_ticks(sorted(ticks), [f"{tick:+g}".replace("-", "−") if tick else "0" for tick in sorted(ticks)])
    axis.set_ticks([], minor=True)


def _relearning(panels: Sequence[Panel], looks: Mapping[str, _Look]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 3.3), layout="constrained")
    counts: dict[str, int] = {}
    for axes, found in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for curve in found.curves:
            look = looks[curve.recipe]
            counts[curve.recipe] = max(counts.get(curve.recipe, 0), len(curve.cases))
            for steps in curve.cases:
                axes.plot(*_xy(steps), color=look.colour, linewidth=0.6, alpha=0.5, zorder=2)
            if curve.mean:
                (line,) = axes.plot(*_xy(curve.mean), linewidth=2.2, markersize=5, zorder=3)
                line.set(color=look.colour, linestyle=look.dashes, marker=look.mark, markeredgecolor="white")
        axes.set(xticks=(0, *STEPS), ylim=(-3, 103), xlabel="steps of the attacker")
        axes.set_title(found.protocol, loc="left", fontweight="bold")
        axes.set_title(_over(found.shared), loc="right")
    figure.axes[0].set_ylabel("right answers, percent")
    _legend(figure, looks, counts, f"thin: one case; thick: mean; peak learning rate {RATES[0]:g}", lines=True)
    return figure


def _xy(steps: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(steps), list(steps.values())


def _over(shared: int) -> str:
    """In words, what is in a mean."""
    return f"mean over {shared} case{'s' * (shared > 1)}" if shared else "no mean, no case in common"


def _legend(figure: Figure, looks: Mapping[str, _Look], counts: Mapping[str, int], title: str, *, lines: bool) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for name, look in looks.items():
        if name in counts:
            dashes = look.dashes if lines else "none"
            label = f"{name}, n = {counts[name]}"
            handles.append(Line2D([], [], color=look.colour, marker=look.mark, linestyle=dashes, label=label))
    columns = max(_LETTERS // max(len(handle.get_label()) + 4 for handle in handles), 1)
    # What the legend needs is not taken from the axes.
    figure.set_figheight(figure.get_figheight() + _LINE * -(-len(handles) // columns))
    spaces = {"handlelength": 2.4 if lines else 1.0, "columnspacing": 1.2, "handletextpad": 0.6}
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=columns, **spaces)
