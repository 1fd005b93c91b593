"""The API answers as the library does, and describes itself."""

from __future__ import annotations

import base64
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served_model import running

from vixml.serving import app
from vixml.serving.limits import Limits
from vixml.serving.schemas import EmbeddingResponse, ModelList, TagResponse

MODEL = "shop/images"


@pytest.fixture(scope="module")
def served(taggers):
    with running(taggers("images")) as found:
        yield found


@pytest.fixture(scope="module")
def image(shop) -> bytes:
    return (shop.folder / "plum-40.png").read_bytes()


def same(found: dict, tags: list) -> None:
    """Check an item of an answer against tags of the library."""
    assert [(tag["label"], tag["id"]) for tag in found["tags"]] == [(tag.label, tag.id) for tag in tags]
    np.testing.assert_allclose([tag["score"] for tag in found["tags"]], [tag.score for tag in tags], atol=2e-6)
    for tag, other in zip(found["tags"], tags, strict=True):
        assert [(one["id"], one["text"]) for one in tag["voters"]] == [(one.id, one.text) for one in other.voters]


def test_tags_are_those_of_the_library(served, image):
    encoded = base64.b64encode(image).decode()
    items = ["box river", {"text": "box", "images": [f"data:image/png;base64,{encoded}"]}, {"images": [encoded]},
             {"fields": {"name": "toy", "more": "box"}}]  # fmt: skip
    answer = served.post("/v1/tags", {"items": items, "k": 5})
    assert answer.status == 200
    TagResponse.model_validate_json(answer.body, strict=True)
    given = ["box river", {"text": "box", "images": image}, {"images": image}, {"name": "toy", "more": "box"}]
    expected = served.tagger.tag(given, k=5)
    for found, tags in zip(answer.json["items"], expected, strict=True):
        same(found, tags)
        assert found["notes"] == found["added"] == []
    assert answer.json["model"] == MODEL


def test_a_form_is_one_item_with_files(served, image):
    answer = served.form(("text", "box"), *[("images", image)] * 3, ("k", "4"), ("voters", "0"))
    assert answer.status == 200
    (found,) = answer.json["items"]
    same(found, served.tagger.tag([{"text": "box", "images": [image, image]}], k=4, voters=0)[0])
    assert "2 of 3 images" in found["notes"][0]


def test_no_image_of_a_request_is_decoded_in_the_servers_process(served, image, monkeypatch):
    def here(*_):
        raise AssertionError("decoded here")

    monkeypatch.setattr("vixml.tagging.tagger.draw_or_prepare", here)
    monkeypatch.setattr("vixml.images.decode.prepare", here)
    assert served.form(("text", "box"), ("images", image)).status == 200


def test_a_voters_thumbnail_is_served(served):
    (found,) = served.post("/v1/tags", {"items": ["plum"], "k": 9, "voters": 10}).json["items"]
    voters = [one for tag in found["tags"] for one in tag["voters"]]
    paths = {one["image"] for one in voters if one["image"]}
    assert paths and None in {one["image"] for one in voters}, "some training items have no image"
    for path in paths:
        answer = served.get(path)
        assert answer.status == 200 and answer.body[:2] == b"\xff\xd8"
        assert answer.headers["content-type"] == "image/jpeg"
    for wrong in ("9999", "-1", "x", "1e3", "٣".encode().hex(), "1" * 30):
        assert served.get(f"/v1/neighbours/{wrong}/image").status == 404
    counted = served.get("/metrics").body.decode()
    template = "/v1/neighbours/{row}/image"
    assert f'{{path="{template}",status="200"}} {len(paths)}' in counted
    assert f'{{path="{template}",status="404"}} 6' in counted


