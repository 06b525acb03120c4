"""What the script can make the API answer, as a client sees it."""

from __future__ import annotations

import gzip
import json
import re
import time

import httpx
import pytest

from assisters_otel import catalog

LIMITS = [
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining") for unit in ("rpm", "tpm")
]


@pytest.fixture
def get(assisters_api):
    with httpx.Client(base_url=assisters_api.url) as client:
        yield lambda path="/models": client.get(path)


@pytest.mark.parametrize("row", catalog.ERRORS, ids=lambda row: row.code)
def test_every_documented_code_answers_with_its_status_and_envelope(assisters_api, get, row):
    assisters_api.answers(row.code)
    response = get()
    assert response.status_code == row.status
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == (row.type, row.code)
    assert error["message"]
    assert error.get("param", "absent") is not None


def test_the_parameter_codes_name_a_parameter_and_the_others_none(assisters_api, get):
    codes = [row.code for row in catalog.ERRORS]
    assisters_api.answers(*codes)
    assert {code for code in codes if "param" in get().json()["error"]} == {
        "invalid_model",
        "missing_parameter",
        "invalid_parameter",
    }


def test_answers_come_in_order_and_then_success(assisters_api, get):
    assisters_api.answers("rate_limit_exceeded", "ok", "internal_error")
    assisters_api.answers(status=418, times=2)
    assert [get().status_code for _ in range(6)] == [429, 200, 500, 418, 418, 200]


def test_each_answer_serves_an_unknown_path_as_well(assisters_api, get):
    assisters_api.answers("insufficient_funds")
    assert get("/nowhere").status_code == 402


def test_every_answer_has_the_documented_headers(assisters_api, get):
    assisters_api.answers("ok", "invalid_model", "model_overloaded")
    for response in [get(), get(), get(), get("/nowhere")]:
        assert re.fullmatch(r"req_\w+", response.headers["x-request-id"])
        assert int(response.headers["x-processing-time-ms"]) >= 1
        assert all(int(response.headers[name]) > 0 for name in LIMITS)
        assert "retry-after" not in response.headers


def test_a_429_says_when_to_come_back(assisters_api, get):
    assisters_api.answers("rate_limit_exceeded")
    assisters_api.answers(status=429)
    for response in [get(), get()]:
        assert response.headers["retry-after"] == "1"
        for unit in ("rpm", "tpm"):
            assert response.headers[f"x-ratelimit-remaining-{unit}"] == "0"
            assert abs(int(response.headers[f"x-ratelimit-reset-{unit}"]) - time.time()) < 60


def test_a_429_that_no_minute_ends_does_not_say_that_one_does(assisters_api, get):
    assisters_api.answers("tokens_exhausted")
    response = get()
    assert response.status_code == 429
    assert "retry-after" not in response.headers
    for unit in ("rpm", "tpm"):
        assert int(response.headers[f"x-ratelimit-remaining-{unit}"]) > 0
        assert f"x-ratelimit-reset-{unit}" not in response.headers


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"),
        (0.25, "0.25"),
        (7, "7"),
        ("nan", "nan"),
        ("-1", "-1"),
        ("soon", "soon"),
    ],
)
def test_retry_after_is_sent_as_it_is_written(assisters_api, get, value, sent):
    assisters_api.answers("rate_limit_exceeded", retry_after=value)
    assisters_api.answers("model_overloaded", retry_after=value)
    assert get().headers["retry-after"] == sent
    assert get().headers["retry-after"] == sent


def test_a_success_beside_an_error_asks_for_no_pause(assisters_api, get):
    assisters_api.answers("rate_limit_exceeded", "ok", retry_after=2)

    assert get().headers["retry-after"] == "2"
    assert "retry-after" not in get().headers


def test_a_success_alone_asks_for_the_pause_that_is_written(assisters_api, get):
    assisters_api.answers("ok", retry_after=2)

    assert get().headers["retry-after"] == "2"


def test_a_header_can_be_added_replaced_and_taken_away(assisters_api, get):
    assisters_api.answers(
        "rate_limit_exceeded",
        headers={
            "X-New": "1",
            "X-RateLimit-Remaining-RPM": 0,
            "X-RateLimit-Limit-RPM": "99999999999999999999",
            "X-Request-ID": None,
            "Retry-After": None,
        },
    )
    headers = get().headers
    assert headers["x-new"] == "1"
    assert headers["x-ratelimit-remaining-rpm"] == "0"
    assert headers["x-ratelimit-limit-rpm"] == "99999999999999999999"
    assert "x-request-id" not in headers
    assert "retry-after" not in headers


def test_a_request_id_can_be_chosen(assisters_api, get):
    assisters_api.answers(request_id="req_mine")
    assert get().headers["x-request-id"] == "req_mine"


def test_an_envelope_of_your_own_says_what_you_say(assisters_api, get):
    assisters_api.answers(status=400, code="user-7f3a-is-odd")
    assisters_api.answers("invalid_parameter", type="odd", message="No: é", param="top_p")
    assisters_api.answers(status=503, message="")
    assert get().json()["error"]["code"] == "user-7f3a-is-odd"
    assert get().json() == {
        "error": {
            "message": "No: é",
            "type": "odd",
            "code": "invalid_parameter",
            "param": "top_p",
        }
    }
    assert get().json() == {"error": {"message": "", "type": "server_error"}}


