"""The report in a real browser: it opens from disk, asks for nothing, and people can read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from semievol_ray.report import write_report
from tests.report.making import make_run

# What a stranger may have put into the data, and into the names of classes.
PLANTED = '<script>window.planted = 1</script><img src="http://127.0.0.1:9/x" onerror="planted=2">'
NASTY = (PLANTED, "</script><b>bold</b>", "$x_1$ & {{ 7 * 7 }}", "ünï ☃ \u2028")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import Error, sync_playwright

    # A container's /dev/shm is small, and its user root.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=path, args=arguments)
            page = found.new_page()
            page.goto("data:text/html,<p>any text<input><select><option>1")
            page.screenshot()
        except Error as error:  # without any font, for one, it ends at the first letter
            pytest.skip(f"this machine's Chromium does not work: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    made = make_run(
        folder, classes=NASTY, question=lambda i: f"{PLANTED} number {i}, {NASTY[i % 4]}"
    )
    return Path(write_report(made.run).html)


@pytest.fixture
def opened(browser, page_file: Path) -> Iterator[Callable[..., Any]]:
    """Open the page in some window; what went wrong there is in `page.troubles`."""
    contexts = []

    def open_page(**window: Any) -> Any:
        context = browser.new_context(**window)
        contexts.append(context)
        page = context.new_page()
        page.troubles = []
        page.on("console", lambda m: page.troubles.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda e: page.troubles.append(str(e)))
        page.on("request", lambda r: page.troubles.append(r.url))
        page.goto(page_file.as_uri())
        assert page.troubles.pop(0) == page_file.as_uri()
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_nothing_is_asked_for_and_nothing_goes_wrong(opened) -> None:
    page = opened()
    page.wait_for_load_state("networkidle")
    assert page.troubles == []


def test_what_was_planted_in_the_data_stays_text(opened) -> None:
    page = opened()
    assert page.evaluate("window.planted") is None
    assert page.locator("script").count() == 1 and page.locator("img, b").count() == 0
    assert PLANTED in page.locator("article .question").first.inner_text()
    # The template computes nothing of it either.
    assert "{{ 7 * 7 }}" in page.locator("#classes").inner_text()
    # And were something not escaped, the page's own policy would stop it.
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"x\" onerror=\"planted = 3\">')"
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.planted") is None
    assert any("Content Security Policy" in trouble for trouble in page.troubles)


@pytest.mark.parametrize("width", [390, 1280])
def test_no_one_scrolls_sideways(opened, width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(opened, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(color_scheme=scheme)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")


def test_examples_are_searched_and_filtered(opened) -> None:
    page = opened()
    shown = "article:not([hidden])"
    everything = page.locator("article").count()
    assert page.locator(shown).count() == everything
    page.fill("#search", "NUMBER 17,")
    assert 1 <= page.locator(shown).count() <= 3
    assert "number 17," in page.locator(shown).first.inner_text()
    page.fill("#search", "")
    page.select_option("#kind", "hurt by evolution")
    hurt = page.locator(shown).count()
    assert 0 < hurt < everything
    assert page.locator("#found").inner_text() == f"{hurt} of {everything}"
    page.keyboard.press("Enter")
    assert page.url.endswith("report.html")


def test_without_a_script_it_is_whole(opened) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("article").first.is_visible()
    assert not page.locator(".controls").is_visible()


def test_it_prints(opened) -> None:
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.locator("table").first.is_visible()
    assert page.pdf()[:5] == b"%PDF-"


def test_a_hundred_thousand_rows_are_five_megabytes_at_most(tmp_path: Path) -> None:
    made = make_run(
        tmp_path, rows=100_000, shard_rows=20_000, tests=5000,
        question=lambda i: f"{i} " + "a long question, as the corpus has it. " * 60,
    )  # fmt: skip
    assert Path(write_report(made.run).html).stat().st_size < 5_000_000
