"""requests over a real socket: what its attempts say, and that the app cannot tell."""

from __future__ import annotations

import gc
import io
import logging
import os
import re
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product
from types import MappingProxyType
from unittest import mock
from urllib.parse import urlsplit

import httpx
import pytest
import requests
import wrapt
from opentelemetry import baggage, context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import StatusCode
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPHeaderDict, HTTPResponse, PoolManager
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout
from urllib3.util.retry import Retry

import assisters_otel
from assisters_otel import catalog, explain
from assisters_otel.providers import exporter_logs
from assisters_otel.sinks import foreign_span
from assisters_otel.sinks.foreign_span import before_end
from assisters_otel.testing import FakeApi
from memory import Memory
from otlp import Collector
from raw_server import RawServer
from scripts import run

DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"
RETRIES = "assisters.client.retries"


@pytest.fixture(params=["by us", "by the app before us", "by the app after us"])
def watched(request, api, memory):
    """Whoever switches the HTTP instrumentation on, what is seen is the same."""
    options = {
        "tracer_provider": memory.tracer_provider,
        "meter_provider": memory.meter_provider,
    }
    theirs = RequestsInstrumentor()
    if request.param == "by the app before us":
        theirs.instrument(**options)
    with assisters_otel.init(hosts=[api.url], strict=True, **options) as telemetry:
        if request.param == "by the app after us":
            theirs.instrument(**options)
        yield telemetry
        if theirs.is_instrumented_by_opentelemetry:
            theirs.uninstrument()


@pytest.fixture
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def ours(telemetry):
    return telemetry


# -- what is seen --------------------------------------------------------------------------------


@pytest.mark.usefixtures("watched")
def test_every_documented_error_is_on_its_span_and_in_both_metrics(api, memory, session):
    for error in catalog.ERRORS:
        api.answers(error.code, param="model", request_id="req_1")
        session.post(f"{api.url}/chat/completions", json={"n": error.code})

    assert len(memory.attempts()) == 15
    for error, span in zip(catalog.ERRORS, memory.attempts(), strict=True):
        said = span.attributes
        assert span.name == "POST /v1/chat/completions"
        assert (said["error.type"], said["error.code"]) == (error.type, error.code)
        assert said["error.param"] == "model"
        assert said["assisters.error.retryable"] is error.retryable
        assert said["assisters.request.id"] == "req_1"
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, error.code)
    points = memory.collect()
    for name in (DURATION, ERRORS):
        assert {point["error.code"] for point in points[name]} == {e.code for e in catalog.ERRORS}
        for point in points[name]:
            ids = {span.context.span_id for span in memory.attempts()}
            assert {one.span_id for one in point["exemplars"]} <= ids


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("answer", [{}, {"gzip": True}, {"chunked": True},
                                    {"chunked": True, "gzip": True}])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_an_envelope_is_read_in_every_form(api, memory, session, answer, stream):
    api.answers("insufficient_funds", **answer)

    response = session.get(f"{api.url}/models", stream=stream)

    assert memory.attempt().attributes["error.code"] == "insufficient_funds"
    assert response.json()["error"]["code"] == "insufficient_funds"


@pytest.mark.usefixtures("watched")
def test_a_success_has_no_error(api, memory, session):
    session.get(f"{api.url}/models")

    span = memory.attempt()
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in span.attributes
    assert memory.point(DURATION)["http.response.status_code"] == 200


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("fault", "name"), [("drop", "ConnectionError"), ("silence", "ReadTimeout")]
)
def test_an_attempt_without_an_answer_is_in_both_metrics(api, memory, session, fault, name):
    api.answers(fault=fault)

    with pytest.raises(requests.RequestException):
        session.get(f"{api.url}/agent/stream?prompt=planted", timeout=(30, 0.3))

    span = memory.attempt()
    assert span.attributes["error.type"] == name
    assert span.attributes["assisters.error.retryable"] is True
    assert memory.point(DURATION)["error.type"] == memory.point(ERRORS)["error.type"] == name
    assert "planted" not in span.to_json()


@pytest.mark.usefixtures("watched")
def test_an_app_s_loop_is_seen_as_retries(api, memory, session):
    api.answers("rate_limit_exceeded", "model_overloaded", retry_after=30)
    for _ in range(3):
        session.post(f"{api.url}/embeddings", json={"input": "same"})

    told = [span.attributes.get("http.request.resend_count") for span in memory.attempts()]
    assert told == [None, 1, 2]
    last = memory.attempts()[-1]
    assert last.attributes["assisters.retry.reason"] == "model_overloaded"
    assert last.attributes["assisters.retry.early"] is True
    assert [link.context for link in last.links] == [memory.attempts()[1].context]


@pytest.mark.usefixtures("watched")
def test_what_urllib3_sends_again_inside_one_span_is_counted(api, memory, session):
    retry = Retry(3, status_forcelist=[429, 503], allowed_methods=None, backoff_factor=0)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    api.answers("rate_limit_exceeded", retry_after=0)
    api.answers("model_overloaded", "ok")

    response = session.post(f"{api.url}/embeddings", json={"input": "x"})

    assert response.status_code == 200
    span = memory.attempt()
    assert span.attributes["http.request.resend_count"] == 2
    assert span.attributes["assisters.retry.reason"] == "model_overloaded"
    assert "error.code" not in span.attributes
    assert span.status.status_code is StatusCode.UNSET
    assert span.links == (), "none to itself"
    points = memory.collect()
    assert sum(point["count"] for point in points[DURATION]) == 3
    assert {p["error.code"] for p in points[ERRORS]} == {"rate_limit_exceeded", "model_overloaded"}
    assert {p["assisters.retry.reason"] for p in points[RETRIES]} == {
        "rate_limit_exceeded",
        "model_overloaded",
    }


