"""Whatever is sent, the server refuses it with one error, and answers the next request."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import socket
import struct
import threading
import zlib
from contextlib import suppress

import pytest
from helpers import png_of
from PIL import Image
from served_model import running

from vixml.errors import VixmlError
from vixml.serving.guard import Access
from vixml.serving.limits import Limits, Refusal
from vixml.serving.server import bind, make_server

SMALL = Limits(body=200_000, items=4, images=3, labels=2, text=500, queue=8, seconds=60)


@pytest.fixture(scope="module")
def served(taggers):
    with running(taggers("images"), SMALL) as found:
        yield found
        assert found.get("/healthz").json == {"status": "ok"}


@pytest.fixture(autouse=True)
def still_serves(served):
    yield
    assert served.post("/v1/tags", {"items": ["box"], "k": 1}).status == 200


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bomb() -> bytes:
    """Return a PNG of 50,000 x 50,000 pixels, in a few kB."""

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return png_of((b"IHDR", head), (b"IDAT", zlib.compress(bytes(10_000_000))), (b"IEND", b""))


LAUGHS = b'<!DOCTYPE a [<!ENTITY b "bbbb">]><svg xmlns="http://www.w3.org/2000/svg"><text>&b;</text></svg>'
PASSWD = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
ITEM = {"items": ["box"]}
POST = b"POST /v1/tags HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(("value", "status", "code"), [
    (b"", 400, "invalid_json"), (b"{", 400, "invalid_json"), (b"\xff\xfe", 400, "invalid_json"), (b"[" * 100_000, 400, "invalid_json"),
    (b'{"items": ["\\ud800"]}', 400, "invalid_json"), (b'{"items": ["a"], "k": 1e999}', 422, "invalid_request"),
    (b'{"items": ["a"], "labels_offset": NaN}', 422, "invalid_request"), (b'{"items": [' + b"1," * 90_000 + b"1]}", 422, "invalid_request"),
    ({f"a{n}": 1 for n in range(9000)}, 422, "invalid_request"), ({"items": [{f"a{n}": 1 for n in range(9000)}]}, 422, "invalid_request"),
    ({"items": [{"fields": {f"a{n}": 1 for n in range(9000)}}]}, 422, "invalid_request"), ([], 422, "invalid_request"), (None, 422, "invalid_request"), ({}, 422, "invalid_request"), ({"items": "box"}, 422, "invalid_request"),
    ({"items": []}, 422, "invalid_request"), ({"items": [None]}, 422, "invalid_request"), ({"items": [{"text": 3}]}, 422, "invalid_request"),
    (ITEM | {"k": "3"}, 422, "invalid_request"), (ITEM | {"k": 0}, 422, "invalid_request"), (ITEM | {"k": 10**30}, 422, "invalid_request"),
    (ITEM | {"k": True}, 422, "invalid_request"), (ITEM | {"top": 3}, 422, "invalid_request"), (ITEM | {"labels": [""]}, 422, "invalid_request"),
    ({"items": [{"text": "x", "images": "a"}]}, 422, "invalid_request"), ({"items": [{"fields": {"title": "x"}}]}, 422, "invalid_item"),
    ({"items": [{"text": " "}]}, 422, "invalid_item"), ({"items": [{"fields": {"name": None}}]}, 422, "invalid_item"),
    ({"items": ["box"] * 5}, 413, "too_many_items"), ({"items": ["x" * 501]}, 413, "text_too_long"),
    (ITEM | {"labels": ["a", "b", "c"]}, 413, "too_many_labels"), (ITEM | {"labels": ["a", "a"]}, 422, "invalid_item"),
    ({"items": [{"text": "x", "images": ["a"] * 4}]}, 413, "too_many_images"),
    ({"items": [{"text": "x", "images": ["not base64!"]}]}, 422, "invalid_image"),
    ({"items": [{"text": "x", "images": [b64(b"no image")]}]}, 422, "invalid_image"),
    ({"items": [{"text": "x", "images": [b64(bomb())]}]}, 422, "invalid_image"),
    ({"items": [{"text": "x", "images": [b64(LAUGHS)]}]}, 422, "invalid_image"),
    ({"items": [{"text": "x", "images": [b64(PASSWD)]}]}, 422, "invalid_image"),
    ({"items": [{"text": "x", "images": ["/etc/passwd"]}]}, 422, "invalid_image"),
    ({"items": [{"text": "x", "images": ["file:///etc/passwd"]}]}, 422, "urls_not_allowed"),
    ({"items": [{"text": "x", "images": ["https://example.com/a.png"]}]}, 422, "urls_not_allowed"),
], ids=lambda value: None if isinstance(value, int) else str(value)[:30])  # fmt: skip
def test_a_malformed_request_is_one_error(served, value, status, code):
    answer = served.post("/v1/tags", value)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert 0 < len(answer.error["message"]) <= 1000 and set(answer.error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("value", [
    {"input": []}, {"input": ""}, {"input": [1, 2]}, {"input": "x", "dimensions": 7}, {"input": "x", "encoding_format": "hex"}, {"input": "x", "model": 3},
], ids=str)  # fmt: skip
def test_a_malformed_embedding_is_one_error(served, value):
    assert served.post("/v1/embeddings", value).status == 422
    answer = served.post("/v1/embeddings", {"input": "x", "model": "other"})
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_other_types_paths_and_methods_are_refused(served):
    body = json.dumps(ITEM).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert served.ask("POST", "/v1/tags", body, {"content-type": kind}).error["code"] == "unsupported_media_type"
    packed = served.post("/v1/tags", body, **{"content-encoding": "gzip"})
    assert (packed.status, packed.error["code"]) == (415, "unsupported_encoding")
    assert served.get("/../../etc/passwd").error["code"] == served.get("/v1/none").error["code"] == "not_found"
    assert served.get("/v1/tags").error["code"] == "method_not_allowed"


def test_malformed_forms_are_refused(served):
    edge = "; boundary=edge"
    for kind, body in (("", b""), (edge, b"nothing"), (edge, b"--edge\r\n\r\nx\r\n--edge--\r\n"), (edge[:-4], b"--")):
        answer = served.ask("POST", "/v1/tags", body, {"content-type": f"multipart/form-data{kind}"})
        assert answer.status in (400, 422), (kind, body)
    assert served.form(("text", "a"), ("text", "b")).status == 422
    assert served.form(("text", "a"), ("images", "no file")).error["param"] == "images"
    assert served.form(("text", "a"), ("k", "many")).error["param"] == "k"
    assert served.form(("text", "a"), ("other", "1")).error["param"] == "other"
    assert served.form(("text", "a"), *[("images", b"x")] * 9).error["code"] == "invalid_form"
    assert served.form(("text", "a"), ("images", b"no image")).error["code"] == "invalid_image"


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "unicode_escape", "rot13", "utf-7", '"', "\xff"])
def test_a_form_in_another_encoding_is_refused(served, charset):
    body = b'--edge\r\nContent-Disposition: form-data; name="text"\r\n\r\nxn--a-\\ud800\r\n--edge--\r\n'
    kind = "multipart/form-data; boundary=edge; charset="
    answer = served.ask("POST", "/v1/tags", body, {"content-type": kind + charset})
    assert (answer.status, answer.error["code"]) == (415, "unsupported_charset")
    assert served.ask("POST", "/v1/tags", body, {"content-type": f'{kind}"UTF-8"'}).status == 200


def test_a_long_run_of_blanks_is_cleaned_in_linear_time(taggers):
    with running(taggers("images")) as served:
        assert served.post("/v1/tags", {"items": [f"a{chr(0xA0) * 32_000}b"] * 8, "k": 1}).status == 200


def test_a_large_body_is_refused_before_or_while_it_is_read(served):
    large = b" " * (SMALL.body + 1)
    assert served.post("/v1/tags", large).error["code"] == "body_too_large"
    with served.open(POST + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n") as one:
        for _ in range(30):
            one.sendall(b"2710\r\n" + bytes(10_000) + b"\r\n")
        assert b"413" in one.recv(100)
    with served.open(POST + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n") as one:
        assert b"413" in one.recv(100)


@pytest.mark.parametrize("sent", [
    b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", POST + b"Content-Length: -5\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
])  # fmt: skip
def test_what_is_no_http_closes_its_connection_only(served, sent):
    with served.open(sent) as one:
        one.shutdown(socket.SHUT_WR)
        while one.recv(65536):
            pass


def test_a_client_that_leaves_in_the_middle_harms_nobody(served):
    for sent in (POST + b"Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{", b"GET /"):
        one = served.open(sent)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()


def test_slow_clients_are_put_off_and_make_room(taggers):
    limits = Limits(connections=20, idle=0.4, seconds=1)
    with running(taggers("images"), limits) as served:
        slow = [served.open(b"GET / HTT") for _ in range(60)]  # three times as many as may be open
        slow.append(served.open(POST + b"Content-Length: 9\r\nContent-Type: application/json\r\n\r\n{"))
        assert served.post("/v1/tags", ITEM).status == 200
        assert served.metric("vixml_connections") <= 20
        body = b""
        while part := slow[-1].recv(1000):
            body += part
            if b"body_too_slow" in body:
                break
        assert b"408" in body
        for one in slow[:-1]:
            one.settimeout(60)
            with suppress(ConnectionError):
                assert one.recv(100) == b""
        for one in slow:
            one.close()


def test_a_full_queue_is_429_and_a_late_answer_503(taggers, monkeypatch):
    tagger, limits = taggers("images"), Limits(items=2, images=2, queue=4, seconds=2)
    with running(tagger, limits) as served:
        held, queries = threading.Event(), tagger.queries
        monkeypatch.setattr(tagger, "queries", lambda reads: held.wait(60) and queries(reads))
        found = []

        def ask() -> None:
            found.append(served.post("/v1/tags", {"items": ["box", "toy"]}))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        while served.metric("vixml_waiting") < 4:
            pass
        full = served.post("/v1/tags", ITEM)
        assert (full.status, full.error["code"]) == (429, "busy") and int(full.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()
        assert {(one.status, one.error["code"]) for one in found} == {(503, "timeout")}
        assert all("retry-after" in one.headers for one in found)
        assert served.metric("vixml_waiting") == 0
        held.set()
        assert served.post("/v1/tags", ITEM).status == 200


def test_a_fault_of_one_request_is_its_own(taggers, monkeypatch, capsys):
    tagger = taggers("images")
    with running(tagger) as served:
        queries = tagger.queries

        def fail(reads):
            if any(read.text == "toy" for read in reads):
                raise ZeroDivisionError("a fault")
            return queries(reads)

        monkeypatch.setattr(tagger, "queries", fail)
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda text=text: answers.append(served.post("/v1/tags", {"items": [text]}).status))
            for text in ("toy", "box", "kite")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200, 200, 500] and served.get("/healthz").status == 200
    assert "ZeroDivisionError: a fault" in capsys.readouterr().err


def test_a_token_is_asked_for(taggers):
    with running(taggers("images"), token="s3cret") as served:
        for sent in (None, "Bearer other", "Basic s3cret", "Bearer"):
            for path in ("/v1/models", "/metrics", "/v1/neighbours/0/image"):
                answer = served.get(path, **({"authorization": sent} if sent else {}))
                assert (answer.status, answer.error["code"]) == (401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
        assert served.get("/v1/models", authorization="Bearer s3cret").status == 200
        assert served.get("/v1/models", authorization="Bearer s3cret", host="shop.example").status == 200
        assert all(served.get(path).status == 200 for path in ("/", "/docs", "/healthz", "/openapi.json", "/script.js"))
    for wrong in ("", "two words", "ключ", "a\nb"):
        with bind("127.0.0.1", 0) as listener, pytest.raises(VixmlError, match="not a token"):
            make_server(taggers("images"), listener, Limits(), token=wrong)


def test_without_a_token_only_local_names_are_answered(served):
    evil = ("localhost.evil.example", "127.0.0.1.evil.example:80")
    for host in (*evil, "shop.example", "128.0.0.1", "127.1", "[::1].x", ""):
        assert served.get("/v1/models", host=host).status in (400, 421), host
    # Debian's name of a machine leads to 127.0.1.1.
    for host in ("localhost:80", "[::1]:80", "127.0.1.1:8000", "127.0.0.2", "LocalHost"):
        assert served.get("/v1/models", host=host).status == 200, host
    Access(None, False, frozenset()).check("/", {"host": "shop.example"})
    with pytest.raises(Refusal):
        Access(None, True, frozenset()).check("/", {"host": "shop.example"})


def test_another_address_without_a_token_is_warned_of(taggers, capsys):
    for token, warned in ((None, True), ("abc", False)):
        with bind("0.0.0.0", 0) as listener:
            make_server(taggers("images"), listener, Limits(), token=token)
        assert ("WARNING" in capsys.readouterr().err) == warned


def test_a_taken_port_or_a_foreign_address_is_one_error():
    with bind("127.0.0.1", 0) as one:
        one.listen()
        with pytest.raises(VixmlError, match="cannot listen"):
            bind("127.0.0.1", one.getsockname()[1])
    for host in ("203.0.113.7", "no such host"):
        with pytest.raises(VixmlError, match="cannot listen"):
            bind(host, 0)


def test_addresses_are_fetched_if_allowed_and_only_public_ones(taggers):
    with running(taggers("images"), Limits(seconds=20), allow_urls=True) as served:
        assert served.get("/v1/models").json["data"][0]["urls"]
        private = (f"{served.url}/", "http://localhost/a.png", "http://[::1]/a", "http://169.254.169.254/latest")
        for url in (*private, "file:///etc/passwd", "ftp://example.com/a", "http://"):
            answer = served.post("/v1/tags", {"items": [{"text": "box", "images": [url]}]})
            assert (answer.status, answer.error["code"]) == (422, "image_not_fetched"), url
            assert "127.0.0.1" not in answer.error["message"] and "not" in answer.error["message"]


def test_an_image_that_takes_too_long_or_crashes_its_decoder_is_refused(taggers, monkeypatch):
    written = io.BytesIO()
    Image.effect_noise((2500, 2500), 90).save(written, "JPEG", quality=20)
    with running(taggers("images"), Limits(image_seconds=0.01, body=1 << 26)) as served:
        answer = served.post("/v1/tags", {"items": [{"text": "box", "images": [b64(written.getvalue())]}]})
        assert answer.status == 422 and "takes too long" in answer.error["message"]
        assert served.metric('vixml_images_total{outcome="refused"}') == 1


def test_a_decoder_that_is_killed_from_outside_is_replaced(taggers, shop):
    item = {"text": "box", "images": [b64((shop.folder / "plum-40.png").read_bytes())]}
    with running(taggers("images")) as served:
        assert served.post("/v1/tags", {"items": [item]}).status == 200
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        statuses = [served.post("/v1/tags", {"items": [item]}).status for _ in range(6)]
        assert set(statuses) <= {200, 503} and statuses[-1] == 200


def test_as_many_values_as_a_body_can_hold_are_refused_without_a_look(taggers):
    with running(taggers("images")) as served:
        for body in (b'{"items": [' + b"{}," * 300_000 + b"{}]}", b'{"a": ' + b"[1,1]," * 300_000 + b"}"):
            assert served.post("/v1/tags", body).error["code"] == "body_too_large"
