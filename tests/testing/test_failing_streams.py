"""Streams of the fake API that fail after their 200, as a client reads them."""

from __future__ import annotations

import json

import httpx
import pytest

CHAT = {"model": "assisters-chat-v1", "messages": [], "stream": True}


def chunks(api, **options):
    with httpx.stream("POST", f"{api.url}/chat/completions", json=CHAT, **options) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(response.iter_raw())


def test_an_error_event_takes_the_place_of_the_second_half(assisters_api):
    whole = chunks(assisters_api)
    assisters_api.answers(in_stream="model_overloaded")

    *half, last = chunks(assisters_api)

    assert 0 < len(half) < len(whole)
    assert [b"[DONE]" in one for one in half] == [False] * len(half)
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["code"] == "model_overloaded"
    assert error["type"] == "server_error"


def test_an_error_event_says_what_the_script_says(assisters_api):
    assisters_api.answers(in_stream="odd_one", type="odd", message="m", param="p")

    *_, last = chunks(assisters_api)

    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error == {"message": "m", "type": "odd", "code": "odd_one", "param": "p"}


def test_an_unfinished_stream_ends_regularly_without_done(assisters_api):
    assisters_api.answers(fault="unfinished")

    got = chunks(assisters_api)

    assert got
    assert b"[DONE]" not in b"".join(got)


def test_a_failing_stream_may_be_compressed(assisters_api):
    assisters_api.answers(in_stream="internal_error", gzip=True)

    with httpx.stream("POST", f"{assisters_api.url}/chat/completions", json=CHAT) as response:
        assert b'"code": "internal_error"' in response.read()


def test_an_answer_that_is_no_stream_is_as_it_would_be(assisters_api):
    assisters_api.answers(in_stream="internal_error")
    assisters_api.answers(fault="unfinished")

    for _ in range(2):
        response = httpx.get(f"{assisters_api.url}/models")
        assert response.json()["data"]


@pytest.mark.parametrize("parts", [[b"da", b"ta: 1\n", b"\n"], (b"data: 1\n\n",), [b"x"] * 50])
def test_a_sequence_of_bytes_is_sent_in_just_these_chunks(assisters_api, parts):
    assisters_api.answers(body=parts, content_type="text/event-stream")

    assert chunks(assisters_api) == list(parts)
