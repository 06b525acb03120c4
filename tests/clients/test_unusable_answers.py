"""A 2xx that is no success fails its call; one that is parsed later ends it with its body."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from typing import Any, NamedTuple

import assisters
import openai
import pytest
from opentelemetry.trace import StatusCode

import assisters_otel
from assisters_otel import fail_safe

pytestmark = pytest.mark.usefixtures("telemetry")

OUTCOME = "assisters.call.outcome"
ERRORS = "assisters.client.errors"
ATTEMPTS = "assisters.client.call.attempts"
DURATION = "gen_ai.client.operation.duration"
AGAIN = "assisters.call.resend_count"
CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "Hi."}]}
ENVELOPE = {
    "body": json.dumps(
        {"error": {"message": "planted", "type": "server_error", "code": "internal_error"}}
    ),
    "content_type": "application/json",
    "status": 200,
}
TEXT = {"json": {"error": "gateway is down"}, "status": 200}
PAGE = {"body": "<html>Log in</html>", "content_type": "text/html; charset=utf-8", "status": 200}
BROKEN = {"body": '{"id": "chat", "cho', "content_type": "application/json", "status": 200}


class Way(NamedTuple):
    """One way to ask for a chat."""

    name: str
    ask: Any

    def __str__(self):
        return self.name


def by_openai(ask):
    def asked(api):
        with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
            return ask(client)

    return asked


def by_async_openai(ask):
    async def asked(api):
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
            return await ask(client)

    return lambda api: asyncio.run(asked(api))


def by_assisters(ask):
    def asked(api):
        with assisters.Assisters("ask_k", base_url=api.url) as client:
            return ask(client)

    return asked


def streaming(client):
    with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        return answer.parse()


def streaming_lines(client):
    with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        return list(answer.iter_lines())


async def async_plain(client):
    return await client.chat.completions.create(**CHAT)


async def async_stream(client):
    return [one async for one in await client.chat.completions.create(**CHAT, stream=True)]


async def async_raw(client):
    return (await client.chat.completions.with_raw_response.create(**CHAT)).parse()


async def async_streaming(client):
    async with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        return await answer.parse()


WAYS = [
    Way("openai", by_openai(lambda client: client.chat.completions.create(**CHAT))),
    Way("async", by_async_openai(async_plain)),
    Way(
        "stream",
        by_openai(lambda client: list(client.chat.completions.create(**CHAT, stream=True))),
    ),
    Way("async stream", by_async_openai(async_stream)),
    Way(
        "raw",
        by_openai(lambda client: client.chat.completions.with_raw_response.create(**CHAT).parse()),
    ),
    Way("async raw", by_async_openai(async_raw)),
    Way(
        "raw stream",
        by_openai(
            lambda client: list(
                client.chat.completions.with_raw_response.create(**CHAT, stream=True).parse()
            )
        ),
    ),
    Way("streaming", by_openai(streaming)),
    Way("async streaming", by_async_openai(async_streaming)),
    Way("lines", by_openai(streaming_lines)),
    Way("parse", by_openai(lambda client: client.chat.completions.parse(**CHAT))),
    Way(
        "post",
        by_openai(lambda client: client.post("/chat/completions", cast_to=object, body=CHAT)),
    ),
    Way("embeddings", by_openai(lambda client: client.embeddings.create(model="m", input="x"))),
    Way("models", by_openai(lambda client: list(client.models.list()))),
    Way("assisters", by_assisters(lambda client: client.chat.completions.create(**CHAT))),
    Way(
        "assisters stream",
        by_assisters(lambda client: list(client.chat.completions.create(**CHAT, stream=True))),
    ),
]
PARSED = [way for way in WAYS if "stream" not in way.name.split() and way.name != "lines"]


@pytest.fixture(params=WAYS, ids=str)
def way(request):
    return request.param


def tried(way, api):
    """Ask once, whatever the SDK makes of the answer."""
    try:
        return way.ask(api)
    except Exception as error:  # noqa: BLE001 - some SDKs raise, others return
        return error


def failed(memory, **expected):
    """The one call's attributes; it has failed, and is counted once."""
    call = memory.call()
    assert call.attributes[OUTCOME] == "failed"
    assert call.status.status_code is StatusCode.ERROR
    assert memory.point(ATTEMPTS)["error.type"] == call.attributes["error.type"]
    assert "error.type" not in memory.attempt().attributes, "the attempt was a success"
    point = memory.point(ERRORS)
    assert point["value"] == 1
    assert point["http.response.status_code"] == 200
    for name, value in expected.items():
        at = name.replace("_", ".")
        assert call.attributes.get(at) == value
        assert point.get(at) == value
    return call