@pytest.mark.parametrize(
    ("status", "type_", "message"),
    [
        (404, "invalid_request_error", "Not Found."),
        (429, "rate_limit_error", "Too Many Requests."),
        (402, "insufficient_funds_error", "Payment Required."),
        (502, "server_error", "Bad Gateway."),
        (599, "server_error", "Status 599."),
    ],
)
def test_a_bare_status_has_an_envelope_without_a_code(assisters_api, get, status, type_, message):
    assisters_api.answers(status=status)
    response = get()
    assert response.status_code == status
    assert response.json() == {"error": {"message": message, "type": type_}}


def test_a_documented_code_as_keyword_brings_its_status(assisters_api, get):
    assisters_api.answers(code="insufficient_funds")
    assert get().status_code == 402


def test_a_status_of_your_own_wins_over_the_documented_one(assisters_api, get):
    assisters_api.answers("insufficient_funds", status=429)
    response = get()
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "insufficient_funds_error"
    assert "retry-after" not in response.headers  # no pause fills a wallet


@pytest.mark.parametrize("body", ["<html>", b"\xff\xfe", b"", '{"error": '])
def test_a_raw_body_is_sent_as_it_is(assisters_api, get, body):
    assisters_api.answers("model_overloaded", body=body, content_type="text/html")
    response = get()
    assert (response.status_code, response.headers["content-type"]) == (503, "text/html")
    assert response.content == (body.encode() if isinstance(body, str) else body)


@pytest.mark.parametrize("value", [[1], {"error": "plain string"}, {"error": {"type": 7}}, "x", 0])
def test_any_json_can_be_the_body(assisters_api, get, value):
    assisters_api.answers(status=500, json=value)
    response = get()
    assert (response.status_code, response.json()) == (500, value)
    assert response.headers["content-type"] == "application/json"


def test_a_body_without_a_status_is_a_200(assisters_api, get):
    assisters_api.answers(body="data: {}\n\n", content_type="text/event-stream")
    response = get()
    assert (response.status_code, response.text) == (200, "data: {}\n\n")


def test_a_success_can_have_another_status_and_content_type(assisters_api, get):
    assisters_api.answers(status=201, content_type="text/plain")
    response = get()
    assert (response.status_code, response.headers["content-type"]) == (201, "text/plain")
    assert response.json()["object"] == "list"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none_and_keeps_the_connection(assisters_api, get, status):
    assisters_api.answers(status=status)
    response = get()
    assert (response.status_code, response.content) == (status, b"")
    assert get().status_code == 200
    assert assisters_api.connections == 1


def test_a_delay_comes_before_the_headers_and_is_in_the_processing_time(assisters_api, get):
    assisters_api.answers("internal_error", delay_s=0.2)
    began_s = time.perf_counter()
    response = get()
    assert time.perf_counter() - began_s >= 0.2
    assert int(response.headers["x-processing-time-ms"]) >= 200


def test_a_chunked_body_has_no_length_and_comes_bit_by_bit(assisters_api):
    assisters_api.answers("internal_error", chunk_delay_s=0.05)
    with httpx.stream("GET", f"{assisters_api.url}/models") as response:
        assert "content-length" not in response.headers
        assert response.headers["transfer-encoding"] == "chunked"
        chunks = list(response.iter_raw())
    assert len(chunks) == 4
    assert json.loads(b"".join(chunks))["error"]["code"] == "internal_error"


def test_an_empty_body_can_be_chunked(assisters_api, get):
    assisters_api.answers(status=500, body=b"", chunked=True)
    response = get()
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.content == b""


def test_a_compressed_body_is_the_same_body(assisters_api):
    assisters_api.answers("internal_error", "ok", gzip=True)
    with httpx.stream("GET", f"{assisters_api.url}/models") as response:
        assert response.headers["content-encoding"] == "gzip"
        raw = b"".join(response.iter_raw())
    assert json.loads(gzip.decompress(raw))["error"]["code"] == "internal_error"
    assert httpx.get(f"{assisters_api.url}/models").json()["object"] == "list"


def test_a_compressed_event_stream_is_still_chunked(assisters_api):
    assisters_api.answers(gzip=True, chunked=True)
    response = httpx.get(f"{assisters_api.url}/agent/stream")
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.text.startswith("data: ")


@pytest.mark.parametrize("size", [5_000, 3_000_000])
def test_a_body_can_be_of_any_size_and_stays_json(assisters_api, get, size):
    assisters_api.answers("invalid_request", "ok", size=size)
    assisters_api.answers(status=502, body="<html>", size=size)
    failed, fine, page = get(), get(), get()
    assert len(failed.content) == len(fine.content) == len(page.content) == size
    assert len(failed.json()["error"]["message"]) > size - 200
    assert failed.content.endswith(b"}")  # all of it is the message: no blank is added
    assert fine.json()["object"] == "list"


