"""Of a provider, a span, a context no more is asked than OpenTelemetry's API promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from typing import ClassVar

import aiohttp
import httpx
import openai
import pytest
import requests
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation import httpx as otel_httpx
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import (
    HTTPX2ClientInstrumentor,
    HTTPXClientInstrumentor,
    SyncOpenTelemetryTransport,
)
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import SpanKind

import api_only
import assisters_otel
import leaks
from api_only import Recorded, of_sdk
from memory import Memory
from streamers import PLAIN, STREAMERS, UNSTREAMED

RATELIMIT = "assisters.client.ratelimit"
DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"
RETRIES = "assisters.client.retries"
LIMIT = "X-RateLimit-Limit-RPM"
INSTRUMENTORS = (
    AioHttpClientInstrumentor,
    HTTPX2ClientInstrumentor,
    HTTPXClientInstrumentor,
    RequestsInstrumentor,
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0.01)


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def watched(api, recorded):
    with watching(api, recorded) as telemetry:
        yield telemetry


def watching(api, into, **options):
    return assisters_otel.init(
        hosts=[api.url],
        tracer_provider=into.tracer_provider,
        meter_provider=into.meter_provider,
        strict=True,
        **options,
    )


def answered(api):
    pass


def refused(api):
    api.answers("invalid_model")


def refused_with_a_stream_open(api):
    api.answers("rate_limit_exceeded", chunked=True, size=3000)


def broken(api):
    api.answers(in_stream="internal_error")


def unanswered(api):
    api.answers(fault="drop")


def refused_twice(api):
    api.answers("rate_limit_exceeded", "model_overloaded", "ok", retry_after=0)


def refused_five_times(api):
    api.answers("model_overloaded", times=5)


SITUATIONS = [answered, refused, refused_with_a_stream_open, broken, unanswered, refused_twice]


def play(streamer, api, situation, sends=1):
    """Ask for a chat in a situation, whatever comes of it."""
    api.reset()
    situation(api)

    async def script(opened):
        for _ in range(sends):
            with contextlib.suppress(Exception):
                stream = await opened()
                await stream.rest()
                await stream.close()

    streamer.use(api.url, script, retries=2)


def by_name(spans):
    def key(span):
        return span.scope, span.name, sorted(map(str, span.attributes.items()))

    return sorted(spans, key=key)


def lines_of(caplog):
    found = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    found = [re.sub("trace id [0-9a-f]{32}", "trace id", one) for one in found]
    caplog.clear()
    return [line.partition("(request id")[0] for line in found if " in " not in line]


@pytest.mark.sampled
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("streamer", [*STREAMERS, *UNSTREAMED], ids=str)
def test_what_is_recorded_is_what_is_recorded_with_the_sdk(
    api, memory, recorded, streamer, situation, caplog
):
    sends = 1 if streamer.is_call else 3
    with watching(api, memory):
        play(streamer, api, situation, sends)
    expected = lines_of(caplog)
    with watching(api, recorded) as telemetry:
        play(streamer, api, situation, sends)
        assert telemetry.status().last_failure is None

    spans, counts = of_sdk(memory)
    assert by_name(recorded.spans()) == by_name(spans)
    # Nobody asks an observable instrument's callback of these.
    assert recorded.counts() == {k: v for k, v in counts.items() if not k[0].startswith(RATELIMIT)}
    assert lines_of(caplog) == expected
    assert [told.ends for told in recorded.started] == [1] * len(recorded.started)
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.usefixtures("watched")
def test_a_call_that_has_recovered_has_two_attempts(api, recorded):
    api.answers("rate_limit_exceeded", "ok", retry_after=0)

    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        client.chat.completions.create(model="m", messages=[])

    first, second, call = recorded.ended
    assert call.attributes["assisters.call.outcome"] == "recovered"
    assert first.attributes["error.code"] == "rate_limit_exceeded"
    assert second.attributes["http.request.resend_count"] == 1
    assert [link.span_id for link in second.links] == [first.context.span_id]
    assert {told.parent.span_id for told in (first, second)} == {call.context.span_id}


@pytest.mark.parametrize("streamer", PLAIN, ids=str)
def test_where_the_app_s_http_span_cannot_be_read_there_is_no_other(
    api, recorded, streamer, caplog
):
    for kind in INSTRUMENTORS:
        kind().instrument(tracer_provider=recorded.tracer_provider)
    try:
        with watching(api, recorded):
            play(streamer, api, refused)
    finally:
        for kind in INSTRUMENTORS:
            kind().uninstrument()

    (span,) = recorded.ended
    assert "error.code" not in span.attributes
    assert {dict(labels).get("error.code") for (name, labels) in recorded.counts()
            if name in {DURATION, ERRORS}} == {"invalid_model"}  # fmt: skip
    (line,) = lines_of(caplog)
    assert "invalid_model on POST /v1/chat/completions" in line


@pytest.mark.usefixtures("watched")
def test_nor_where_it_is_made_by_a_transport_of_the_app_s(api, recorded, caller):
    flavour = "Async" if caller.run else "Sync"
    suffix = "Httpx2" if caller.module.__name__ == "httpx2" else ""
    wrapper = getattr(otel_httpx, f"{flavour}OpenTelemetryTransport{suffix}")
    transport = wrapper(caller.transport(), tracer_provider=recorded.tracer_provider)
    api.answers("invalid_model")

    client = caller.client(transport=transport)
    caller.send("POST", f"{api.url}/chat/completions", client=client, json={})

    assert len(recorded.ended) == 1


@pytest.mark.usefixtures("watched")
def test_but_a_span_that_the_app_has_propagated_itself_is_no_http_span(api, recorded, anyone):
    tracer = recorded.tracer_provider.get_tracer("app")
    headers = {}

    with tracer.start_as_current_span("work"):
        propagate.inject(headers)
        anyone.send("GET", f"{api.url}/models", headers=headers)

    attempt, own = recorded.ended
    assert attempt.attributes["http.response.status_code"] == 200
    assert attempt.parent.span_id == own.context.span_id
    assert headers["traceparent"][36:52] == f"{own.context.span_id:016x}"


@pytest.mark.usefixtures("watched")
def test_a_retry_is_counted_where_the_app_s_http_spans_cannot_be_read(api, recorded):
    transport = SyncOpenTelemetryTransport(
        httpx.HTTPTransport(), tracer_provider=recorded.tracer_provider
    )
    api.answers("rate_limit_exceeded", "ok", retry_after=0)

    with httpx.Client(transport=transport) as client:
        for _ in range(2):
            client.post(f"{api.url}/chat/completions", json={})

    assert [n for (name, _), n in recorded.counts().items() if name == RETRIES] == [1]


@pytest.mark.usefixtures("watched")
def test_the_app_s_own_span_is_never_written_to(api, recorded):
    tracer = recorded.tracer_provider.get_tracer("app")
    api.answers("invalid_model")

    with tracer.start_as_current_span("work", kind=SpanKind.CLIENT):
        httpx.post(f"{api.url}/chat/completions", json={})

    attempt, own = recorded.ended
    assert attempt.attributes["error.code"] == "invalid_model"
    assert attempt.parent.span_id == own.context.span_id
    assert (own.attributes, own.status, own.links) == ({}, ("UNSET", None), [])


@pytest.mark.usefixtures("watched")
def test_the_span_that_is_current_while_a_request_is_sent_is_the_provider_s_own(api):
    current = []

    async def on_start(*_):
        current.append(trace.get_current_span())

    async def by_aiohttp():
        config = aiohttp.TraceConfig()
        config.on_connection_queued_start.append(on_start)
        config.on_connection_create_end.append(on_start)
        async with (
            aiohttp.ClientSession(trace_configs=[config]) as session,
            session.post(f"{api.url}/chat/completions", json={}) as response,
        ):
            await response.read()

    asyncio.run(by_aiohttp())
    with requests.Session() as session:

        class Seen(requests.adapters.HTTPAdapter):
            def build_connection_pool_key_attributes(self, *args, **kwargs):
                current.append(trace.get_current_span())
                return super().build_connection_pool_key_attributes(*args, **kwargs)

        session.mount("http://", Seen())
        session.post(f"{api.url}/chat/completions", json={})

    assert len(current) >= 2
    assert {type(span) for span in current} == {api_only.Span}


@pytest.mark.parametrize("streamer", PLAIN, ids=str)
@pytest.mark.usefixtures("watched")
def test_a_key_in_an_exception_is_masked(api, recorded, streamer):
    """An error that the client raises quotes what it was given."""

    async def script(opened):
        with contextlib.suppress(Exception):
            await opened()

    api.stop()
    url = api.url.replace("/v1", f"/v1/{leaks.KEY}")
    streamer.use(url, script)

    (span,) = recorded.ended
    assert span.events
    assert leaks.KEY not in repr((span.attributes, span.status, span.events))


class Forgetful:
    """A context that keeps the current span alone, as ddtrace's does, and never gives it back."""

    def __init__(self):
        self.kept = threading.local()

    def attach(self, new):
        self.kept.spans = [*getattr(self.kept, "spans", ()), trace.get_current_span(new)]
        return object()

    def get_current(self):
        for span in reversed(getattr(self.kept, "spans", ())):
            if span.is_recording():
                return trace.set_span_in_context(span, Context())
        return Context()

    def detach(self, token):
        pass