# -- an error, or a page, in place of the result --------------------------------------------------


def test_an_envelope_in_place_of_the_result_fails_the_call(api, memory, way, caplog):
    api.answers(**ENVELOPE, request_id="req_9")

    tried(way, api)

    call = failed(memory, error_type="server_error", error_code="internal_error")
    assert call.attributes["assisters.error.retryable"] is True
    assert call.attributes["assisters.request.id"] == "req_9"
    assert call.status.description == "internal_error"
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "answered 200, which is no success (internal_error), on " in line
    assert "planted" not in line


def test_a_text_in_place_of_the_result_fails_the_call(api, memory, way):
    api.answers(**TEXT)

    tried(way, api)

    failed(memory, error_type="_OTHER", error_code=None)


def test_a_login_page_fails_the_call(api, memory, way):
    api.answers(**PAGE)

    tried(way, api)

    failed(memory, error_type="_OTHER", error_code=None)


def test_a_result_that_has_an_error_among_its_members_is_a_success(api, memory, way):
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    api.answers(json={"id": "x", "object": "list", "data": data, "choices": [], "error": {"a": 1}})

    tried(way, api)

    assert memory.call().attributes[OUTCOME] == "ok"
    assert memory.points(ERRORS) == []


@pytest.mark.parametrize("error", [None, "", {}, [1], 7, True])
def test_an_error_that_is_none_is_a_success(api, memory, error):
    api.answers(json={"text": "Hello.", "error": error})

    by_openai(lambda client: client.chat.completions.create(**CHAT))(api)

    assert memory.call().attributes[OUTCOME] == "ok"


def test_an_error_that_the_sdk_has_parsed_is_found(api, memory):
    api.answers(json={"error": {"code": "internal_error", "message": "no"}}, status=200)

    by_openai(lambda client: client.responses.create(model="m", input="x"))(api)

    failed(memory, error_code="internal_error")


def test_a_stream_that_was_answered_with_an_envelope_has_no_stream_outcome(api, memory):
    (stream,) = (one for one in WAYS if one.name == "stream")
    api.answers(**ENVELOPE)

    stream.ask(api)

    assert "assisters.stream.outcome" not in memory.call().attributes


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.post("/audio/transcriptions", cast_to=str, body={"model": "m"}),
        lambda client: client.audio.speech.create(model="m", input="x", voice="a").content,
        lambda client: client.files.content("f").read(),
    ],
    ids=["text", "bytes", "file"],
)
@pytest.mark.parametrize("answer", [ENVELOPE, PAGE, {"status": 204}], ids=["json", "page", "204"])
def test_texts_and_bytes_that_are_returned_as_they_are_are_successes(api, memory, ask, answer):
    api.answers(**answer)

    by_openai(ask)(api)

    assert memory.call().attributes[OUTCOME] == "ok"
    assert memory.points(ERRORS) == []


def test_a_204_is_a_success(api, memory):
    api.answers(status=204)

    by_openai(lambda client: client.delete("/files/f", cast_to=type(None)))(api)

    assert memory.call().attributes[OUTCOME] == "ok"


def test_no_message_and_no_key_of_an_envelope_leaves(api, memory):
    key = "ask_" + "planted0" * 4
    api.answers(json={"error": {"code": f"bad {key}", "message": key}}, status=200)

    by_openai(lambda client: client.chat.completions.create(**CHAT))(api)

    assert key not in str(memory.call().attributes)
    assert key not in str(memory.points(ERRORS))


# -- a parse that fails, at once or later ---------------------------------------------------------


@pytest.mark.parametrize("way", PARSED, ids=str)
def test_an_answer_that_cannot_be_parsed_fails_the_call_by_the_exception_s_name(api, memory, way):
    api.answers(**BROKEN)

    assert isinstance(tried(way, api), ValueError)

    call = memory.call()
    assert call.attributes[OUTCOME] == "failed"
    assert call.attributes["error.type"] == "JSONDecodeError"
    assert memory.points(ERRORS) == []


@pytest.fixture
def client(api):
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        yield client


def raw(client):
    return client.chat.completions.with_raw_response.create(**CHAT)


def waited_for(memory, limit_s):
    until = time.monotonic() + limit_s
    while not memory.calls() and time.monotonic() < until:
        time.sleep(0.05)
    return memory.call()


def test_a_call_waits_until_its_answer_has_been_parsed_and_ends_with_its_body(client, memory):
    answer = raw(client)
    returned_ns = time.time_ns()
    time.sleep(0.2)
    assert memory.calls() == []

    answer.parse()

    call = memory.call()
    assert call.attributes[OUTCOME] == "ok"
    assert call.end_time <= returned_ns
    assert memory.point(DURATION)["sum"] == pytest.approx(
        (call.end_time - call.start_time) / 1e9, abs=0.1
    )


def test_a_call_waits_no_longer_when_the_app_drops_the_answer(client, memory, telemetry):
    answer = raw(client)
    assert memory.calls() == []

    del answer
    gc.collect()
    telemetry.flush(5)

    assert memory.call().attributes[OUTCOME] == "ok"


def test_nor_when_the_same_thread_sends_its_next_call(client, memory):
    first = raw(client)
    second = raw(client)

    assert memory.call().attributes[OUTCOME] == "ok"
    assert first is not second


def test_a_call_of_another_thread_ends_no_wait(client, memory):
    answer = raw(client)
    thread = threading.Thread(target=lambda: client.chat.completions.create(**CHAT))
    thread.start()
    thread.join()

    assert len(memory.calls()) == 1
    answer.parse()
    assert len(memory.calls()) == 2


def test_nor_does_a_call_of_another_task(api, memory):
    async def whole():
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
            answer = await client.chat.completions.with_raw_response.create(**CHAT)
            await asyncio.create_task(async_plain(client))
            assert len(memory.calls()) == 1
            answer.parse()

    asyncio.run(whole())

    assert len(memory.calls()) == 2


def test_a_call_waits_for_five_seconds_at_most(client, memory):
    answer = raw(client)

    call = waited_for(memory, 5.5)

    assert answer
    assert call.attributes[OUTCOME] == "ok"
    assert (call.end_time - call.start_time) / 1e9 < 2, "it has ended with its body"


def test_the_end_of_telemetry_ends_the_wait(client, memory, telemetry):
    answer = raw(client)

    telemetry.shutdown()

    assert answer
    assert memory.call().attributes[OUTCOME] == "ok"


def test_an_answer_that_the_app_closes_is_parsed_no_more(client, memory):
    with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
        assert answer.read()
        assert memory.calls() == []

    assert memory.call().attributes[OUTCOME] == "ok"


def test_a_body_that_is_closed_unread_is_a_cancelled_call(client, memory):
    with client.chat.completions.with_streaming_response.create(**CHAT):
        pass

    assert memory.call().attributes[OUTCOME] == "cancelled"