def test_added_labels_are_ranked_in_their_request_only(served):
    before = served.post("/v1/tags", {"items": ["toy"], "k": 3}).json
    asked = {"items": ["toy", "box"], "k": 3, "labels": ["toy", "never mind"], "labels_offset": 0.5}
    answer = served.post("/v1/tags", asked)
    TagResponse.model_validate_json(answer.body, strict=True)
    items, view = answer.json["items"], served.tagger.with_labels(["toy", "never mind"], 0.5)
    assert items[0]["tags"][0]["added"] and items[0]["tags"][0]["label"] in ("toy", "never mind")
    for text, found, tags in zip(("toy", "box"), items, view.tag(["toy", "box"], k=3), strict=True):
        same(found, tags)
        everything = [tag.label for tag in view.tag([text], k=100)[0]]
        ranks = {one["label"]: one["rank"] for one in found["added"]}
        assert ranks == {label: everything.index(label) + 1 for label in ("toy", "never mind")}
    low = served.post("/v1/tags", asked | {"labels_offset": -9.0}).json["items"][0]
    assert not any(tag["added"] for tag in low["tags"]) and low["added"][0]["rank"] > 3
    assert served.post("/v1/tags", {"items": ["toy"], "k": 3}).json == before
    again = served.post("/v1/tags", {"items": ["toy"], "labels": [before["items"][0]["tags"][0]["label"]]})
    assert again.status == 422 and again.error["param"] == "labels" and "no other label" in again.error["message"]


def test_embeddings_have_the_form_of_openai(served, image):
    texts = ["box river", "toy"]
    answer = served.post("/v1/embeddings", {"input": texts, "model": MODEL, "user": "me"})
    EmbeddingResponse.model_validate_json(answer.body, strict=True)
    expected = served.tagger.encode(texts)
    np.testing.assert_allclose([one["embedding"] for one in answer.json["data"]], expected, atol=1e-6)
    assert [one["index"] for one in answer.json["data"]] == [0, 1] and answer.json["usage"]["prompt_tokens"] > 2
    asked = {"input": "toy", "encoding_format": "base64", "dimensions": expected.shape[1]}
    packed = served.post("/v1/embeddings", asked).json
    vector = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, expected[1], atol=1e-6)
    item = {"text": "toy", "images": [base64.b64encode(image).decode()]}
    found = served.post("/v1/embeddings", {"input": [item]}).json["data"][0]["embedding"]
    np.testing.assert_allclose(found, served.tagger.encode([{"text": "toy", "images": image}])[0], atol=1e-6)


def test_usage_counts_the_tokens_that_are_read(served, monkeypatch):
    def usage(*items) -> int:
        return served.post("/v1/embeddings", {"input": items}).json["usage"]["prompt_tokens"]

    one, two = usage("box"), usage("box river")
    assert two == one + 1 and usage("box", "box river") == one + two
    assert usage({"fields": {"name": "box", "more": "river"}}) == two
    assert usage("box " * 100) == served.tagger.most
    dataset = served.tagger.folder.dataset
    catalogue = dataset.catalogue.model_copy(update={"strip_html": True})
    folder = replace(served.tagger.folder, dataset=dataset.model_copy(update={"catalogue": catalogue}))
    monkeypatch.setattr(served.tagger, "folder", folder)
    assert usage("<b>box</b> river") == two


def test_a_model_that_reads_text_says_that_it_does_not_look_at_images(taggers):
    with running(taggers("text--augmented")) as served:
        (found,) = served.post("/v1/tags", {"items": [{"text": "box", "images": ["never decoded"]}]}).json["items"]
        assert "0 of 1 images" in found["notes"][0]
        same(found, served.tagger.tag(["box"])[0])
        refused = served.post("/v1/embeddings", {"input": [{"text": "box", "images": ["never decoded"]}]})
        assert refused.status == 422 and refused.error["param"] == "input[0].images"
        (about,) = served.get("/v1/models").json["data"]
        assert not about["reads_images"] and about["images_per_item"] == 0 and about["votes"]
        assert all(one["image"] is None for tag in found["tags"] for one in tag["voters"])


