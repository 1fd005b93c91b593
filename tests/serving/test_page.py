"""The page in a real browser: what someone types, drops, hears and sees. Needs Debian's chromium (or Chrome)."""

from __future__ import annotations

import base64

import pytest
from chromium import started
from playwright.sync_api import expect
from served_model import running

from vixml.serving.limits import Limits

VIEWPORT = {"width": 1100, "height": 800}
DROP = """
([data, type]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "dropped", { type }));
  for (const name of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(name, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def browser():
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def served(taggers):
    with running(taggers("images")) as found:
        yield found


@pytest.fixture
def visit(browser):
    """Return a function that opens a server's page; no error, warning or request elsewhere may have come of a test."""
    opened, faults = [], []

    def go(served, path="/", **options):
        context = browser.new_context(**{"viewport": VIEWPORT} | options)
        opened.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "status of 4" not in message.text else None)
        own = (served.url, f"blob:{served.url}", "data:")
        page.on("request", lambda request: None if request.url.startswith(own) else faults.append(request.url))
        page.goto(f"{served.url}{path}")
        return page

    yield go
    assert faults == []
    for context in opened:
        context.close()


def labels(page, column=0):
    return page.locator("#results > section").nth(column).locator("ol.tags > li b").all_inner_texts()


def expected(served, item, k=10):
    return [tag.label for tag in served.tagger.tag([item], k=k)[0]]


def images_are_there(page):
    images = page.locator(".voters img").all()
    assert images
    for image in images:
        expect(image).not_to_have_js_property("naturalWidth", 0)


def show(page, text):
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Show the labels").click()
    expect(page.locator("#status")).to_contain_text("the best is")