def test_a_parse_that_fails_after_the_end_is_one_line_and_one_point(api, client, memory, caplog):
    api.answers(**BROKEN, request_id="req_7")
    answer = raw(client)
    client.models.list()
    assert [call.attributes[OUTCOME] for call in memory.calls()] == ["ok", "ok"]
    assert memory.points(ERRORS) == []

    for _ in range(2):
        with pytest.raises(ValueError, match="Unterminated"):
            answer.parse()

    point = memory.point(ERRORS)
    assert (point["value"], point["error.type"]) == (1, "JSONDecodeError")
    assert point["http.response.status_code"] == 200
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "answered 200, which is no success (JSONDecodeError), on " in line
    assert "req_7" in line
    assert len(memory.calls()) == 2


def test_explain_knows_the_request_of_a_parse_that_fails_later(api, client):
    api.answers(**BROKEN, request_id="req_7")

    with pytest.raises(ValueError, match="Unterminated") as caught:
        raw(client).parse()

    assert assisters_otel.explain(caught.value).request_id == "req_7"


def test_nothing_of_an_answer_is_kept_when_the_app_has_dropped_it(client, memory, telemetry):
    unparsed = telemetry._instrumentation.recorder.calls.unparsed
    for _ in range(20):
        raw(client).parse()
        raw(client)
    gc.collect()
    telemetry.flush(5)

    assert len(memory.calls()) == 40
    assert unparsed.waits == {}
    assert len(unparsed._calls) == 0
    assert not unparsed._by_owner


# -- a repeat -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [ENVELOPE, PAGE, BROKEN], ids=["envelope", "page", "broken"])
def test_a_repeat_after_an_unusable_answer_is_a_repetition_like_any_other(api, memory, answer):
    way = next(one for one in WAYS if one.name == "raw")
    api.answers(**answer)
    tried(way, api)
    way.ask(api)

    before, after = memory.calls()
    first, second = memory.attempts()
    assert AGAIN not in before.attributes
    assert after.attributes[AGAIN] == 1
    assert [link.context for link in after.links] == [before.context]
    assert after.attributes[OUTCOME] == "ok"
    assert second.attributes["http.request.resend_count"] == 1
    assert second.attributes["assisters.retry.reason"] == (
        "JSONDecodeError"
        if answer is BROKEN
        else before.attributes.get("error.code") or before.attributes["error.type"]
    )
    assert [link.context for link in second.links] == [first.context]


def test_whether_a_retry_helps_against_a_parse_that_fails_is_not_claimed_to_be_known(api, memory):
    way = next(one for one in WAYS if one.name == "openai")
    api.answers(**BROKEN)
    tried(way, api)
    way.ask(api)

    assert memory.attempts()[1].attributes["assisters.retry.futile"] is False


# -- a body that breaks off -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [one for one in WAYS if one.name in {"openai", "raw", "post"}], ids=str
)
def test_a_body_that_breaks_off_counts_once_and_may_be_resent(api, memory, way):
    api.answers(fault="truncate")
    api.answers(fault="truncate")

    for _ in range(2):
        tried(way, api)

    calls = memory.calls()
    assert [call.attributes[OUTCOME] for call in calls] == ["failed", "failed"]
    assert sum(point["value"] for point in memory.points(ERRORS)) == 2
    assert "error.type" not in memory.attempts()[0].attributes
    assert memory.attempts()[1].attributes["http.request.resend_count"] == 1
    assert calls[1].attributes[AGAIN] == 1


class Odd(openai.BaseModel):
    """A result type of the app's, whose members cannot be read."""

    @property
    def model_extra(self):
        raise RuntimeError("odd")


def test_a_result_that_cannot_be_judged_ends_its_call(api, memory, monkeypatch):
    monkeypatch.setattr(fail_safe.own_errors, "strict", False)
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        result = client.post("/rerank", cast_to=Odd, body={"model": "m"})

    assert type(result) is Odd
    assert memory.call().attributes[OUTCOME] == "ok"
