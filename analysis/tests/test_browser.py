"""The page in a real headless Chromium: two widths, hover, filter, no console errors, no network."""

from __future__ import annotations

import pytest

WIDTHS = ((1280, 900), (390, 844))


@pytest.fixture(scope="module", params=WIDTHS, ids=["desk", "phone"])
def loaded(browser, report_dir, request):
    """The page, loaded once for each width; what it logged and asked for is checked after every test."""
    size = {"width": request.param[0], "height": request.param[1]}
    # Without smooth scrolling: a link that moves below the mouse is not the one that was to be clicked.
    context = browser.new_context(viewport=size, offline=True, reduced_motion="reduce")
    tab = context.new_page()
    problems, requests = [], []
    tab.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda r: requests.append(r.url) if r.url.startswith("http") else None)
    tab.goto((report_dir / "report.html").as_uri())
    tab.wait_for_selector("html[data-ready='1']")
    yield tab, problems, requests
    context.close()


@pytest.fixture
def page(loaded):
    """The page as it is: for tests that change nothing that another one reads."""
    tab, problems, requests = loaded
    yield tab
    assert problems == []
    assert requests == []


@pytest.fixture
def fresh(page):
    """The page as just loaded."""
    page.emulate_media(media="screen")
    page.reload()
    page.wait_for_selector("html[data-ready='1']")
    return page


def test_fits_the_width_and_can_be_shot(page, tmp_path):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    picture = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert len(picture) > 50_000
    sizes = page.evaluate(
        "[...document.querySelectorAll('.fig')].filter(s => s.getBoundingClientRect().width)"
        ".map(s => s.getBoundingClientRect().width)"
    )
    assert sizes
    assert max(sizes) <= page.viewport_size["width"]


def test_joint_effects_need_no_scrolling(page):
    wide = page.locator(".fig:has(svg[aria-label^='Both together'])").evaluate_all(
        "all => all.map((f) => f.scrollWidth - f.clientWidth)"
    )
    assert wide
    assert max(wide) <= 0


def test_hover_shows_n_share_and_interval(page):
    cell = page.locator("svg[aria-label='clean answer']:visible .tip").nth(4)
    cell.scroll_into_view_if_needed()
    cell.hover()
    tip = page.locator("#tooltip")
    assert tip.is_visible()
    text = tip.inner_text()
    assert "of n = 60 (" in text
    assert "95 % interval" in text
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]


def test_hover_on_a_line_point(page):
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    point = page.locator("svg[aria-label='layer 2'] .tip").nth(2)
    point.scroll_into_view_if_needed()
    point.hover()
    text = page.locator("#tooltip").inner_text()
    assert "clean answer: 27 of n = 60 (45.0 %), 95 % interval 33.1 to 57.5 %" in text
    assert "gibberish: " in text


def test_the_summary_comes_first_and_is_short(fresh):
    assert fresh.locator("main > section").first.get_attribute("id") == "summary"
    assert fresh.locator("#summary .finding").count() <= 5
    assert fresh.evaluate("document.getElementById('f0').offsetTop") <= 22_100 / 3
    assert fresh.locator("#provenance ~ section").evaluate_all("all => all.map((s) => s.id)") == ["methods"]
    # The outline of N* is in the figure: at layer 2 the donor's answer outnumbers the recipient's from 4 thoughts on.
    assert fresh.locator("#summary svg rect[stroke='#d55e00']").count() >= 1


def test_a_click_on_a_cell_opens_its_pairs(fresh):
    cell = fresh.locator("#summary [data-cell]").nth(16)
    tip, link = cell.get_attribute("data-tip"), cell.get_attribute("data-cell")
    cell.click()
    fresh.wait_for_function("document.querySelector('[data-part=condition]').value === '" + link.split(":")[1] + "'")
    name = fresh.locator("[data-part=condition]").evaluate("s => s.selectedOptions[0].text")
    assert tip.startswith(name.removesuffix(" (dead)"))
    assert fresh.locator("[data-part=answers] tr").count() >= 1


def test_a_link_opens_what_it_leads_to(fresh):
    for name in ("pairs", "methods"):
        part = fresh.locator(f"#{name} > details")
        assert not part.evaluate("d => d.open")
        fresh.locator(f"nav a[href='#{name}']").click()
        fresh.wait_for_function(f"document.querySelector('#{name} > details').open")


def test_print_opens_what_is_folded_and_leaves_out_what_needs_a_hand(fresh):
    folded = fresh.locator("details:not([open])").count()
    fresh.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    fresh.emulate_media(media="print")
    assert not fresh.locator(".browser").is_visible()
    assert not fresh.locator("nav").is_visible()
    assert fresh.locator("#methods table").is_visible()
    assert fresh.locator("#f0 table.classes").first.is_visible()
    controls = fresh.locator("details.stays-folded table.classes")
    assert controls.count() > 0
    assert not any(table.is_visible() for table in controls.all())
    assert fresh.evaluate("getComputedStyle(document.querySelector('h3')).breakAfter") == "avoid"
    headings = fresh.locator("main section:not(#pairs) h4").evaluate_all(
        "all => all.map((h) => getComputedStyle(h.parentElement).breakInside)"
    )
    assert headings
    assert set(headings) == {"avoid"}
    fresh.emulate_media(media="screen")
    fresh.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert fresh.locator("details:not([open])").count() == folded


def test_pair_filter(fresh):
    fresh.locator("#pairs summary").click()
    count = fresh.locator("[data-part=count]")
    assert count.inner_text().startswith("60 of 60 pairs (4 more did not pass")
    fresh.select_option("[data-part=condition]", label="denoise/clean/replace/resid_post/L2/first:5")
    for box in fresh.locator("[data-part=outcomes] input").all()[1:]:
        box.uncheck()
    assert count.inner_text().startswith("45 of 60 pairs")
    buttons = fresh.locator("[data-part=list] button")
    assert buttons.count() == 45
    buttons.nth(3).click()
    name = buttons.nth(3).inner_text()
    assert name in fresh.locator("[data-part=questions] h4").first.inner_text()
    fresh.fill("[data-part=rows]", "denoise/clean/replace/resid_post/L2/first:5")
    rows = fresh.locator("[data-part=answers] tr")
    assert rows.count() == 1
    assert "clean answer" in rows.first.inner_text()
    expected = 10 + 3 * int(name.split("-")[1])
    assert f"The answer is: {expected}" in rows.first.inner_text()
    fresh.fill("[data-part=search]", "no such words")
    assert count.inner_text().startswith("0 of 60")
    assert "No pair fits" in fresh.locator("[data-part=questions]").inner_text()


def test_foreign_text_is_text(fresh):
    fresh.locator("#pairs summary").click()
    page = fresh
    page.fill("[data-part=search]", "pair-0000")
    card = page.locator("[data-part=questions] .card").first
    assert 'Ünïcode <b>&amp;</b> "quotes" </script>' in card.inner_text()
