"""What comes over the wire in other shapes: HTTP/2, proxies, mounts, real SDKs, hostile bytes."""

from __future__ import annotations

import asyncio
import json
import math
import time

import httpx
import httpx2
import pytest
from assisters import Assisters
from openai import APIStatusError, AsyncOpenAI, OpenAI
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

import assisters_otel
from http2_server import http2

DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"

pytestmark = pytest.mark.usefixtures("telemetry")


def test_http_2_is_the_same(api, memory, telemetry, caller):
    telemetry.shutdown()
    with (
        http2(api.app) as url,
        assisters_otel.init(
            hosts=[url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ),
    ):
        api.answers("insufficient_funds", request_id="req_h2")
        client = caller.client(http1=False, http2=True)
        response = caller.send("GET", url + "/models", client=client)

    assert response.http_version == "HTTP/2"
    assert response.json()["error"]["code"] == "insufficient_funds"
    attributes = memory.attempt().attributes
    assert attributes["error.code"] == "insufficient_funds"
    assert attributes["assisters.request.id"] == "req_h2"
    assert memory.point(ERRORS)["error.code"] == "insufficient_funds"


@pytest.mark.parametrize("is_http2", [True, False])
@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_failed_answer_that_is_left_unread_is_closed_at_once(memory, telemetry, module, is_http2):
    """More of it has been read ahead than is kept, and the peer sends the rest later."""
    telemetry.shutdown()
    started = {"type": "http.response.start", "status": 429, "headers": []}

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await receive()
            await send(started)
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            await asyncio.sleep(3)
            await send({"type": "http.response.body", "body": b"y"})

    async def close(url):
        kind = module.AsyncClient
        async with kind(
            http1=not is_http2, http2=is_http2, timeout=None, trust_env=False
        ) as client:
            request = client.build_request("GET", f"{url}/models")
            response = await client.send(request, stream=True)
            started_s = time.monotonic()
            await response.aclose()
            return response.http_version, time.monotonic() - started_s

    with (
        http2(app) as url,
        assisters_otel.init(
            hosts=[url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ),
    ):
        version, took_s = asyncio.run(close(url))

    assert version == ("HTTP/2" if is_http2 else "HTTP/1.1")
    assert took_s < 2.5, "the rest comes after three"
    assert memory.attempt().attributes["error.type"] == "429"


def test_a_mount_and_a_proxy_are_the_same(api, memory, caller):
    api.answers("invalid_model", "invalid_model")

    caller.send(
        "GET",
        api.url + "/models",
        client=caller.client(mounts={"http://": caller.transport()}),
    )
    # A proxy for plain HTTP takes a request with the whole URL, which FakeApi understands.
    proxied = f"http://127.0.0.1:{api.port}"
    caller.send("GET", api.url + "/models", client=caller.client(proxy=proxied))

    assert len(memory.attempts()) == 2
    for span in memory.attempts():
        assert span.attributes["error.code"] == "invalid_model"
        assert span.name == "GET /v1/models"


def test_an_auth_flow_s_two_requests_have_a_span_each(api, memory, caller):
    api.answers("invalid_api_key", "ok")

    class Auth(caller.module.Auth):
        def auth_flow(self, request):
            response = yield request
            if response.status_code == 401:
                request.headers["Authorization"] = "Bearer ask_other_0123456789"
                yield request

    response = caller.send("GET", api.url + "/models", auth=Auth())

    assert response.status_code == 200
    first, second = memory.attempts()
    assert first.attributes["error.code"] == "invalid_api_key"
    assert "error.code" not in second.attributes
    assert first.context.span_id != second.context.span_id


def test_connections_are_reused_as_often_as_without_us(api, caller):
    api.answers("invalid_model", times=5)

    async def script(at):
        for _ in range(5):
            response = await at.open("GET", api.url + "/models")
            await at.read(response)
            await at.close(response)

    options = {"limits": caller.module.Limits(max_connections=1)}
    caller.use(caller.client(**options), script)

    assert api.connections == 1


def test_fifty_at_once_are_fifty_attempts(api, memory):
    api.answers("rate_limit_exceeded", times=50)

    async def all_of_them():
        async with httpx.AsyncClient(trust_env=False) as client:
            await asyncio.gather(*(client.get(api.url + "/models") for _ in range(50)))

    asyncio.run(all_of_them())

    assert len(memory.attempts()) == 50
    assert memory.point(ERRORS)["value"] == memory.point(DURATION)["count"] == 50


# -- the real SDKs ----------------------------------------------------------------------------

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
KEY = "ask_live_0123456789"


def test_openai_s_attempts_are_all_seen(api, memory):
    api.answers("rate_limit_exceeded", retry_after="0.01")
    api.answers("model_overloaded", headers={"retry-after": "0.01"})

    with OpenAI(base_url=api.url, api_key=KEY) as client:
        answer = client.chat.completions.create(**CHAT)

    assert answer.choices
    codes = [span.attributes.get("error.code") for span in memory.attempts()]
    assert codes == ["rate_limit_exceeded", "model_overloaded", None]
    assert {span.name for span in memory.attempts()} == {"POST /v1/chat/completions"}


def test_openai_async_s_exception_is_the_same(api, memory):
    api.answers("tokens_exhausted", request_id="req_5")

    async def call():
        async with AsyncOpenAI(base_url=api.url, api_key=KEY, max_retries=0) as client:
            await client.chat.completions.create(**CHAT)

    with pytest.raises(APIStatusError) as raised:
        asyncio.run(call())

    assert raised.value.code == memory.attempt().attributes["error.code"] == "tokens_exhausted"
    assert raised.value.request_id == memory.attempt().attributes["assisters.request.id"] == "req_5"


def test_openai_s_stream_that_failed_has_its_envelope_though_nobody_reads_it(api, memory):
    api.answers("rate_limit_exceeded", retry_after="0.01", param="model")

    with OpenAI(base_url=api.url, api_key=KEY) as client:
        assert list(client.chat.completions.create(**CHAT, stream=True))

    first, second = memory.attempts()
    assert first.attributes["error.param"] == "model"
    assert "error.type" not in second.attributes


def test_openai_with_a_legacy_httpx_client_is_the_same(api, memory):
    api.answers("invalid_model")

    with (
        httpx.Client(trust_env=False) as legacy,
        OpenAI(base_url=api.url, api_key=KEY, http_client=legacy) as client,
        pytest.raises(APIStatusError),
    ):
        client.embeddings.create(model="x", input="y")

    assert memory.attempt().attributes["error.code"] == "invalid_model"


def test_what_the_assisters_sdk_loses_is_on_the_span(api, memory):
    from assisters import AssistersAPIError

    api.answers("missing_parameter", param="messages", request_id="req_6")

    with (
        Assisters(api_key=KEY, base_url=api.url) as client,
        pytest.raises(AssistersAPIError),
    ):
        client.chat.completions.create(**CHAT)

    attributes = memory.attempt().attributes
    assert attributes["error.code"] == "missing_parameter"
    assert attributes["error.param"] == "messages"
    assert attributes["assisters.request.id"] == "req_6"


# -- hostile ----------------------------------------------------------------------------------

HOSTILE = {
    "nested": {"status": 400, "body": b'{"error":' * 5000},
    "a list in a list": {"status": 400, "body": b"[" * 60_000},
    "lone surrogates": {
        "status": 400,
        "body": b'{"error": {"code": "\\ud800", "type": "\\udfff"}}',
    },
    "a NUL": {"status": 400, "body": b'{"error": {"code": "a\\u0000b", "param": "\\u0000"}}'},
    "wrong types": {"status": 400, "json": {"error": {"code": 1, "type": [], "param": {}}}},
    "a huge code": {"status": 400, "code": "c" * 50_000},
    "a key as a code": {"status": 400, "code": KEY, "param": f"Bearer {KEY}", "type": KEY},
    "a key as an id": {"status": 400, "request_id": KEY},
    "NaN": {"status": 429, "retry_after": "NaN"},
    "infinity": {"status": 429, "retry_after": "inf"},
    "a retry after for ever": {"status": 429, "retry_after": "9" * 300},
    "beyond int64": {
        "status": 429,
        "headers": {
            "x-ratelimit-limit-rpm": str(2**64),
            "x-ratelimit-remaining-rpm": "-" + "9" * 30,
            "x-ratelimit-limit-tpm": "9" * 3000,
            "x-ratelimit-remaining-tpm": "1e9",
            "x-ratelimit-reset-rpm": "9" * 400,
            "x-processing-time-ms": "inf",
        },
    },
    "another status": {"status": 499, "body": b""},
    "latin-1": {"status": 400, "headers": {"x-request-id": "\xe9\x80"}},
}


def test_hostile_answers_are_values_and_the_whole_batch_still_encodes(api, memory, anyone, caplog):
    for answer in HOSTILE.values():
        api.answers(**answer)

    for _ in HOSTILE:
        anyone.send("GET", api.url + "/models")

    assert len(memory.attempts()) == len(HOSTILE)
    encoded = encode_spans(memory.spans()).SerializeToString()
    assert encoded
    assert encode_metrics(memory._reader.get_metrics_data()).SerializeToString()
    assert KEY.encode() not in encoded
    assert KEY not in caplog.text
    for span in memory.attempts():
        for value in span.attributes.values():
            if isinstance(value, str):
                assert len(value) < 300
                value.encode()
            if isinstance(value, float):
                assert math.isfinite(value)


def test_no_key_prompt_or_message_is_in_any_telemetry(api, memory, telemetry, anyone, caplog):
    secret = "what somebody typed"
    caplog.set_level("DEBUG", "assisters_otel")
    headers = {"Authorization": f"Bearer {KEY}"}
    quoting = f"You said {secret}, with {KEY}"
    api.answers("invalid_request", message=quoting, param="messages")
    api.answers("content_filtered", message=quoting)

    anyone.send("POST", api.url + "/chat/completions", json={"prompt": secret}, headers=headers)
    url = api.url + "/agent/stream?prompt=what+somebody+typed"
    anyone.send("GET", url, headers=headers)
    api.stop()
    with pytest.raises(anyone.refused):
        anyone.send("GET", url, headers=headers)

    told = [span.to_json() for span in memory.spans()]
    told += [json.dumps(memory.collect(), default=str), caplog.text, repr(telemetry.status())]
    for text in told:
        assert KEY not in text
        assert secret not in text.replace("+", " ")


def test_a_flood_of_headers_is_one_pass(api, memory, caller):  # the others refuse it
    flood = "".join(f"x-h{n}: {'v' * 20}\r\n" for n in range(500))
    body = '{"error": {"code": "invalid_model"}}'
    head = f"HTTP/1.1 400 Bad\r\ncontent-length: {len(body)}\r\nx-request-id: req_1\r\n"
    api.answers(fault="garbage", body=head + flood + "\r\n" + body)

    caller.send("GET", api.url + "/models")

    assert memory.attempt().attributes["error.code"] == "invalid_model"
    assert memory.attempt().attributes["assisters.request.id"] == "req_1"


def test_a_lying_content_length_is_the_reader_s_error(api, memory, anyone):
    body = '{"error": {"code": "invalid_model"}}'
    head = "HTTP/1.1 400 Bad\r\ncontent-length: 4000\r\nx-request-id: req_1\r\n\r\n"
    api.answers(fault="garbage", body=head + body)

    with pytest.raises(anyone.broken):
        anyone.send("GET", api.url + "/models")

    # All that came is the envelope, so it is known all the same; requests has thrown it away.
    expected = None if anyone.name == "requests" else "invalid_model"
    assert memory.attempt().attributes.get("error.code") == expected
    assert memory.attempt().attributes["error.type"] == "400"


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_subclass_and_a_wrapper_of_the_transport_are_seen(api, memory, module):
    class Mine(module.HTTPTransport):
        def handle_request(self, request):
            request.headers["x-mine"] = "1"
            return super().handle_request(request)

    class Around(module.BaseTransport):
        def __init__(self):
            self.inner = Mine()

        def handle_request(self, request):
            return self.inner.handle_request(request)

        def close(self):
            self.inner.close()

    with module.Client(transport=Around()) as client:
        client.get(api.url + "/models")

    assert api.requests[0].headers["x-mine"] == "1"
    assert memory.attempt().name == "GET /v1/models"
