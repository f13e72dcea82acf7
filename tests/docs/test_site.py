"""The site in a browser: pages load without errors, search finds, pictures are there, nothing is wider than a phone.

Skipped where there is no Sphinx, Playwright or Chromium.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from browser import CHROMIUM

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: that of `make docs` if it is newer than its sources."""
    pytest.importorskip("sphinx")
    for extension in ("furo", "myst_parser", "sphinx_copybutton", "matplotlib"):
        pytest.importorskip(extension)
    built = DOCS.parent / "build/docs"
    newest = max(file.stat().st_mtime for file in DOCS.rglob("*.*") if "generated" not in file.parts)
    if not (built / "index.html").exists() or (built / "searchindex.js").stat().st_mtime < newest:
        built = tmp_path_factory.mktemp("site")
        command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(built)]
        subprocess.run(command, check=True)
    return built


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(browser, request):
    """A page, and what its console, its scripts and its requests complain of."""
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    page.complaints = []
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda request: page.complaints.append(request.url))
    page.on("request", lambda request: request.url.startswith("http") and page.complaints.append(request.url))
    yield page
    page.close()


def test_every_page_loads_without_errors_or_network(site, page):
    files = sorted(file for file in site.rglob("*.html") if "_static" not in file.parts)
    assert len(files) >= 20
    for file in files:
        page.goto(file.as_uri())
        assert page.locator("h1").count() or file.name == "search.html", file
        assert not page.complaints, file
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{file} is too wide"
        broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not broken, file


def test_search_finds_a_loss(site, page):
    page.goto((site / "search.html").as_uri() + "?q=TverskyLoss")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert any(
        "api/losses" in link
        for link in page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    )
    assert not page.complaints


def test_gallery_has_a_picture_of_every_loss(site, page):
    import fastloss

    page.goto((site / "choosing.html").as_uri())
    shown = page.evaluate("[...document.images].map(i => i.getAttribute('src'))")
    for name in fastloss.__all__:
        if name.endswith("Loss") and name not in ("SegmentationLoss", "SumLoss", "CompoundLoss"):
            assert any(source.endswith(f"/{name}.png") for source in shown), name


def test_equations_are_drawn(site, page):
    page.goto((site / "api/losses.html").as_uri())
    heights = page.evaluate(
        "[...document.querySelectorAll('math[display=block]')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(heights) >= 40 and min(heights) > 8