class Waiting(Retry):
    """Waits as long as the API has asked. *meanwhile* is called first."""

    meanwhile = staticmethod(lambda: None)

    def sleep(self, response=None):
        self.meanwhile()
        if response is None:
            return super().sleep()
        time.sleep(float(response.headers["retry-after"]))
        return None


@pytest.mark.usefixtures("watched")
def test_the_wait_of_urllib3_is_no_part_of_the_attempt_after_it(api, memory, session, monkeypatch):
    """Who had waited as long as the API asked was told that it had come too early."""
    counted = []
    monkeypatch.setattr(Waiting, "meanwhile", lambda _: counted.append(memory.points(RETRIES)))
    retry = Waiting(1, status_forcelist=[429], allowed_methods=None)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    api.answers("rate_limit_exceeded", retry_after=0.1)

    began_s = time.perf_counter()
    assert session.post(f"{api.url}/embeddings", json={"input": "x"}).status_code == 200
    took_s = time.perf_counter() - began_s

    told = memory.attempt().attributes
    assert told["assisters.retry.delay"] >= 0.1
    assert told["assisters.retry.early"] is False
    assert memory.point(RETRIES)["assisters.retry.early"] is False
    assert counted == [[]], "before it is sent"
    assert sum(point["sum"] for point in memory.points(DURATION)) <= took_s - 0.1


class InTheAppError(Exception):
    """What the app ends the wait with."""


def ended_by(error):
    def end(_retry):
        raise error

    return end


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("end", "has_answer"),
    [(None, True), *product([InTheAppError("enough"), KeyboardInterrupt()], [True, False])],
)
def test_what_urllib3_has_not_sent_again_is_no_attempt(
    api, memory, session, monkeypatch, end, has_answer
):
    """urllib3 raises for a Retry-After that is none, after it has counted the resend."""
    policy = Retry if end is None else Waiting
    monkeypatch.setattr(Waiting, "meanwhile", ended_by(end))
    retry = policy(2, status_forcelist=[429], allowed_methods=None)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    if has_answer:
        api.answers("rate_limit_exceeded", headers={"retry-after": "soon"})
    else:
        api.answers(fault="drop")

    with pytest.raises(BaseException) as raised:  # noqa: PT011 - each one's own
        session.post(f"{api.url}/embeddings", json={"input": "x"})

    assert len(api.requests) == 1
    span, point = memory.attempt(), memory.point(ERRORS)
    assert "http.request.resend_count" not in span.attributes
    if has_answer or span.instrumentation_scope.name == "assisters_otel":
        assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["assisters.error.retryable"] is True
    assert point["value"] == memory.point(DURATION)["count"] == 1
    assert span.attributes["error.type"] == point["error.type"]
    assert memory.points(RETRIES) == []
    if has_answer:
        assert span.attributes["error.code"] == point["error.code"] == "rate_limit_exceeded"
        if isinstance(raised.value, Exception):
            assert explain(raised.value).code == "rate_limit_exceeded"


@pytest.mark.usefixtures("watched")
def test_a_pool_of_the_app_s_own_is_seen_though_it_hides_the_sending(api, memory, session):
    class Pool(HTTPConnectionPool):
        original = staticmethod(getattr(HTTPConnectionPool.urlopen, "__wrapped__", None))

        def urlopen(self, *args, **kwargs):
            return self.original(self, *args, **kwargs)

    adapter = HTTPAdapter(max_retries=Retry(1, status_forcelist=[429], allowed_methods=None))
    adapter.poolmanager.pool_classes_by_scheme = {"http": Pool}
    session.mount("http://", adapter)
    api.answers("rate_limit_exceeded", retry_after=0)

    assert session.post(f"{api.url}/embeddings", json={"input": "x"}).status_code == 200

    assert memory.attempt().attributes["http.request.resend_count"] == 1
    assert memory.point(RETRIES)["value"] == 1


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("raise_on_status", [True, False])
def test_the_last_of_what_urllib3_sent_is_told(api, memory, session, raise_on_status):
    retry = Retry(
        1,
        status_forcelist=[503],
        allowed_methods=None,
        backoff_factor=0,
        raise_on_status=raise_on_status,
    )
    session.mount("http://", HTTPAdapter(max_retries=retry))
    api.answers("model_overloaded", "model_overloaded")

    with suppress(requests.exceptions.RetryError):
        response = session.get(f"{api.url}/models")
        assert response.json()["error"]["code"] == "model_overloaded"

    span = memory.attempt()
    assert span.attributes["error.code"] == "model_overloaded"
    assert span.attributes["http.request.resend_count"] == 1
    assert memory.point(ERRORS)["value"] == 2


@pytest.mark.usefixtures("watched")
def test_what_urllib3_sends_through_a_pool_that_another_has_pushed_out_is_told(
    api, memory, session
):
    class Elsewhere(Retry):
        def sleep(self, response=None):  # noqa: ARG002 - as urllib3 calls it
            session.get(f"{other.url}/models")

    retry = Elsewhere(2, status_forcelist=[503], allowed_methods=None, raise_on_status=False)
    session.mount("http://", HTTPAdapter(pool_connections=1, max_retries=retry))
    api.answers("model_overloaded", times=2)

    with FakeApi() as other:
        assert session.get(f"{api.url}/models").status_code == 200

    assert len(api.requests) == 3
    assert memory.point(ERRORS)["value"] == 2
    assert memory.attempts()[-1].attributes["http.request.resend_count"] == 2


@pytest.mark.parametrize(
    ("code", "retryable"), [("tokens_exhausted", False), ("model_overloaded", True)]
)
@pytest.mark.usefixtures("watched")
def test_an_error_that_urllib3_raises_in_place_of_the_last_answer_is_explained_by_that(
    api, session, code, retryable
):
    retry = Retry(1, status_forcelist=[429, 503], backoff_factor=0)
    session.mount("http://", HTTPAdapter(max_retries=retry))
    api.answers(code, code, request_id="req_last", retry_after=0)

    with pytest.raises(requests.exceptions.RetryError) as raised:
        session.get(f"{api.url}/models")

    told = explain(raised.value)
    assert (told.code, told.retryable, told.request_id) == (code, retryable, "req_last")
    assert told.status == catalog.find(code).status
    assert told.user_message == catalog.find(code).user_message


@pytest.mark.usefixtures("watched")
def test_a_401_that_an_auth_handler_answers_is_a_retry(api, memory, session):
    class Again(AuthBase):
        def __call__(self, request):
            request.register_hook("response", self.answer)
            return request

        def answer(self, response, **kwargs):
            if response.status_code != 401:
                return response
            _ = response.content
            response.close()
            again = response.request.copy()
            again.headers["Authorization"] = "Bearer new"
            return response.connection.send(again, **kwargs)

    api.answers("invalid_api_key", "ok")

    response = session.get(f"{api.url}/models", auth=Again())

    assert response.status_code == 200
    span = memory.attempts()[-1]  # OpenTelemetry's instrumentation makes one for both
    assert span.attributes["http.request.resend_count"] == 1
    assert span.attributes["assisters.retry.reason"] == "invalid_api_key"
    assert span.attributes["assisters.retry.futile"] is False
    assert "error.code" not in span.attributes
    assert memory.point(ERRORS)["error.code"] == "invalid_api_key"


@pytest.mark.usefixtures("watched")
def test_a_redirect_s_hop_is_no_retry(api, memory, session):
    api.answers(redirect="/v1/models")

    session.get(f"{api.url}/agent/run")

    span = memory.attempts()[-1]  # OpenTelemetry's instrumentation makes one for all hops
    assert span.attributes["http.request.resend_count"] == 1
    assert "assisters.retry.reason" not in span.attributes
    assert memory.points(RETRIES) == []


# -- whose requests, whose spans -----------------------------------------------------------------


@pytest.mark.usefixtures("ours")
def test_another_host_gets_no_span_and_no_header(api, memory, session):
    with FakeApi() as other:
        api.answers(redirect=f"{other.url}/models")
        response = session.get(f"{api.url}/models")
        session.get(f"{other.url}/models")

        assert all("traceparent" not in one.headers for one in other.requests)
    assert "traceparent" in api.requests[0].headers
    assert "traceparent" not in response.history[0].request.headers
    assert len(memory.attempts()) == 1


@pytest.mark.usefixtures("ours")
def test_the_app_s_baggage_does_not_go_to_the_api(api, session):
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        session.get(f"{api.url}/models")
        session.get(f"{api.url}/models", headers={"baggage": "mine=1"})
    finally:
        context.detach(token)

    first, second = api.requests
    assert "baggage" not in first.headers
    assert second.headers["baggage"] == "mine=1"


@pytest.mark.usefixtures("ours")
def test_the_app_s_request_is_the_very_same_afterwards(api, session):
    request = session.prepare_request(requests.Request("GET", f"{api.url}/models"))
    headers, before = request.headers, dict(request.headers)

    response = session.send(request)

    assert response.request is request
    assert request.headers is headers
    assert dict(headers) == before


@pytest.mark.usefixtures("watched")
def test_the_app_s_own_span_is_never_written_to(api, memory, session):
    api.answers("rate_limit_exceeded", times=2)
    tracer = memory.tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("work", kind=trace.SpanKind.CLIENT) as span:
        before = span.to_json()
        session.get(f"{api.url}/models")
        with suppress_instrumentation():
            session.get(f"{api.url}/models")
        assert span.to_json() == before

    assert len(memory.attempts()) == 1
    assert memory.point(ERRORS)["value"] == 2


@pytest.mark.usefixtures("ours")
def test_a_request_that_is_not_prepared_is_refused_in_the_session_s_words(api, session):
    with pytest.raises(ValueError, match="You can only send PreparedRequests"):
        session.send(requests.Request(url=f"{api.url}/models"))


def test_shutdown_puts_the_very_same_functions_back(api):
    before = requests.Session.send, HTTPAdapter.send, Retry.increment
    with assisters_otel.init(hosts=[api.url], tracer_provider=Memory().tracer_provider):
        assert (requests.Session.send, HTTPAdapter.send, Retry.increment) != before
    assert (requests.Session.send, HTTPAdapter.send, Retry.increment) == before


# -- event streams -------------------------------------------------------------------------------

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
READS_STREAM = {
    "content": lambda r: r.content,
    "lines": lambda r: list(r.iter_lines()),
    "pieces": lambda r: list(r.iter_content(7)),
    "all at once": lambda r: list(r.iter_content(None)),
    "raw": lambda r: r.raw.read(),
    "raw by pieces": lambda r: list(iter(lambda: r.raw.read(50), b"")),
    "raw, what there is": lambda r: list(iter(lambda: r.raw.read1(50), b"")),
    "raw lines": lambda r: list(r.raw),
    "raw stream": lambda r: list(r.raw.stream(9, decode_content=True)),
    "drained": lambda r: r.raw.drain_conn(),
}


def streams(memory):
    return [span for span in memory.spans() if span.name == "assisters.stream"]


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("read", READS_STREAM)
@pytest.mark.parametrize("answer", [{}, {"gzip": True}], ids=str)
def test_a_stream_is_watched_however_it_is_read(api, memory, session, read, answer):
    api.answers(**answer)
    with session.post(f"{api.url}/chat/completions", json=STREAM, stream=True) as response:
        READS_STREAM[read](response)

    (span,) = streams(memory)
    assert span.attributes["assisters.stream.outcome"] == "completed"
    assert span.attributes["assisters.stream.chunks"] == 7
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 5
    assert [link.context for link in span.links] == [memory.attempt().context]


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("answer", "outcome", "error"),
    [
        ({"in_stream": "model_overloaded"}, "error", "server_error"),
        ({"fault": "unfinished"}, "truncated", "truncated"),
        ({"fault": "truncate"}, "error", "ChunkedEncodingError"),
        ({"fault": "truncate", "gzip": True}, "error", "ChunkedEncodingError"),
        ({"fault": "stall"}, "error", "ConnectionError"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_that_fails_after_its_200_says_how(
    api, memory, session, answer, outcome, error, stream
):
    api.answers(**answer)
    raised = None
    url = f"{api.url}/chat/completions"
    try:
        with session.post(url, json=STREAM, stream=stream, timeout=(30, 0.4)) as response:
            list(response.iter_lines())
    except requests.RequestException as met:
        raised = met

    (span,) = streams(memory)
    assert span.attributes["assisters.stream.outcome"] == outcome
    assert span.attributes["error.type"] == error
    assert memory.point(ERRORS)["error.type"] == error
    if "fault" in answer and error != "truncated":
        assert type(raised).__name__ == error
        told = assisters_otel.explain(raised)
        assert (told.status, told.retryable) == (200, True)
        assert told.trace_id == trace.format_trace_id(span.context.trace_id)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("is_read", [True, False])
def test_the_connection_s_reader_is_closed_with_a_failed_answer(api, session, is_read):
    """Without this it would be open for as long as anyone holds the answer's."""
    api.answers("internal_error", chunked=True, size=100_000)

    response = session.get(f"{api.url}/models", stream=True)
    reader = response.raw._original_response.fp
    wire = reader.raw._rest
    assert not wire.closed
    assert not is_read or len(response.content) == 100_000
    response.close()

    assert (reader.closed, wire.closed) == (True, True)


@pytest.mark.usefixtures("watched")
def test_a_stream_closed_early_is_cancelled_and_one_dropped_is_abandoned(api, memory, session):
    api.answers(chunk_delay_s=0.02, times=3)
    with session.post(f"{api.url}/chat/completions", json=STREAM, stream=True) as response:
        next(response.iter_lines())
    response = session.post(f"{api.url}/chat/completions", json=STREAM, stream=True)
    for _ in response.iter_lines():
        break
    del response
    gc.collect()
    response = session.post(f"{api.url}/chat/completions", json=STREAM, stream=True)
    del response
    gc.collect()
    memory.collect()

    outcomes = [span.attributes["assisters.stream.outcome"] for span in streams(memory)]
    assert outcomes == ["cancelled", "cancelled", "abandoned"]
    assert not memory.points(ERRORS)


# -- the app cannot tell ---------------------------------------------------------------------------

ANSWERS = [
    {},
    {"chunked": True},
    *({"status": 500, "size": size, **form}
      for size in (10, 70_000, 300_000)
      for form in ({}, {"chunked": True}, {"gzip": True}, {"chunked": True, "gzip": True})),
    {"status": 500, "fault": "truncate", "size": 1000},
    {"status": 500, "fault": "truncate", "size": 200_000},
    {"status": 500, "fault": "truncate", "chunked": True, "size": 1000},
    {"status": 500, "body": b""},
    {"status": 404, "body": "<html>"},
]  # fmt: skip
READS = {
    "content": lambda r: r.content,
    "lines": lambda r: list(r.iter_lines()),
    "chunks": lambda r: list(r.iter_content(1000)),
    "raw": lambda r: r.raw.read(decode_content=True),
    "raw undecoded": lambda r: r.raw.read(),
    "raw stream": lambda r: b"".join(r.raw.stream(777)),
    "raw piecewise": lambda r: [r.raw.read(10), r.raw.read(70_000), r.raw.read()],
    "unread": lambda r: r.close(),
    "json": lambda r: r.json(),
}


@pytest.mark.sampled
@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("answer", ANSWERS, ids=str)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_sees_the_same_with_us_and_without(api, answer, read, stream, caplog):
    def seen(server):
        connections = server.connections
        server.answers(**{"headers": {"x-request-id": "req"}, **answer})
        told = []
        with requests.Session() as session:
            session.trust_env = False
            try:
                response = session.get(f"{server.url}/models", stream=stream)
                told += [response.status_code, response.reason, type(response.raw)]
                told += [READS[read](response)]
                told += [response._content_consumed, response.raw.tell(), response.raw.closed]
            except (requests.RequestException, HTTPError, ValueError) as error:
                told += [type(error), str(error).replace(str(server.port), "")]
            # Does the connection serve another one?
            session.get(f"{server.url}/models")
        told.append(server.connections - connections)
        return told

    with caplog.at_level(logging.CRITICAL), FakeApi() as bare:
        assert seen(api) == seen(bare)


@pytest.mark.sampled
@pytest.mark.usefixtures("ours")
@pytest.mark.parametrize("answer", [{}, {"gzip": True}, {"fault": "truncate"},
                                    {"fault": "truncate", "gzip": True}], ids=str)  # fmt: skip
@pytest.mark.parametrize("read", [*READS, *READS_STREAM])
def test_a_stream_is_read_the_same_with_us_and_without(api, answer, read):
    def seen(server):
        server.answers(headers={"x-request-id": "req"}, **answer)
        told = []
        with requests.Session() as session:
            session.trust_env = False
            try:
                url = f"{server.url}/chat/completions"
                response = session.post(url, json=STREAM, stream=True)
                told += [type(response.raw).__name__, response.raw.readable()]
                told += [{**READS, **READS_STREAM}[read](response)]
                told += [response._content_consumed, response.raw.tell(), response.raw.closed]
            except (requests.RequestException, HTTPError, ValueError) as error:
                told += [type(error), str(error).replace(str(server.port), "")]
                told += [type(error.__cause__), type(error.__context__)]
        return told

    with FakeApi() as bare:
        assert _without_ids(seen(api)) == _without_ids(seen(bare))


def _without_ids(told):
    return re.sub(r"chatcmpl-\w+|\d{10}", "", repr(told))


@pytest.mark.usefixtures("ours")
def test_elapsed_ends_with_the_headers(api, session):
    api.answers("internal_error", fault="stall")

    began_s = time.perf_counter()
    # This waits for the body.
    response = session.get(f"{api.url}/models", stream=True, timeout=(30, 0.5))
    took_s = time.perf_counter() - began_s
    response.close()

    assert response.elapsed.total_seconds() <= took_s - 0.4


def test_no_instrumentation_need_be_installed_for_a_span(api, memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.requests", None)
    api.answers("insufficient_funds")
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ) as telemetry:
        response = requests.get(f"{api.url}/models", timeout=5)
        by = {client.name: client.http_spans_by for client in telemetry.status().clients}

    assert response.json()["error"]["code"] == "insufficient_funds"
    assert memory.attempt().attributes["error.code"] == "insufficient_funds"
    assert memory.point(ERRORS)["error.code"] == "insufficient_funds"
    assert by["requests"] == "assisters_otel"


def test_an_exporter_s_traffic_to_a_watched_host_is_nobody_s_request(api, memory, session):
    """A collector behind the gateway: each export had been counted, and so made the next one."""
    with (
        Collector() as collector,
        assisters_otel.init(
            hosts=["127.0.0.1"], endpoint=collector.endpoint, meter_provider=memory.meter_provider
        ) as telemetry,
    ):
        session.get(api.url + "/models")
        assert telemetry.flush()
        theirs = OTLPSpanExporter(collector.endpoint + "/v1/traces")
        theirs.export(memory.spans())
        session.get(api.url + "/models")
        assert telemetry.flush()

        assert telemetry.status().attempts == 2
        assert len(collector.spans()) == 2
    assert memory.point(DURATION)["count"] == 2


def test_an_export_by_whatever_client_is_nobody_s_request(api, telemetry):
    with exporter_logs.capture_exporter_logs(lambda _: None):
        httpx.get(api.url + "/models", trust_env=False)

    assert telemetry.status().attempts == 0


def test_a_header_that_no_wire_can_have_brought_does_not_lose_the_attempt(api, ours, session):
    class Odd(HTTPAdapter):
        def send(self, *args, **kwargs):
            response = super().send(*args, **kwargs)
            response.headers["x-name"] = "\N{SNOWMAN}"
            return response

    session.mount("http://", Odd())
    session.get(api.url + "/models")

    assert ours.status().attempts == 1


def test_a_prompt_that_a_redirect_carries_to_another_host_is_in_nothing_of_the_span(
    api, memory, ours, session
):
    location = "http://localhost:1/v1/agent/stream?prompt=planted"
    api.answers(redirect=location)

    with pytest.raises(requests.ConnectionError):
        session.get(api.url + "/agent/stream", params={"prompt": "planted"})

    (span,) = memory.attempts()
    assert ours.status().attempts == 1
    assert "planted" not in span.to_json()


def test_the_name_of_a_span_over_a_redirect_is_that_of_its_template(api, memory, watched, session):
    api.answers(redirect=api.url + "/models/m")

    session.get(api.url + "/models")

    span = memory.attempts()[-1]
    assert (span.name, span.attributes["url.template"]) == (
        "GET /v1/models/{id}",
        "/v1/models/{id}",
    )
    assert watched.status().attempts == 2


def test_a_layer_of_wrapt_s_under_ours_knows_the_session_as_before(api, memory):
    """What binds it must not take our stand-in for the class."""
    instances = []

    @wrapt.decorator
    def layer(wrapped, instance, args, kwargs):
        instances.append(type(instance))
        return wrapped(*args, **kwargs)

    original = vars(requests.Session)["send"]
    requests.Session.send = layer(original)
    try:
        with assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            requests.get(api.url + "/models", timeout=5)
    finally:
        requests.Session.send = original

    assert instances == [requests.Session]
    assert len(memory.attempts()) == 1


LAYER = """
import os
import requests
import assisters_otel
from assisters_otel.testing import FakeApi

with FakeApi() as api:
    telemetry = assisters_otel.init(hosts=[api.url])
    inner = requests.Session.send
    requests.Session.send = lambda session, request, **more: inner(session, request, **more)
    requests.get(api.url + "/models")
    pid = os.fork()
    if pid == 0:
        for _ in range(2):
            print(requests.get(api.url + "/models").status_code, flush=True)
        os._exit(telemetry.status().attempts)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_s_requests_go_once_through_what_lies_around_ours():
    done = run(LAYER, OTEL_METRICS_EXPORTER="otlp", OTEL_TRACES_EXPORTER="none")

    assert done.code == 0, done.err
    assert done.out.split() == ["200", "200", "2"]


def test_a_followed_redirect_leaves_the_app_s_span_in_no_reference_cycle(
    api, memory, telemetry, session
):
    api.answers(redirect=api.url + "/models")
    theirs = RequestsInstrumentor()
    theirs.instrument(tracer_provider=memory.tracer_provider)
    kept = []
    gc.collect()
    gc.disable()
    try:
        with mock.patch.object(
            foreign_span,
            "before_end",
            lambda span, *more: (kept.append(weakref.ref(span)), before_end(span, *more)),
        ):
            session.get(api.url + "/rate-limit")
        memory.clear()
        assert kept
        assert [one() for one in kept] == [None] * len(kept)
    finally:
        gc.enable()
        theirs.uninstrument()
    assert telemetry.status().attempts == 2


@pytest.mark.parametrize("timeout", [Timeout(total=3), Timeout(read=2), (1, None), 2])
def test_any_form_of_a_time_limit_is_no_trouble(api, memory, ours, session, timeout):
    api.answers("invalid_model")

    session.get(api.url + "/models", timeout=timeout)

    assert memory.attempt().attributes["error.code"] == "invalid_model"
    assert ours.status().last_failure is None


def test_an_adapter_of_the_app_s_own_sends_nothing_of_ours(api, telemetry, session):
    sent = []

    class Own(BaseAdapter):
        def send(self, request, **_kwargs):
            sent.append(dict(request.headers))
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            return response

        def close(self):
            pass

    session.mount("http://", Own())
    token = context.attach(baggage.set_baggage("user", "me"))
    try:
        session.get(api.url + "/models")
    finally:
        context.detach(token)

    assert not {name.lower() for name in sent[0]} & {"traceparent", "baggage"}
    assert telemetry.status().attempts == 0


# -- the span that we make: the app's own request stays its own ----------------------------------


@pytest.fixture
def elsewhere():
    with FakeApi() as other:
        yield other


class _Cached(HTTPAdapter):
    """Answers by itself, as CacheControl's does where it knows the answer."""

    def __init__(self, location):
        super().__init__()
        self.location = location

    def send(self, request, **kwargs):
        if not request.url.endswith("/agent/run"):
            return super().send(request, **kwargs)
        moved = {"location": self.location}
        raw = HTTPResponse(io.BytesIO(b""), moved, status=301, preload_content=False)
        return self.build_response(request, raw)


@pytest.mark.usefixtures("ours")
def test_an_adapter_that_answers_by_itself_hands_nothing_of_ours_on(api, session, elsewhere):
    session.mount("http://", _Cached(f"{elsewhere.url}/models"))
    token = context.attach(baggage.set_baggage("user", "secret"))
    try:
        response = session.get(f"{api.url}/agent/run")
    finally:
        context.detach(token)

    (request,) = elsewhere.requests
    assert {"traceparent", "baggage"}.isdisjoint(request.headers)
    assert {"traceparent", "baggage"}.isdisjoint(response.history[0].request.headers)


class _Signing(HTTPAdapter):
    def add_headers(self, request, **_kwargs):
        request.headers["X-Signature"] = "abc"
        del request.headers["X-Draft"]


@pytest.mark.usefixtures("watched")
def test_what_an_adapter_writes_on_a_request_is_on_the_app_s_own(api, session):
    session.mount("http://", _Signing())
    request = session.prepare_request(
        requests.Request("GET", f"{api.url}/models", headers={"X-Draft": "1"})
    )

    response = session.send(request)

    assert api.requests[0].headers["x-signature"] == "abc"
    assert "traceparent" in api.requests[0].headers
    assert response.request is request
    assert request.headers["X-Signature"] == "abc"
    assert "X-Draft" not in request.headers


@pytest.mark.usefixtures("ours")
def test_one_request_that_several_threads_send_keeps_nothing_of_ours(api, session):
    for _ in range(10):
        request = session.prepare_request(requests.Request("GET", f"{api.url}/models"))
        headers, before = request.headers, dict(request.headers)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: requests.Session().send(one), [request] * 4))

        assert request.headers is headers
        assert dict(headers) == before


class _Writing(HTTPAdapter):
    """Writes on the request before it is sent, each time in another place."""

    def add_headers(self, request, **_kwargs):
        headers = request.headers
        headers["X-Added-By-Adapter"] = "adapter"
        headers["x-renewed-by-adapter"] = "adapter"
        headers["x-both"] = "adapter"
        del headers["X-Gone-By-Adapter"]
        request.signed = True
        request.url += "?signed"
        del request.draft


def _send_while_the_app_writes(url, adapter):
    """Return what is on a request afterwards that the app has changed while its body was sent."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", adapter)
    jar, hooks = requests.cookies.RequestsCookieJar(), {"response": []}

    def body():
        request.sent += 10
        request.headers["X-Added"] = "app"
        request.headers["x-renewed"] = "app"
        request.headers["x-BOTH"] = "app"
        del request.headers["X-Gone"]
        del request.note
        yield b"x" * 10
        request.hooks, request._cookies = hooks, jar
        request.body, request.url = b"next", "http://next.test/"

    names = "Kept", "Renewed", "Gone", "Both", "Renewed-By-Adapter", "Gone-By-Adapter"
    told = {f"X-{name}": "before" for name in names}
    request = session.prepare_request(requests.Request("POST", url, data=body(), headers=told))
    request.sent, request.note, request.draft = 0, "a note", "a draft"
    headers = request.headers
    response = session.send(request)

    assert response.request is request
    assert request.headers is headers
    assert request.hooks is hooks
    assert request._cookies is jar
    kept = {key: value for key, value in vars(request).items() if key not in {"hooks", "_cookies"}}
    return kept | {"headers": sorted(headers.items())}


@pytest.mark.parametrize("adapter", [HTTPAdapter, _Writing])
def test_what_the_app_changes_on_a_request_under_way_stays_as_without_us(
    api, memory, adapter, request
):
    url = f"{api.url}/chat/completions"
    without = _send_while_the_app_writes(url, adapter())
    request.getfixturevalue("ours")
    with_us = _send_while_the_app_writes(url, adapter())

    assert with_us == without
    assert with_us["sent"] == 10
    assert "traceparent" in api.requests[-1].headers
    assert memory.attempts()


class _Knowing(HTTPAdapter):
    """Knows its requests by identity, and keeps what it sees of their headers."""

    def __init__(self):
        super().__init__()
        self.sent = weakref.WeakKeyDictionary()
        self.seen = []

    def send(self, request, **kwargs):
        self.sent[request] = True
        response = super().send(request, **kwargs)
        assert response.request in self.sent
        return response

    def get_connection_with_tls_context(self, request, *args, **kwargs):
        assert request in self.sent
        return super().get_connection_with_tls_context(request, *args, **kwargs)

    def add_headers(self, request, **kwargs):
        assert request in self.sent
        self.seen.append(dict(request.headers))
        super().add_headers(request, **kwargs)

    def build_response(self, request, response):
        assert request in self.sent
        self.seen.append(dict(request.headers))
        return super().build_response(request, response)


@pytest.mark.usefixtures("ours")
def test_an_adapter_that_knows_a_request_by_identity_gets_it_everywhere(api, session):
    session.mount("http://", adapter := _Knowing())
    api.answers("internal_error")
    api.answers()
    api.answers(fault="drop")

    assert session.get(f"{api.url}/models").status_code == 500
    assert session.get(f"{api.url}/models").status_code == 200
    with pytest.raises(requests.ConnectionError) as raised:
        session.get(f"{api.url}/models")

    assert raised.value.request in adapter.sent
    assert all("traceparent" in request.headers for request in api.requests)
    assert not [one for one in adapter.seen if "traceparent" in {name.lower() for name in one}]


@pytest.mark.usefixtures("ours")
def test_what_a_body_sends_meanwhile_by_urllib3_itself_is_not_in_the_request_s_trace(api, session):
    def body():
        with PoolManager() as manager:
            manager.request("GET", f"{api.url}/models", headers={"X-Own": "1"})
            manager.request("GET", f"{api.url}/models")
        yield b"x"

    session.post(f"{api.url}/chat/completions", data=body())

    traced = {request.path: "traceparent" in request.headers for request in api.requests}
    assert traced == {"/v1/models": False, "/v1/chat/completions": True}


class _Elsewhere(HTTPAdapter):
    """Sends through a pool of its own, by another address."""

    def get_connection_with_tls_context(self, request, *_args, **_kwargs):
        return HTTPConnectionPool("localhost", urlsplit(request.url).port)


@pytest.mark.usefixtures("ours")
def test_a_request_is_in_its_trace_by_whatever_pool_it_is_sent(api, memory, session):
    session.mount("http://", _Elsewhere())

    session.get(f"{api.url}/models")

    (span,) = memory.attempts()
    sent = api.requests[0].headers["traceparent"]
    assert trace.format_span_id(span.context.span_id) in sent


class _Marking(HTTPConnectionPool):
    """Is marked by another tracer, as an instrumentation of urllib3 does."""

    mark = f"00-{'ab' * 16}-{'cd' * 8}-01"

    def urlopen(self, method, url, body=None, headers=None, **more):
        return super().urlopen(method, url, body, {**headers, "traceparent": self.mark}, **more)


class _Marked(HTTPAdapter):
    def get_connection_with_tls_context(self, request, *_args, **_kwargs):
        url = urlsplit(request.url)
        return _Marking(url.hostname, url.port)


@pytest.mark.usefixtures("ours")
def test_the_trace_of_a_tracer_beneath_stays(api, session):
    session.mount("http://", _Marked())

    session.get(f"{api.url}/models")

    assert api.requests[0].headers["traceparent"] == _Marking.mark


def test_what_urllib3_sends_again_has_the_trace_once(memory):
    refused = b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"
    with RawServer() as server, requests.Session() as session:
        server.usual = refused, False
        retry = Retry(2, status_forcelist=[503], raise_on_status=False)
        session.mount("http://", HTTPAdapter(max_retries=retry))
        with assisters_otel.init(
            hosts=[server.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ):
            session.get(f"{server.url}/models")

        assert [one.lower().count(b"traceparent:") for one in server.received] == [1, 1, 1]


@pytest.mark.usefixtures("ours")
def test_a_token_that_another_thread_renews_is_sent_with_the_next_request(api, session):
    api.answers(delay_s=0.3)
    poll = session.prepare_request(
        requests.Request("GET", f"{api.url}/models", headers={"Authorization": "Bearer old"})
    )
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(session.send, poll)
        while not api.requests:
            time.sleep(0.01)
        poll.headers["Authorization"] = "Bearer renewed"
        under_way.result()
    session.send(poll)

    sent = [request.headers["authorization"] for request in api.requests]
    assert sent == ["Bearer old", "Bearer renewed"]


def _layers():
    function, layers = vars(requests.Session)["send"], []
    while hasattr(function, "__wrapped__"):
        layers.append(function)
        function = function.__wrapped__
    return layers


def test_what_hid_us_from_a_shutdown_does_not_pile_us_up(api, memory, session):
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    before, theirs = vars(requests.Session)["send"], RequestsInstrumentor()
    for _ in range(3):
        with mock.patch.object(requests.Session, "send"):
            hidden = assisters_otel.init(hosts=[api.url], **options)
        hidden.shutdown()
        first = assisters_otel.init(hosts=[api.url], **options)
        with mock.patch.object(requests.Session, "send"):
            first.shutdown()
        with assisters_otel.init(hosts=[api.url], **options):
            theirs.instrument(**options)
        theirs.uninstrument()
        assert len(_layers()) <= 1

    with assisters_otel.init(hosts=[api.url], **options):
        session.get(f"{api.url}/models")
    assert vars(requests.Session)["send"] is before
    assert len(memory.attempts()) == 1


def test_where_the_app_switches_its_own_off_ours_come_on(api, memory, session):
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    theirs = RequestsInstrumentor()
    theirs.instrument(**options)
    with assisters_otel.init(hosts=[api.url], strict=True, **options) as telemetry:
        session.get(f"{api.url}/models")
        theirs.uninstrument()
        session.get(f"{api.url}/models")
        assert telemetry.status().attempts == 2

    assert [of.instrumentation_scope.name for of in memory.attempts()] == [
        "opentelemetry.instrumentation.requests",
        "assisters_otel",
    ]


@pytest.mark.parametrize("read", [True, False])
def test_what_stalls_is_in_no_cycle_that_it_is_not_in_without_us(api, memory, session, read):
    """Since Python 3.12 requests itself leaves one, of the exception and the frame that reads."""
    alone = left_by_a_stall(api, session, read=read)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        assert left_by_a_stall(api, session, read=read) == alone

    assert alone == ([] if not read or sys.version_info < (3, 12) else ["Response", "HTTPResponse"])


def left_by_a_stall(api, session, *, read):
    """The classes of what is left of an answer that stalls, before the garbage is collected."""
    api.answers("internal_error", fault="stall", size=1000)
    gc.collect()
    gc.disable()
    try:
        response = session.get(f"{api.url}/models", stream=True, timeout=(30, 0.2))
        if read:
            with pytest.raises(requests.ConnectionError):
                _ = response.content
        response.close()
        gone = [weakref.ref(response), weakref.ref(response.raw)]
        del response
        return [type(left).__name__ for left in (one() for one in gone) if left is not None]
    finally:
        gc.enable()


def test_a_request_that_is_over_is_in_no_cycle(api, session, ours):
    gc.collect()
    gc.disable()
    try:
        request = session.prepare_request(requests.Request("GET", f"{api.url}/models"))
        gone = weakref.ref(request)
        session.send(request)
        del request
        assert gone() is None
        assert ours.status().attempts == 1
    finally:
        gc.enable()


class _WithProperty(requests.PreparedRequest):
    @property
    def headers(self):
        return self._own

    @headers.setter
    def headers(self, value):
        self._own = value

    @property
    def url(self):
        return self._where

    @url.setter
    def url(self, value):
        self._where = value


def _prepared(url, kind=requests.PreparedRequest):
    request = kind()
    request.prepare("GET", url, headers={"X-Mine": "1"})
    return request


def _with_a_dict(url):
    request = _prepared(url)
    request.headers = dict(request.headers)  # as recipes for signing write it
    return request


def _with_a_name_twice(url):
    request = _prepared(url)
    request.headers = HTTPHeaderDict(request.headers)
    request.headers.add("X-Tag", "a")
    request.headers.add("X-Tag", "b")
    return request


@pytest.mark.usefixtures("ours")
def test_a_name_that_is_there_twice_is_sent_twice(api, session):
    session.send(_with_a_name_twice(f"{api.url}/models"))

    assert api.requests[0].headers["x-tag"] == "a, b"
    assert "traceparent" in api.requests[0].headers


@pytest.mark.usefixtures("ours")
def test_who_asks_next_does_not_send_the_key_of_who_asked_before(api):
    for name in ("alice", "bob"):
        with requests.Session() as session:
            session.mount("http://", _Freezing())
            session.get(f"{api.url}/models", headers={"Authorization": f"Bearer {name}"})

    sent = [request.headers["authorization"] for request in api.requests]
    assert sent == ["Bearer alice", "Bearer bob"]


@pytest.mark.usefixtures("ours")
def test_a_redirect_of_a_request_that_another_thread_sends_as_well_takes_nothing_along(
    api, elsewhere
):
    request = requests.Session().prepare_request(requests.Request("GET", f"{api.url}/models"))
    begun, gone_on = threading.Event(), threading.Event()

    def slow(response, **_kwargs):
        if response.is_redirect:
            begun.set()
            gone_on.wait(5)

    request.register_hook("response", slow)
    api.answers(redirect=f"{elsewhere.url}/models")
    api.answers(delay_s=0.5)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(requests.Session().send, request)
        assert begun.wait(5)
        second = pool.submit(requests.Session().send, request)
        while len(api.requests) < 2:
            time.sleep(0.01)
        gone_on.set()
        first.result()
        second.result()

    assert "traceparent" not in elsewhere.requests[0].headers


@pytest.mark.parametrize(
    "make",
    [
        _prepared,
        _with_a_dict,
        lambda url: _prepared(url, _WithProperty),
        lambda url: wrapt.ObjectProxy(_prepared(url)),
    ],
    ids=["plain", "headers are a dict", "headers are a property", "a proxy"],
)
@pytest.mark.usefixtures("ours")
def test_whatever_form_a_request_has_it_is_sent_and_keeps_nothing_of_ours(api, session, make):
    request = make(f"{api.url}/models")
    headers = request.headers
    token = context.attach(baggage.set_baggage("user", "secret"))
    try:
        response = session.send(request)
    finally:
        context.detach(token)

    assert response.status_code == 200
    assert response.request.headers is headers
    assert dict(headers) == {"X-Mine": "1"}
    assert api.requests[0].headers["x-mine"] == "1"
    assert "baggage" not in api.requests[0].headers


class _Copying(HTTPAdapter):
    def send(self, request, **kwargs):
        request = request.copy()
        request.headers["X-Signature"] = "abc"
        return super().send(request, **kwargs)


class _Replacing(HTTPAdapter):
    def add_headers(self, request, **_kwargs):
        request.headers = type(request.headers)({**request.headers, "X-Signature": "abc"})


class _Freezing(HTTPAdapter):
    def add_headers(self, request, **_kwargs):
        request.headers = MappingProxyType({**request.headers, "X-Signature": "abc"})


@pytest.mark.parametrize("kind", [_Copying, _Replacing, _Freezing])
@pytest.mark.usefixtures("ours")
def test_what_an_adapter_sends_in_a_request_s_place_is_in_its_trace(api, memory, session, kind):
    session.mount("http://", kind())

    response = session.get(f"{api.url}/models")

    (span,) = memory.attempts()
    sent = api.requests[0].headers
    assert trace.format_span_id(span.context.span_id) in sent["traceparent"]
    assert sent["x-signature"] == response.request.headers["X-Signature"] == "abc"
    assert "traceparent" not in response.request.headers


@pytest.mark.usefixtures("ours")
def test_what_was_met_in_a_fallback_makes_no_ring_of_the_app_s_exceptions(api, session):
    api.answers("internal_error", fault="stall", size=1000)
    primary = LookupError("primary failed")

    def fall_back():
        try:
            raise primary
        except LookupError:
            response = session.get(f"{api.url}/models", stream=True, timeout=(30, 0.2))
            _ = response.content

    with pytest.raises(requests.ConnectionError) as raised:
        fall_back()

    assert _chain(raised.value)[-1] is primary


def _chain(error):
    chain = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
        assert len(chain) < 20
    return chain