@pytest.mark.parametrize("into", [Memory, Recorded])
@pytest.mark.parametrize("streamer", UNSTREAMED, ids=str)
def test_a_call_has_its_attempts_where_opentelemetry_s_context_keeps_only_spans(
    api, streamer, into, monkeypatch, caplog
):
    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", Forgetful())
    into = into()
    with watching(api, into):
        play(streamer, api, refused_twice)
        play(streamer, api, refused)

    recovered, failed = (
        into.calls()
        if isinstance(into, Memory)
        else [one for one in into.ended if "assisters.call.outcome" in one.attributes]
    )
    assert recovered.attributes["assisters.call.outcome"] == "recovered"
    assert recovered.attributes["assisters.retry.count"] == 2
    assert failed.attributes["error.code"] == "invalid_model"
    (line,) = lines_of(caplog)
    assert "invalid_model" in line


def test_a_handle_tells_of_them(api, recorded):
    with watching(api, recorded) as telemetry:
        assert telemetry.status().destinations == (
            "the application's Tracers",
            "the application's Meters",
        )
        assert "the application's Tracers" in repr(telemetry)
        assert telemetry.flush(5)
        assert watching(api, recorded) is telemetry
    assert not telemetry.status().active


def test_another_provider_than_before_is_another_argument(api, recorded, caplog):
    with watching(api, recorded):
        watching(api, recorded)
        assert not lines_of(caplog)
        watching(api, Recorded())
    assert "other arguments" in lines_of(caplog)[0]


