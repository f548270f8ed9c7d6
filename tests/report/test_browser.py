"""The page in a headless Chromium: what loads, what fits, what can be read, seen, heard and reached."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vkdsurgeon_cli.main import run

from tests.report.documents import evaluation, everything, gate, quantizing, write

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[dev]')")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LONG = "vqa.a_kind_of_question_whose_name_has_no_place_to_break_at_and_goes_on_and_on"
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

# Contrast of every element that has text of its own, drawn or written, against what lies behind it (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const found = channels(getComputedStyle(node).backgroundColor);
      if (found.length < 4 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const seen = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
    const box = node.getBoundingClientRect();
    if (!own || node.tagName === "title" || box.width <= 1 || box.height <= 1) continue;
    const style = getComputedStyle(node);
    const front = light(channels(node.ownerSVGElement ? style.fill : style.color)), back = light(behind(node));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    seen.push({text: node.textContent.trim().slice(0, 40), tag: node.tagName, ratio});
  }
  return seen;
}"""
WIDER = """() => [...document.querySelectorAll("body *")].filter(node => {
  const box = node.getBoundingClientRect();
  return box.right > innerWidth + 0.5 && !node.closest(".scroll") && !node.closest(".hidden") && !node.closest(".skip");
}).map(node => node.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def page_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    documents: dict[str, Any] = everything()
    gates = [gate(f"forget.{LONG}.accuracy<=0.10", 0.05, 0.10, passed=True)]
    documents["eval"] = evaluation(forget_task=LONG, gates=gates, warnings=[f"forget.{LONG}.accuracy is low"])
    documents["second"] = evaluation(seconds=9.0)
    documents["quantize"] = quantizing()
    paths = write(folder, **documents)
    assert run(["report", *map(str, paths), "-o", str(folder / "report.html"), "--title", "A model of ours"]) == 0
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        # Chromium's own sandbox refuses to run as root, which containers do.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


def opened(browser: Any, url: str, *, unfold: bool = True, **context: Any) -> Any:
    page = browser.new_context(**{"viewport": DESKTOP, **context}).new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: request.url != url and page.complaints.append(f"asked for {request.url}"))
    page.goto(url)
    if unfold:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    return page


@pytest.mark.parametrize(
    ("viewport", "scheme"),
    [
        pytest.param(PHONE, "light", id="phone-light"),
        pytest.param(DESKTOP, "dark", id="desktop-dark"),
        pytest.param(PHONE, "dark", id="phone-dark", marks=pytest.mark.campaign),
        pytest.param(DESKTOP, "light", id="desktop-light", marks=pytest.mark.campaign),
    ],
)
def test_it_fits_and_reads_at_every_width_and_in_every_light(
    browser: Any, page_url: str, viewport: dict[str, int], scheme: str, tmp_path: Path
):
    page = opened(browser, page_url, viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.evaluate(WIDER) == []
    contrast = page.evaluate(CONTRAST)
    assert len(contrast) > 200
    assert [each for each in contrast if each["ratio"] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 128) == (scheme == "dark")
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
    assert found.violations_count == 0, found.generate_report()
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure svg')].map(each => 11 * each.clientWidth / 340))"
    )
    assert smallest >= 10, "text in figures stays readable"
    image = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert len(image) > 50_000
    assert page.complaints == []


def test_the_policy_is_in_force_and_lets_the_one_style_through(browser: Any, page_url: str):
    page = opened(browser, page_url)
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontWeight") == "600"
    with page.expect_event("requestfailed") as failed:
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<p id=odd style=\"color: rgb(1, 2, 3)\">x</p>"
            "<img src=https://nowhere.invalid/x.png>')"
        )
    assert failed.value.failure == "csp"
    assert page.evaluate("getComputedStyle(document.getElementById('odd')).color") != "rgb(1, 2, 3)"
    assert any("Content Security Policy" in told for told in page.complaints)


def test_all_of_it_can_be_reached_with_the_keyboard(browser: Any, page_url: str):
    page = opened(browser, page_url, unfold=False)
    page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.textContent") == "Skip to the verdict"
    assert page.evaluate(f"{focused}.getBoundingClientRect().top") >= 0, "it shows when it has the focus"
    page.keyboard.press("Enter")
    # The browser tells of the new address after the key press has returned.
    page.wait_for_url("**#verdict")
    reached = []
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate(f"{focused} === document.body"):
            break
        style = page.evaluate(
            f"(({{outlineStyle, outlineWidth}}) => [outlineStyle, outlineWidth])(getComputedStyle({focused}))"
        )
        assert style == ["solid", "3px"]
        if page.evaluate(f"{focused}.tagName") == "SUMMARY":
            reached.append(page.evaluate(f"{focused}.textContent"))
            page.keyboard.press("Enter")
            assert page.evaluate(f"{focused}.parentElement.open")
    assert len(reached) == page.evaluate("document.querySelectorAll('summary').length")
    assert page.evaluate("document.querySelectorAll('.scroll').length") > 0


def test_it_can_be_heard(browser: Any, page_url: str):
    page = opened(browser, page_url)
    for name in ("To be forgotten", "To be kept", "Before and after", "Tensors that differ from the base"):
        assert page.get_by_role("table", name=re.compile(name)).count() > 0, name
    assert (
        page.get_by_role("img", name=re.compile("vqa over the steps of the attack: unlearned from 5.0 %")).count() == 1
    )
    assert page.get_by_role("img", name=re.compile("25.0 % over all, most in model.multi_modal_projector")).count() == 1
    regions = [
        page.get_by_role("region", name=name, exact=True).count() for name in ("Verdict", "Attacks", "Provenance")
    ]
    assert regions == [1, 1, 1]
    assert page.get_by_role("navigation", name="Sections").count() == 1
    assert page.get_by_role("main").count() == 1
    cell = page.get_by_role("row", name=re.compile("lower is better")).first
    assert cell.get_by_role("rowheader").count() == 1


def test_nothing_moves_for_those_who_asked_for_that(browser: Any, page_url: str):
    for wish, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        page = opened(browser, page_url, reduced_motion=wish)
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour
