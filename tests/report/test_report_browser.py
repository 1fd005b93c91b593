"""The report in a real browser: what a reader sees, presses and prints. Needs Debian's chromium (or Chrome)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from chromium import find_chromium, started
from playwright.sync_api import Browser, Page

RUN = "run-picto-vixml-minilm-l3"
VIEWPORT = {"width": 1280, "height": 900}
TABLE = "#tables .scroll[aria-label='Table 1, PICTO, measured here, text only'] table"
PAPER = "#tables .scroll[aria-label='Table 1, LF-AmazonTitles-131K'] table"


@pytest.fixture(scope="module")
def report(everything) -> Path:
    """Return the file of a report of everything."""
    return everything.report / "report.html"


@pytest.fixture(scope="module")
def browser():
    """Start the browser once."""
    with started() as found:
        yield found


class Tab:
    """A page, and what must not have happened on it."""

    def __init__(self, browser: Browser, report: Path, **options: object) -> None:
        self.context = browser.new_context(**{"viewport": VIEWPORT, "offline": True} | options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        address = report.as_uri()

        def fetched(request):
            if request.url.split("#")[0] != address and not request.url.startswith("data:"):
                self.faults.append(request.url)

        self.page.on("request", fetched)
        self.page.goto(address)


@pytest.fixture(scope="module")
def usual(browser, report) -> Tab:
    """Return a tab without options: a process of its own for each test takes longer than the test."""
    return Tab(browser, report)


@pytest.fixture
def tab(browser, report, usual):
    """Return a function that opens the report; whatever a test did, no error and no request may have come of it."""
    opened = []

    def open_tab(**options: object) -> Page:
        opened.append(Tab(browser, report, **options) if options else usual)
        if not options:
            usual.faults.clear()
            usual.page.set_viewport_size(VIEWPORT)
            usual.page.goto("about:blank")
            usual.page.goto(report.as_uri())
        return opened[-1].page

    yield open_tab
    for one in opened:
        assert one.faults == []
        if one is not usual:
            one.context.close()


def column(page: Page, table: str, number: int) -> list[str]:
    """Return a column's texts, headings of groups left out."""
    return page.locator(f"{table} tbody tr:not(.block) > :nth-child({number})").all_inner_texts()


def unfold(page: Page) -> None:
    """Open the tables of which nothing was run."""
    for summary in page.locator("#tables details.not-run > summary").all():
        summary.click()


def test_it_loads_without_an_error_or_a_request(tab):
    page = tab()
    page.wait_for_load_state("networkidle")
    assert page.locator("h1").inner_text() == "ViXML, reproduced: demo"
    assert page.evaluate("[...document.images].every((image) => image.complete || image.loading === 'lazy')")


def test_a_heading_sorts_up_down_and_back(tab):
    page = tab()
    as_made = column(page, TABLE, 2)
    missing = [text for text in as_made if text == "not run"]
    assert missing and as_made[-1] == "not run" and as_made.index("49.97 ± 0.50 (3)") > 0

    def numbers(texts: list[str]) -> list[float]:
        return [float(text.split()[0]) for text in texts if text != "not run"]

    button = page.get_by_role("button", name="Sort by ours: mean ± sd (seeds): P@1", exact=True)
    heading = page.locator(f"{TABLE} th", has=button)
    for state, turned in (("ascending", False), ("descending", True)):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == state
        now = column(page, TABLE, 2)
        assert numbers(now) == sorted(numbers(as_made), reverse=turned)
        assert now[-len(missing) :] == missing, "what was not run stays last"
        assert page.locator("#said").inner_text() == f"Sorted by P@1, {state}"
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") is None and column(page, TABLE, 2) == as_made


def test_rows_stay_in_their_group_and_sizes_and_times_sort_as_what_they_mean(tab):
    page = tab()
    unfold(page)
    page.locator(PAPER).get_by_role("button", name="Sort by params").click()
    page.locator(PAPER).get_by_role("button", name="Sort by params").click()
    assert column(page, PAPER, 2) == ["109M", "66.4M", "17.4M", "7.62B", "3.09B", "494M"]
    first_rows = "(bodies) => bodies.map((body) => body.rows[0].innerText.trim())"
    firsts = page.locator(f"{PAPER} tbody").evaluate_all(first_rows)
    assert firsts == ["dual-encoder learning", "dual-decoder learning"]
    page.locator(TABLE).get_by_role("button", name="Sort by training").click()
    times = [text for text in column(page, TABLE, 6) if text != "–"]
    assert times == ["32 s", "3.2 min", "3.2 min", "15 min"]
    ascending = ["< 0.001 ms", "0.039 ms", "0.39 ms", "0.5 ms", "1.1 s", "2.0 min"]
    first = page.locator(f"{TABLE} tbody").first
    first.evaluate(
        "(body, texts) => [...body.rows].filter((row) => row.cells.length > 5)"
        ".forEach((row, i) => { row.cells[5].textContent = texts[i] ?? '–'; })",
        ascending[::-1],
    )
    for _ in range(3):  # down, as in the file, and up again
        page.locator(TABLE).get_by_role("button", name="Sort by training").click()
    found = first.evaluate("(body) => [...body.rows].map((row) => row.cells[5]?.textContent)")
    found = [text for text in found if text in ascending]
    assert len(found) > 2 and found == [text for text in ascending if text in found]


def test_rows_that_tie_keep_their_order(tab):
    page = tab()
    before = column(page, TABLE, 1)
    tied = column(page, TABLE, 3)  # P@5 is the same in all rows that were run
    for _ in range(2):
        page.locator(TABLE).get_by_role("button", name="Sort by ours: mean ± sd (seeds): P@5").click()
        ran = [
            label for label, text in zip(before, tied, strict=True) if text != "not run" and text == "35.00 ± 0.00 (3)"
        ]
        assert [label for label in column(page, TABLE, 1) if label in ran] == ran


def test_the_keyboard_sorts_and_opens(tab):
    page = tab()
    first = page.locator(f"{TABLE} button").first
    first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").endswith(": P@1")
    page.keyboard.press("Enter")
    assert page.locator(f"{TABLE} th[aria-sort='ascending']").inner_text() == "P@1"
    page.keyboard.press("Space")
    assert page.locator(f"{TABLE} th[aria-sort='descending']").inner_text() == "P@1"
    page.keyboard.press("ArrowDown")
    opener = page.evaluate("document.activeElement.getAttribute('popovertarget')")
    assert opener == "run-picto-knn-text-minilm-l3", "the first row after sorting down"
    page.keyboard.press("Enter")
    assert page.locator(f"#{opener}").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(f"#{opener}").is_hidden()
    assert page.evaluate("document.activeElement.getAttribute('popovertarget')") == opener, "back where it was"


def test_a_table_is_one_stop_of_the_tab_key(tab):
    page = tab()
    stops = page.locator("main table").evaluate_all(
        "(tables) => tables.filter((table) => table.checkVisibility()).map((table) => [...table.querySelectorAll('button')].filter((button) => button.tabIndex >= 0).length)"
    )
    assert stops and set(stops) == {1}


def test_a_number_opens_to_its_evidence(tab):
    page = tab()
    cell = page.locator(f"#tables button[popovertarget='{RUN}']").nth(1)
    assert cell.inner_text() == "35.00 ± 0.00 (3)"
    cell.click()
    panel = page.get_by_role("dialog", name="picto / vixml-minilm-l3")
    assert panel.is_visible()
    # The script hears of it a moment later: it moves the focus into the panel and makes the page's address name it.
    page.wait_for_function(f"document.activeElement.id === '{RUN}' && location.hash === '#{RUN}'")
    text = panel.inner_text()
    for seed, value in ((0, "55.70"), (1, "56.30"), (2, "55.30")):
        assert f"seed {seed}" in text and value in text
    assert "55.77" in text and "54.52 to 57.02" in text
    assert "snakemake --cores all " in text and "vixml-minilm-l3/seed{0,1,2}/test/score/manifest.json" in text
    assert panel.locator("tr.asked th").inner_text() == "P@5", "the metric that was pressed is marked"
    for summary in ("Manifests", "Inputs", "Resolved configuration"):
        panel.locator("summary", has_text=summary).click()
    text = panel.inner_text()
    assert "c0ffee000000" in text and "Test Processor" in text and "1" * 64 in text and '"epochs": 4' in text
    panel.get_by_role("button", name="Close").click()
    assert panel.is_hidden()
    page.wait_for_function("location.hash === ''")


def test_a_printed_number_opens_to_where_it_was_printed(tab):
    page = tab()
    unfold(page)
    page.get_by_role("button", name="41.72", exact=True).click()
    panel = page.get_by_role("dialog")
    text = panel.inner_text()
    assert "arXiv:2511.13189v1" in text and "run01" in text and "predicted" in text
    page.keyboard.press("Escape")
    assert panel.is_hidden()


def test_a_link_to_a_run_opens_it(tab, report):
    page = tab()
    page.goto(f"{report.as_uri()}#{RUN}")
    assert page.locator(f"#{RUN}").is_visible()


def test_without_scripts_numbers_open_and_nothing_pretends_to_sort(tab):
    page = tab(java_script_enabled=False)
    assert page.locator("button.sort, button.copy").count() == 0
    assert page.locator(".scripted").is_hidden()
    page.locator(f"#tables button[popovertarget='{RUN}']").first.click()
    assert page.locator(f"#{RUN}").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(f"#{RUN}").is_hidden()


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_page_scrolls_sideways(tab, width):
    page = tab()
    page.set_viewport_size({"width": width, "height": 780})
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(f"#tables button[popovertarget='{RUN}']").first.click()
    panel = page.locator(f"#{RUN}")
    box = panel.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert panel.evaluate("(one) => one.scrollWidth <= one.clientWidth")


def test_it_prints_with_everything_unfolded_and_without_buttons(tab, tmp_path):
    page = tab(viewport={"width": 718, "height": 1016})
    assert page.pdf(path=str(tmp_path / "report.pdf"), format="A4").startswith(b"%PDF-")
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden() and page.locator("button.copy:visible").count() == 0
    assert page.locator("[popover]:visible").count() == 0
    # Without the script too: what is folded on the screen is open on paper.
    shut = page.locator("#verdicts details:not([open]) dd").first
    assert shut.is_visible() and shut.bounding_box()["height"] > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.querySelector('tbody tr')).breakInside") == "avoid"
    link = page.evaluate("getComputedStyle(document.querySelector('header a[href^=http]'), '::after').content")
    assert "https://arxiv.org/abs/2511.13189" in link


def test_everything_that_can_be_pressed_has_a_name(tab):
    page = tab()
    page.locator(f"#tables button[popovertarget='{RUN}']").first.click()
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "dialog", "image", "group", "region", "navigation", "DisclosureTriangle", "img"}
    shown = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in roles]
    assert len(shown) > 300 and {"button", "link", "dialog"} <= {node["role"]["value"] for node in shown}
    # `details` are groups too, named by their summary only where a browser says so.
    nameless = [node for node in shown if not node.get("name", {}).get("value")]
    assert [node["role"]["value"] for node in nameless if node["role"]["value"] != "group"] == []


def test_headings_skip_no_level(tab):
    levels = [
        int(tag[1])
        for tag in tab().locator("h1, h2, h3, h4, h5, h6").evaluate_all("(all) => all.map((one) => one.tagName)")
    ]
    assert levels[0] == 1 and levels.count(1) == 1 and len(levels) > 20
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_first_stop_leads_past_the_contents(tab):
    page = tab()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "the focus is seen"
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#numbers'")


def test_it_follows_dark_mode_and_the_wish_for_less_motion(tab):
    def ground(page: Page) -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    def scrolling(page: Page) -> str:
        return page.evaluate("getComputedStyle(document.documentElement).scrollBehavior")

    light, dark = tab(color_scheme="light", reduced_motion="reduce"), tab(color_scheme="dark")
    assert ground(light) == "rgb(255, 255, 255)" and ground(dark) == "rgb(22, 23, 26)"
    assert scrolling(light) == "auto" and scrolling(dark) == "smooth"


def test_a_command_can_be_copied(tab):
    page = tab()
    page.locator("#again button.copy").click()
    page.wait_for_function("['Copied', 'Selected: press Ctrl+C'].includes(document.getElementById('said').textContent)")
    if page.locator("#said").inner_text() != "Copied":
        assert page.evaluate("getSelection().toString().trim()") == "make demo"


def test_continuous_integration_does_not_go_without_a_browser(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        find_chromium()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no chromium"):
        find_chromium()