def test_a_text_has_ten_labels_with_bars_and_voters_with_images(served, visit):
    page = visit(served)
    expect(page.locator("#about")).to_contain_text("Shop: ")
    show(page, "plum")
    assert labels(page) == expected(served, "plum") and len(labels(page)) == min(10, served.tagger.n_known)
    widths = page.locator(".bar").evaluate_all("(bars) => bars.map((bar) => bar.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True) and widths[0] > 100
    voters = page.locator(".voters li")
    assert voters.count() > 0
    named = {voter.text for tag in served.tagger.tag(["plum"], k=10)[0] for voter in tag.voters}
    assert set(voters.locator("span").all_inner_texts()) == named
    images_are_there(page)
    assert expected(served, "plum")[0] in page.locator("#status").inner_text()


def test_a_dropped_image_is_shown_side_by_side(served, visit, shop):
    data = (shop.folder / "plum-40.png").read_bytes()
    page = visit(served)
    show(page, "box")
    page.evaluate(DROP, [base64.b64encode(data).decode(), "image/png"])
    expect(page.locator("#results h2")).to_have_text(["With the image", "Text alone"])
    assert labels(page, 0) == expected(served, {"text": "box", "images": data})
    assert labels(page, 1) == expected(served, "box")
    boxes = [one.bounding_box() for one in page.locator("#results > section").all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert page.locator("#preview").is_visible()
    page.get_by_role("button", name="Remove the image").click()
    expect(page.locator("#results h2")).to_have_text(["Labels"])
    assert page.locator("#preview").is_hidden()


PASTE = """
([data, text]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0)), transfer = new DataTransfer();
  if (text) transfer.setData("text/plain", text);
  transfer.items.add(new File([bytes], "", { type: "image/png" }));
  const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  return document.body.dispatchEvent(event);
}"""


def test_a_text_that_is_pasted_with_an_image_of_it_is_a_text(served, visit, shop):
    data = base64.b64encode((shop.folder / "plum-40.png").read_bytes()).decode()
    page = visit(served)
    show(page, "box")
    assert page.evaluate(PASTE, [data, "Fishing rod"]) and page.locator("#preview").is_hidden()
    assert page.evaluate("""() => document.body.dispatchEvent(new DragEvent("drop",
        { dataTransfer: new DataTransfer(), bubbles: true, cancelable: true }))"""), "a text that is dragged"
    assert page.locator("#error").is_hidden()
    assert not page.evaluate(PASTE, [data, ""]) and page.locator("#preview").is_visible()
    expect(page.locator("#results h2")).to_have_text(["With the image", "Text alone"])


def test_labels_of_a_text_are_called_so_if_an_image_is_chosen_meanwhile(served, visit, shop):
    page = visit(served)
    image = shop.folder / "plum-40.png"
    page.route("**/v1/tags", lambda route: (page.get_by_label("Image").set_input_files(image), route.continue_()))
    show(page, "box")
    expect(page.locator("#results h2")).to_have_text(["Labels"])
    assert page.locator("#preview").is_visible()


def test_an_image_alone_and_one_that_cannot_be_read(served, visit, shop):
    data = (shop.folder / "plum-40.png").read_bytes()
    page = visit(served)
    page.get_by_label("Image").set_input_files({"name": "plum.png", "mimeType": "image/png", "buffer": data})
    page.get_by_role("button", name="Show the labels").click()
    expect(page.locator("#results h2")).to_have_text(["With the image"])
    assert labels(page) == expected(served, {"text": "", "images": data})
    page.evaluate(DROP, [base64.b64encode(b"no image").decode(), "image/png"])
    expect(page.get_by_role("alert")).to_contain_text("not an image")
    page.evaluate(DROP, [base64.b64encode(b"text").decode(), "text/plain"])
    expect(page.get_by_role("alert")).to_have_text("That is no image file.")
    assert page.url == f"{served.url}/"


def test_an_image_that_is_too_large_is_refused_and_nothing_is_asked(taggers, visit, shop):
    large, small = bytes(8000), (shop.folder / "plum-9.png").read_bytes()
    with running(taggers("images"), Limits(body=10_000)) as served:
        page = visit(served)
        expect(page.locator("#about")).to_contain_text("Shop: ")
        page.evaluate(DROP, [base64.b64encode(large).decode(), "image/png"])
        expect(page.get_by_role("alert")).to_contain_text("too large")
        page.evaluate(DROP, [base64.b64encode(small).decode(), "image/png"])
        expect(page.locator("#results h2")).to_have_text(["With the image"])
        expect(page.get_by_role("alert")).to_be_hidden()
        page.locator("#image").set_input_files({"name": "large.png", "mimeType": "image/png", "buffer": large})
        expect(page.get_by_role("alert")).to_contain_text("too large")
        assert page.locator("#image").input_value() == "" and page.locator("#preview").is_visible()
        page.evaluate(DROP, [base64.b64encode(large).decode(), "image/png"])
        page.wait_for_timeout(100)
        expect(page.get_by_role("alert")).to_contain_text("too large")
        assert served.metric("vixml_items_total") == 1


def test_an_added_label_is_ranked_on_this_page_only(served, visit):
    page, other = visit(served), visit(served)
    show(page, "toy")
    before = labels(page)
    page.get_by_label("New label").fill("  never   mind ")
    page.keyboard.press("Enter")
    added = page.locator("p.added")
    expect(added).to_contain_text("never mind")
    view = [tag.label for tag in served.tagger.with_labels(["never mind"]).tag(["toy"], k=100)[0]]
    rank = f"has rank {view.index('never mind') + 1}" if "never mind" in view else "is not among the first 1,000"
    assert rank in added.inner_text()
    page.get_by_label("Favour known labels").fill("0.3")
    expect(page.locator("li.own b")).to_have_text("never mind")
    expect(page.locator("#status")).to_contain_text("never mind has rank")
    show(other, "toy")
    assert labels(other) == before and other.locator(".own").count() == 0
    page.get_by_role("button", name="Remove never mind").click()
    expect(page.locator("p.added")).to_have_count(0)
    assert labels(page) == before
    page.get_by_label("New label").fill(before[0])
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no other label")


def test_the_keyboard_is_enough(served, visit):
    page = visit(served)
    expect(page.locator("#about")).to_contain_text("Shop")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert stops == ["text", "image", "send", "label", "Add the label"]
    page.locator("#text").focus()
    page.keyboard.type("box")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).to_contain_text("the best is")
    page.get_by_label("New label").focus()
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    expect(page.locator("#labels li")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove mine"
    page.keyboard.press("Enter")
    expect(page.locator("#labels li")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "label"


def test_a_screen_reader_has_names_roles_and_news(served, visit):
    page = visit(served)
    show(page, "box")
    assert page.locator("#status").get_attribute("aria-live") == "polite"
    name = "(one) => (one.labels?.[0] ?? one).textContent.trim() || one.getAttribute('aria-label')"
    for control in page.locator("input:visible, textarea:visible, button:visible").all():
        assert control.evaluate(name)
    tree = page.locator("body").aria_snapshot()
    headings = ('heading "Tag an item" [level=1]', 'heading "Labels" [level=2]')
    for line in (*headings, 'textbox "Text"', 'textbox "New label"', "status:", 'list "Labels"'):
        assert line in tree, line
    assert "score 0." in page.locator("#results").text_content()
    page.get_by_label("Text", exact=True).fill("")
    page.get_by_role("button", name="Show the labels").click()
    expect(page.get_by_role("alert")).to_contain_text("Type a text")
    assert page.evaluate("document.activeElement.id") == "text"


def test_the_accessibility_tree_of_the_browser_has_no_gap(served, visit, shop):
    page = visit(served)
    page.get_by_label("Image").set_input_files(str(shop.folder / "plum-40.png"))
    show(page, "box")
    page.get_by_label("New label").fill("mine")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("mine has rank")
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    every = {node["nodeId"]: node for node in nodes}  # those that are ignored have children that are not
    nodes = [node for node in nodes if not node["ignored"]]

    def said(node, key):
        return node.get(key, {}).get("value", "")

    def under(node, role):
        children = [every[child] for child in node.get("childIds", ())]
        return [one for child in children for one in ([child] if said(child, "role") == role else under(child, role))]

    controls = {"textbox", "button", "slider", "link", "region", "list", "heading", "image"}
    named = [(said(node, "role"), said(node, "name")) for node in nodes]
    assert all(name for role, name in named if role in controls), named
    for one in (
        ("region", "Labels found"), ("textbox", "New label"), ("button", "Remove mine"), ("list", "With the image"), ("list", "Text alone"),
    ):  # fmt: skip
        assert one in named, one
    assert any(role == "slider" and name.startswith("Favour known labels") for role, name in named)
    properties = [
        {one["name"]: one["value"].get("value") for one in node["properties"]}
        for node in nodes if said(node, "role") == "status"
    ]  # fmt: skip
    # The slider says its value itself.
    assert sorted(one.get("live", "off") for one in properties) == ["off", "polite"]
    # A bar shows the score, which is read; each entry names its label, score and voters.
    ranked = next(node for node in nodes if said(node, "role") == "list" and said(node, "name") == "Text alone")
    entries = under(ranked, "listitem")
    assert len(entries) == page.locator("#results > section").nth(1).locator("ol.tags > li").count()
    for entry in entries:
        texts = "".join(said(text, "name") for text in under(entry, "StaticText"))
        assert "score" in texts
        for voters in under(entry, "list"):
            assert "Training items" in said(voters, "name")
            for voter in under(voters, "listitem"):
                assert "similarity" in "".join(said(text, "name") for text in under(voter, "StaticText"))


def test_a_phone_shows_one_column_without_scrolling_sideways(served, visit, shop):
    width = 320
    page = visit(served, viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    page.get_by_label("Image").set_input_files(str(shop.folder / "plum-40.png"))
    show(page, "box " + "unbroken" * 20)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [one.bounding_box() for one in page.locator("#results > section").all()]
    assert len(boxes) == 2 and boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]


def test_markup_in_texts_and_labels_stays_text(served, visit):
    page = visit(served)
    show(page, "<img src=x onerror=alert(1)>")
    page.get_by_label("New label").fill("<b>bold</b>")
    page.keyboard.press("Enter")
    expect(page.locator("p.added")).to_contain_text("<b>bold</b>")


def test_a_token_is_asked_for_and_used(taggers, visit):
    with running(taggers("images"), token="s3cret") as served:
        page = visit(served)
        expect(page.get_by_role("alert")).to_contain_text("needs its token")
        page.get_by_label("Token of this server").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("needs its token")
        page.get_by_label("Token of this server").fill("s3cret")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("Shop")
        assert page.locator("#access").is_hidden()
        show(page, "plum")
        images_are_there(page)


def test_a_model_that_reads_text_offers_no_image(taggers, visit):
    with running(taggers("text")) as served:
        page = visit(served)
        show(page, "box")
        assert page.locator("#drop").is_hidden() and labels(page) == expected(served, "box")


def test_the_page_of_the_api_shows_every_path(served, visit):
    page = visit(served, "/docs")
    expect(page.locator("h2").first).to_be_visible()
    headings = page.locator("h2").all_inner_texts()
    assert {"POST /v1/tags", "POST /v1/embeddings", "GET /healthz", "GET /metrics"} <= set(headings)
    text = page.locator("main").inner_text()
    assert "429" in text and "labels_offset" in text and f"curl {served.url}/v1/tags" in text
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