class Flushed(api_only.Tracers):
    __slots__ = ("result",)

    def force_flush(self):
        return self.result


@pytest.mark.parametrize(("result", "done"), [(None, True), (True, True), (False, False)])
def test_a_flush_asks_those_that_can(api, recorded, result, done):
    recorded.tracer_provider = Flushed(recorded)
    recorded.tracer_provider.result = result

    with watching(api, recorded) as telemetry:
        assert telemetry.flush(5) is done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_forked_child_records_in_them_too(api, recorded, watched):
    httpx.post(f"{api.url}/chat/completions", json={})
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            httpx.post(f"{api.url}/chat/completions", json={})
            told = f"{len(recorded.ended)} {watched.status().last_failure}"
            os.write(writing, told.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        assert told.read() == b"2 None"
    os.waitpid(child, 0)


class Asking(api_only.Meter):
    """A meter that keeps the callbacks which an instrument was made with first, as the SDK's."""

    __slots__ = ()
    kept: ClassVar = {}

    def create_observable_gauge(self, name, callbacks, *_args):
        self.kept.setdefault(name, callbacks)
        return api_only.Bare()


class AskingMeters(api_only.Meters):
    __slots__ = ()

    def get_meter(self, *_args, **_kwargs):
        return Asking(self._recorded.points)


def test_limits_are_told_after_a_second_init_with_the_same_provider(api, recorded):
    recorded.meter_provider = AskingMeters(recorded)
    for limit in (10, 20):
        with watching(api, recorded):
            api.answers(headers={LIMIT: limit})
            httpx.post(f"{api.url}/chat/completions", json={})
            (ask,) = Asking.kept[f"{RATELIMIT}.requests.limit"]
            assert [one.value for one in ask(None)] == [limit]


class Unlinked(trace.Span):
    """A span of a class from before links: `trace.Span.add_link` warns, and does nothing."""

    for _name in ("__init__", "__enter__", "__exit__", "end", "get_span_context", "set_attributes",
                  "set_attribute", "add_event", "update_name", "is_recording", "set_status",
                  "record_exception"):  # fmt: skip
        locals()[_name] = getattr(api_only.Span, _name)


class UnlinkedTracer(api_only.Tracer):
    __slots__ = ()

    def start_span(self, *args, **kwargs):
        span = super().start_span(*args, **kwargs)
        return Unlinked(span._mine, span._recorded)


class UnlinkedTracers(api_only.Tracers):
    __slots__ = ()

    def get_tracer(self, name, *_args, **_kwargs):
        return UnlinkedTracer(self._recorded, name)


@pytest.mark.parametrize("streamer", UNSTREAMED, ids=str)
def test_a_span_that_cannot_add_links_gives_no_warning(api, recorded, streamer):
    recorded.tracer_provider = UnlinkedTracers(recorded)
    with watching(api, recorded):
        for _ in range(2):
            play(streamer, api, refused_five_times)

    resends = [told for told in recorded.ended if "http.request.resend_count" in told.attributes]
    assert resends
    assert not any(told.links for told in recorded.ended)
    calls = [told for told in recorded.ended if "assisters.call.outcome" in told.attributes]
    assert [told.status[0] for told in calls] == ["ERROR"] * 2
