"""The site as a reader sees it: every page in a browser, wide and narrow, light and dark."""

import os
import re
from pathlib import Path

import pytest

#: A browser is what `make test-site` needs; `make test` builds the site, and looks at its pages.
in_a_browser = pytest.mark.slow
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
#: Where pictures of pages go, if anywhere.
PICTURES = os.environ.get("SCREENSHOTS")


def pages_of(site):
    """The addresses of all pages, from the site's own index."""
    found = sorted(path.parent.relative_to(site).as_posix() for path in site.rglob("index.html"))
    return [f"{page}/" if page != "." else "" for page in found]


def shot(page, name):
    """Keep a picture of a page, if asked to."""
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


@pytest.fixture
def page(browser, address):
    """A tab that keeps what went wrong: errors of scripts, failed and foreign requests."""
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda said: page.wrong.append(said.text) if said.type == "error" else None)

    def answered(response):
        if response.status >= 400:
            page.wrong.append(f"{response.status} {response.url}")

    page.on("response", answered)
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:"))
            else page.wrong.append(f"foreign: {r.url}"))  # fmt: skip
    yield page
    context.close()


@pytest.mark.long
def test_the_site_is_built_strictly_and_has_its_pages(site):
    """A broken link, an undocumented public name or a misspelt parameter would end the build."""
    pages = pages_of(site)
    for page in ("", "choose/", "coming-from/", "mathematics/", "glossary/", "changelog/"):
        assert page in pages
    for package in ("core", "torch", "jax", "tensorflow", "keras", "lightning", "flax"):
        assert f"reference/fmicl_{package}/" in pages
    assert sum(page.startswith("tutorials/") for page in pages) >= 10

    # Public names, with the anchors of functions, classes and methods.
    text = (site / "reference" / "fmicl_torch" / "index.html").read_text("utf-8")
    anchors = set(re.findall(r'id="([\w.]+)"', text))
    for name in ("fmicl_loss", "FMICLLoss", "InfoNCELoss", "siglip_loss", "cached_loss"):
        assert f"fmicl_torch.{name}" in anchors
    core = (site / "reference" / "fmicl_core" / "index.html").read_text("utf-8")
    assert 'id="fmicl_core.Divergence.score"' in core
    command = (site / "reference" / "command" / "index.html").read_text("utf-8")
    assert "fmicl train moco-v3" in command
    assert "[dim]" not in command

    # Every formula is MathML.
    text = (site / "mathematics" / "index.html").read_text("utf-8")
    assert text.count("<math") > 100
    for page in pages_of(site):
        assert 'class="arithmatex"' not in (site / page / "index.html").read_text("utf-8"), page


@in_a_browser
def test_every_page_opens_without_errors_and_fits_a_phone(page, site, address):
    """No error of a script, no request elsewhere, nothing wider than the screen."""
    for name in pages_of(site):
        page.set_viewport_size(WIDE)
        page.goto(address + name)
        assert page.locator("h1").first.is_visible(), name
        page.set_viewport_size(PHONE)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{name} is {width} pixels wide on a phone"
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
        assert not page.evaluate(broken), name
        assert not page.wrong, f"{name}: {page.wrong}"


@in_a_browser
def test_a_newcomer_finds_three_views_with_labels_in_jax(page, address):
    """From the start by one click, or by the search, to lines that can be copied."""
    page.goto(address)
    shot(page, "start")
    page.locator("article").get_by_role("link", name="Choose a loss").first.click()
    page.wait_for_url("**/choose/")
    shot(page, "choose")
    page.get_by_role("link", name="Three views and labels, in JAX").first.click()
    code = page.locator("pre", has_text="jnp.tile(labels, 3)").first
    assert code.is_visible()
    assert "from fmicl_jax import fmicl_loss" in code.inner_text()


@in_a_browser
@pytest.mark.parametrize(
    ("words", "found"), [("temperature", "temperature"), ("three views JAX", "JAX")]
)
def test_the_search_finds(page, address, words, found):
    """Results come up while one types."""
    page.goto(address)
    page.locator("input[name=query]").click()
    page.keyboard.type(words)
    result = page.locator(".md-search-result__item").first
    result.wait_for(timeout=20_000)
    shot(page, f"search-{found}")
    assert found.lower() in page.locator(".md-search-result__list").inner_text().lower()
    assert not page.wrong


@in_a_browser
def test_light_and_dark(page, address):
    """The button switches, and pictures drawn on white keep a white ground."""
    page.goto(address)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator("label[title='Switch to dark']").click()
    page.wait_for_selector("body[data-md-color-scheme=slate]")
    assert page.evaluate(ground) != light
    page.goto(address + "mathematics/")
    shot(page, "mathematics-dark")
    picture = "getComputedStyle(document.querySelector('article img')).backgroundColor"
    assert page.evaluate(picture) == "rgb(255, 255, 255)"


@in_a_browser
def test_tabs_of_frameworks_are_linked(page, address):
    """The framework one chose stays chosen."""
    page.goto(address)
    page.locator(".tabbed-labels label", has_text="JAX").first.click()
    assert page.locator("pre", has_text="from fmicl_jax import FMICLLoss").first.is_visible()
    assert not page.locator("pre", has_text="from fmicl_torch import FMICLLoss").first.is_visible()


@in_a_browser
def test_a_phone_has_a_menu(page, address):
    """The pages are one tap away."""
    page.set_viewport_size(PHONE)
    page.goto(address + "choose/")
    shot(page, "choose-phone")
    page.locator("label.md-header__button[for=__drawer]").click()
    page.locator("nav.md-nav--primary").get_by_text("Which pairs").first.wait_for()
    shot(page, "menu-phone")
