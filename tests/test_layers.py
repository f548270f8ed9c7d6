"""Dependencies go one way: every import of the package, those inside functions and for types alone included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"vkdsurgeon": ROOT, "vkdsurgeon_kernels": ROOT / "kernels", "vkdsurgeon_cli": ROOT / "cli"}
CLI, KERNELS, API = "cli", "kernels", "api"

# Each room may import from those in earlier rows.
LAYERS = (
    (KERNELS, "errors"),
    ("files",),
    ("results", "data", "config"),
    ("checkpoint",),
    ("patch",),
    ("model",),
    ("training",),
    ("vision_pass",),
    ("baselines", "decoder_pass"),
    ("pipeline", "evaluation"),
    ("tuning", "comparison", "report", "attacks"),
    ("release",),
    (API,),
    (CLI,),
)
HEIGHT = {room: height for height, rooms in enumerate(LAYERS) for room in rooms}
# Rooms of one row know nothing of each other, but for these: a comparison attacks what it compares, and a document
# holds the settings it was made with.
BESIDE = {("comparison", "attacks"), ("results", "config")}
# Module -> module, against the order. This set may only shrink.
EXCEPTIONS: set[tuple[str, str]] = set()

Arrow = tuple[str, str]


def _modules() -> dict[str, Path]:
    found = {}
    for package, root in SOURCES.items():
        for path in (root / package).rglob("*.py"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = _modules()
DOTTED = {module for module in MODULES if "." in module}


def _imported(tree: ast.AST, module: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in DOTTED:
            # What is imported by name: a lazy API, a module run in a process of its own.
            yield node.value


def _arrows() -> set[Arrow]:
    arrows = set()
    for module, path in MODULES.items():
        for other in _imported(ast.parse(path.read_text(encoding="utf-8")), module):
            if other.split(".")[0] in {*SOURCES, "benchmarks", "tests"} and other != module:
                arrows.add((module, other))
    return arrows


ARROWS = _arrows()


def _room(module: str) -> str:
    """The room of a module; empty for the package's own `__init__`, which holds the version."""
    package, *rest = module.split(".")
    if package != "vkdsurgeon":
        return {"vkdsurgeon_cli": CLI, "vkdsurgeon_kernels": KERNELS}.get(package, package)
    return rest[0] if rest else ""


def _against(arrow: Arrow) -> bool:
    here, there = map(_room, arrow)
    if here == there or there == "":
        return False
    if there not in HEIGHT:
        return True
    if here == "":
        return there != API
    return HEIGHT[there] > HEIGHT[here] or (HEIGHT[there] == HEIGHT[here] and (here, there) not in BESIDE)


def test_every_room_has_a_place() -> None:
    assert {_room(module) for module in MODULES} - {""} <= set(HEIGHT)


def test_no_module_lies_loose() -> None:
    loose = {path.stem for path in (ROOT / "vkdsurgeon").glob("*.py")}
    assert loose <= {"__init__", "errors"}


def test_no_import_goes_against_the_order() -> None:
    found = {arrow for arrow in ARROWS if _against(arrow)}
    assert not found - EXCEPTIONS, "imports against the order"
    assert not EXCEPTIONS - found, "these exceptions are no longer needed: take them out"


def test_rooms_of_one_row_that_may_know_each_other_do() -> None:
    assert {(_room(here), _room(there)) for here, there in ARROWS} >= BESIDE


@pytest.mark.parametrize("level", ["modules", "rooms"])
def test_there_is_no_circle(level: str) -> None:
    # The package's own `__init__` has the version, which low rooms read, and looks up the API only when it is used.
    below = {(here, there) for here, there in ARROWS if "" not in (_room(here), _room(there))}
    known = below if level == "modules" else {(_room(here), _room(there)) for here, there in below}
    left = {(here, there) for here, there in known if here != there}
    # What nothing is imported by can be in no circle, nor can what imports nothing.
    while left:
        sources, targets = {here for here, _ in left}, {there for _, there in left}
        rest = {(here, there) for here, there in left if here in targets and there in sources}
        if rest == left:
            break
        left = rest
    assert not left


@pytest.mark.parametrize(
    ("arrow", "against"),
    [
        (("vkdsurgeon.data.read", "vkdsurgeon.errors"), False),
        (("vkdsurgeon.errors", "vkdsurgeon.data.read"), True),
        (("vkdsurgeon.comparison.compare", "vkdsurgeon.attacks.relearn"), False),
        (("vkdsurgeon.attacks.relearn", "vkdsurgeon.comparison.compare"), True),
        (("vkdsurgeon.model.vision", "vkdsurgeon_kernels"), False),
        (("vkdsurgeon_kernels.backend", "vkdsurgeon.errors"), True),
        (("vkdsurgeon.report.page", "vkdsurgeon_cli.main"), True),
        (("vkdsurgeon.data.read", "benchmarks.real"), True),
        (("vkdsurgeon.report.page", "vkdsurgeon"), False),
        (("vkdsurgeon", "vkdsurgeon.model.vision"), True),
    ],
)
def test_the_order_itself(arrow: Arrow, against: bool) -> None:
    assert _against(arrow) == against