def test_the_model_describes_itself(served):
    answer = served.get("/v1/models")
    (about,) = ModelList.model_validate_json(answer.body, strict=True).data
    assert (about.id, about.n_labels, about.images_per_item) == (MODEL, served.tagger.n_known, 2)
    assert about.text_fields == ["name", "more"] and about.adds_labels and not about.votes and not about.urls
    assert served.get("/healthz").json == {"status": "ok"}


def test_the_api_describes_every_path_and_body(served):
    api = served.get("/openapi.json").json
    assert {"/v1/tags", "/v1/embeddings", "/v1/models", "/healthz", "/metrics"} <= set(api["paths"])
    assert {*api["paths"]["/v1/tags"]["post"]["requestBody"]["content"]} == {"application/json", "multipart/form-data"}
    schemas, named = api["components"]["schemas"], []

    def walk(value):
        if isinstance(value, dict):
            named.extend([value["$ref"].rpartition("/")[2]] if "$ref" in value else [])
            for one in value.values():
                walk(one)
        for one in value if isinstance(value, list) else ():
            walk(one)

    walk(api)
    assert named and set(named) <= set(schemas)
    assert api["paths"]["/v1/tags"]["post"]["responses"]["429"]["description"]
    raised = {
        path.name: set(re.findall(r"(?:Refusal|cls)\((\d{3}),", path.read_text(encoding="utf-8")))
        for path in Path(app.__file__).parent.glob("*.py")
    }
    listed = {
        (path, method): {status for status in about["responses"] if status >= "400"}
        for path, methods in api["paths"].items()
        for method, about in methods.items()
    }
    assert set().union(*listed.values()) == set().union(*raised.values())
    for (path, _), statuses in listed.items():
        assert statuses >= raised["guard.py"] - ({"401"} if path in app.OPEN_PATHS else set()), path
    assert listed["/healthz", "get"] == listed["/metrics", "get"] - {"401"}
    assert listed["/v1/neighbours/{row}/image", "get"] == listed["/metrics", "get"] | {"404"}
    assert listed["/v1/embeddings", "post"] == listed["/v1/tags", "post"] | {"404"}
    for path in ("/", "/docs"):
        page = served.get(path)
        assert page.status == 200 and b"http://" not in page.body and b"https://" not in page.body
        assert "script-src 'self'" in page.headers["content-security-policy"]


def test_requests_at_once_become_batches_and_are_counted(taggers):
    tagger, texts = taggers("images"), [f"box {word}" for word in ("river", "toy", "kite", "gem", "coal", "ember")] * 4
    expected = tagger.tag(texts, k=3, voters=0)
    with running(tagger) as served:
        answers: dict[int, dict] = {}
        first = threading.Event()
        rank = tagger.queries

        def slow(reads):  # the model's thread waits until all have asked, so that the rest is one batch
            if not first.is_set():
                first.wait(60)
            return rank(reads)

        def ask(number: int) -> None:
            asked = {"items": [texts[number]], "k": 3, "voters": 0}
            answers[number] = served.post("/v1/tags", asked).json["items"][0]

        tagger.queries = slow
        try:
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(texts))]
            for thread in threads:
                thread.start()
            while served.metric("vixml_waiting") < len(texts):
                pass
            first.set()
            for thread in threads:
                thread.join()
        finally:
            del tagger.queries
        for number, tags in enumerate(expected):
            same(answers[number], tags)
        assert served.metric("vixml_items_total") == len(texts)
        assert served.metric("vixml_batches_total") <= 2
        assert served.metric("vixml_waiting") == 0
        text = served.get("/metrics").body.decode()
        assert f'vixml_requests_total{{path="/v1/tags",status="200"}} {len(texts)}' in text


def test_limits_that_do_not_fit_are_refused():
    with pytest.raises(Exception, match="queue is shorter"):
        Limits(items=100, queue=99)