def test_a_small_size_cuts_nothing(assisters_api, get):
    assisters_api.answers("invalid_request", size=3)
    assert get().json()["error"]["code"] == "invalid_request"


def test_a_redirect_is_a_307_unless_you_say_otherwise(assisters_api, get):
    assisters_api.answers(redirect="/v1/models")
    assisters_api.answers(redirect="/v1/models", status=301)
    first, second = get(), get()
    assert (first.status_code, first.headers["location"]) == (307, "/v1/models")
    assert first.content == b""
    assert second.status_code == 301
    assisters_api.answers(redirect=f"{assisters_api.url}/rate-limit")
    followed = httpx.get(f"{assisters_api.url}/models", follow_redirects=True)
    assert "rpm" in followed.json()


@pytest.mark.parametrize(
    ("codes", "keywords", "says"),
    [
        (["user-7f3a-is-odd"], {}, r"status=400, code='user-7f3a-is-odd'"),
        ([""], {}, r"status=400, code=''"),
        ([], {"code": "odd"}, "add status="),
        (["ok"], {"code": "invalid_model"}, "not both"),
        ([], {"body": "", "json": {}}, "not both"),
        (["invalid_model"], {"json": {}, "message": "x"}, "no other body"),
        ([], {"message": "x"}, "need a code"),
        (["ok", "invalid_model"], {"param": "x"}, "need a code"),
        ([], {"type": "x", "status": 200}, "need a code"),
        ([], {"status": 100}, "200 to 599"),
        ([], {"status": 600}, "200 to 599"),
        ([], {"headers": {"Content-Length": "5"}}, "truncate"),
        ([], {"headers": {"transfer-encoding": "x"}}, "chunked=True"),
        ([], {"fault": "flood"}, "drop, stall, truncate, unfinished, garbage, silence"),
        ([], {"times": 0}, "times=1"),
        (["invalid_model"], {"in_stream": "internal_error"}, "fails after a success"),
        ([], {"in_stream": "internal_error", "fault": "drop"}, "fails after a success"),
        (["rate_limit_exceded"], {}, "did you mean 'rate_limit_exceeded'"),
        (["okay"], {}, "did you mean 'ok'"),
        ([["ok"]], {}, "a code is text"),
        ([], {"code": ["ok"]}, "code is text"),
        ([], {"content_type": 5}, "content_type is text"),
        ([], {"delay_s": "1"}, "delay_s is a number"),
        ([], {"status": 400.0}, "status is a number"),
        ([], {"times": None}, "times is a number"),
        ([], {"status": 200, "code": "internal_error"}, "write a status >= 400"),
        ([], {"status": 0}, "200 to 599"),
        ([], {"status": -1}, "200 to 599"),
        ([], {"status": True}, "status is a number"),
        ([], {"delay_s": -1}, "write delay_s=2"),
        ([], {"delay_s": float("nan")}, "write delay_s=2"),
        ([], {"delay_s": float("inf")}, "fault='silence'"),
        ([], {"chunk_delay_s": -0.5}, "write chunk_delay_s=2"),
        ([], {"chunk_delay_s": float("inf")}, "fault='stall'"),
        ([], {"size": -1}, "size=0 or more"),
        ([], {"times": -2}, "times=1 or more"),
        ([], {"retry_after": -1}, "write retry_after=2"),
        ([], {"retry_after": float("nan")}, "write retry_after=2"),
        ([], {"retry_after": float("inf")}, "retry_after='soon'"),
        ([], {"retry_after": True}, "retry_after is a number"),
        ([], {"gzip": "yes"}, "gzip is a switch"),
        ([], {"chunked": 1}, "chunked is a switch"),
        ([], {"body": 5}, "body is text, bytes or a list of bytes"),
        ([], {"body": ["text"]}, "body is text, bytes or a list of bytes"),
        ([], {"json": object()}, "json= cannot be sent"),
        ([], {"headers": ["x"]}, "headers maps names to values"),
        ([], {"headers": {"x": "two\nlines"}}, "in one line"),
        ([], {"headers": {"x": " 1"}}, "in one line"),
        ([], {"headers": {"x y": "1"}}, "in one line"),
        ([], {"request_id": "€"}, "in Latin-1"),
        ([], {"content_type": "a\r\nb"}, "in one line"),
        (["drop"], {}, "^'drop' is not documented: write fault='drop'$"),
        (["silence"], {}, "write fault='silence'$"),
        (["tokens_exhausted_error"], {}, "write 'tokens_exhausted'$"),
        (["402"], {}, "write 'insufficient_funds'$"),
        ([402], {}, "write status=402$"),
        ([], {"code": "rate_limit_exceded"}, "did you mean 'rate_limit_exceeded'"),
    ],
)
def test_a_wrong_argument_says_what_to_write_and_adds_nothing(
    assisters_api, get, codes, keywords, says
):
    with pytest.raises(ValueError, match=says):
        assisters_api.answers(*codes, **keywords)
    assert get().status_code == 200
