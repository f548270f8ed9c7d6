"""The documents agree with the code and with each other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import docs.generate as generate
from tests.report import documents
from vkdsurgeon.results.read import read_source

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def test_the_reference_is_what_the_code_says() -> None:
    assert not generate.outdated(), "run: python -m docs.generate"


def test_a_page_that_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(generate, "pages", lambda: {page: "new"})
    assert page in generate.outdated()
    page.write_text("new")
    assert page not in generate.outdated()


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff here")
def test_the_man_page_is_one() -> None:
    page = DOCS / "man" / "vkdsurgeon.1"
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", str(page)], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert not done.stderr
    shown = re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)
    commands = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    names = re.findall(r"^## (.+)$", commands, re.MULTILINE)
    assert len(names) > 20
    assert not [name for name in names if not re.search(rf"^ +{name}\b", shown, re.MULTILINE)]
    assert "--checkpoint-minutes N" in shown


def test_every_document_that_the_report_reads_has_a_schema_of_its_fields(tmp_path: Path) -> None:
    for name, path in zip(documents.everything(), documents.write(tmp_path, **documents.everything()), strict=True):
        document = read_source(path).document
        kind = getattr(document, "kind", None) or json.loads(path.read_text())["schema"].split("/")[1]
        schema = json.loads((DOCS / "schemas" / f"{kind}.json").read_text())
        written: dict[str, Any] = json.loads(document.model_dump_json(by_alias=True, exclude_unset=True))
        assert set(schema["required"]) <= set(written) | {"kind", "schema", "version"}, name
        if hasattr(document, "parts"):
            # Attacks are read for their common part, and written with settings of their own.
            continue
        assert set(written) <= set(schema["properties"]), name


def _anchors(page: Path) -> set[str]:
    found = set()
    for title in re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", title).lower()
        found.add(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", plain).strip()))
    return found


def _links(page: Path) -> Iterator[str]:
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r"(?:src|href)=\"([^\"]+)\"", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _links(page):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in _anchors(place), f"{page.name}: {link}"


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [
            (page.parent / link.partition("#")[0]).resolve() for link in _links(page) if not re.match(r"\w+:|#", link)
        ]
    assert set(DOCS.rglob("*.md")) <= reached


def test_the_readme_is_two_screens_long() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 125


def test_documents_named_in_the_code_exist() -> None:
    for folder in ("vkdsurgeon", "cli", "kernels", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r"docs/[\w/]+\.(?:md|svg|sh|png)", file.read_text(encoding="utf-8")):
                assert (ROOT / name).exists(), f"{file.relative_to(ROOT)}: {name}"


def test_tests_named_in_the_documents_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`([\w/]*test_\w+\.py)`", page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert not sorted(name for name in named if not (ROOT / name).is_file())


def test_every_file_of_faults_guards_a_row() -> None:
    page = (DOCS / "reference" / "reliability.md").read_text(encoding="utf-8")
    for folder in ("faults", "hostile"):
        for file in (ROOT / "tests" / folder).glob("test_*.py"):
            assert f"`tests/{folder}/{file.name}`" in page


def test_the_memory_tables_show_the_recorded_rows() -> None:
    page = (DOCS / "tutorials" / "hardware.md").read_text(encoding="utf-8")
    for line in (ROOT / "benchmarks" / "results" / "memory.jsonl").read_text().splitlines():
        row = json.loads(line)
        whole, small = row["visual_gib"].values()
        aside = whole["features"] + whole["pictures"]
        visual = [row["visual_elements"] / 1e9, whole["total"] - aside, small["total"] - aside, aside]
        decoder = [row["decoder_gib"][name] for name in ("weights", "optimizer", "activations", "peak")]
        size, *shown = visual
        assert f"| {row['model']} | {size:.2f} B | {' | '.join(f'{value:.1f}' for value in shown)} |" in page
        assert f"| {row['model']} | {' | '.join(f'{value:.1f}' for value in decoder)} |" in page
