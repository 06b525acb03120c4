"""Where the app has HTTP instrumentation of its own, its span is the only one of an attempt.

In whichever order things are switched on, for all of a client's requests or for some.
"""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import httpx
import pytest
import requests
from opentelemetry import propagate
from opentelemetry.instrumentation import httpx as otel_httpx
from opentelemetry.instrumentation.aiohttp_client import (
    AioHttpClientInstrumentor,
    create_trace_config,
)
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import TraceFlags

import assisters_otel
from callers import ANYONE, CALLERS, in_client
from memory import Memory
from raw_server import RawServer

DURATION = "assisters.client.request.duration"
OURS = "assisters_otel"
INSTRUMENTORS = {
    "httpx": HTTPXClientInstrumentor,
    "httpx2": HTTPX2ClientInstrumentor,
    "requests": RequestsInstrumentor,
    "aiohttp": AioHttpClientInstrumentor,
}


@pytest.fixture
def memory():
    """It has all that is recorded, also beneath a span that is sampled out."""
    memory = Memory(sampler=ALWAYS_ON)
    yield memory
    memory.shutdown()


@pytest.fixture
def app(api, memory, anyone):
    with contextlib.ExitStack() as stack:
        yield App(api, memory, anyone, stack)


class App:
    """An app, and what it switches on."""

    def __init__(self, api, memory, anyone, stack):
        self.api, self.memory, self.anyone, self.stack = api, memory, anyone, stack
        self.instrumentor = INSTRUMENTORS[anyone.module.__name__]()
        self.theirs_scope = type(self.instrumentor).__module__
        self.hooked = 0

    def ours(self, **options):
        return self.stack.enter_context(
            assisters_otel.init(
                hosts=[self.api.url],
                tracer_provider=self.memory.tracer_provider,
                meter_provider=self.memory.meter_provider,
                strict=True,
                **options,
            )
        )

    def theirs(self, memory=None, **options):
        providers = {
            "tracer_provider": (memory or self.memory).tracer_provider,
            "meter_provider": (memory or self.memory).meter_provider,
        }
        self.instrumentor.instrument(**providers, **options)
        self.stack.callback(self.not_theirs)

    def not_theirs(self):
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()

    def hooks(self):
        def hook(span, *_):
            self.hooked += 1
            span.update_name("mine")
            span.set_attribute("mine", "kept")

        async def async_hook(*arguments):
            hook(*arguments)

        found = {"request_hook": hook, "response_hook": hook}
        if self.theirs_scope.endswith("httpx"):
            found |= {"async_request_hook": async_hook, "async_response_hook": async_hook}
        return found

    def send(self, times=1, **options):
        async def script(request):
            for _ in range(times):
                await request("GET", f"{self.api.url}/models", **options)

        in_client(self.anyone, script)

    def scopes(self):
        """Return who has made the HTTP spans; each attempt is in the metrics as well."""
        points = self.memory.points(DURATION)
        assert sum(point["count"] for point in points) == len(self.api.requests)
        return [span.instrumentation_scope.name for span in self.memory.attempts()]


def before_us(app):
    app.theirs()
    app.ours()


def after_us(app):
    app.ours()
    app.theirs()


def twice(app):
    app.ours()
    for _ in range(2):
        app.theirs()
        app.not_theirs()
    app.theirs()


def beside_a_second_init(app):
    app.ours().shutdown()
    app.theirs()
    app.ours()


@pytest.mark.parametrize("order", [before_us, after_us, twice, beside_a_second_init])
def test_the_app_s_instrumentation_makes_the_only_span(app, order):
    app.api.answers("invalid_model", times=2)
    order(app)
    app.send(2)

    assert app.scopes() == [app.theirs_scope] * 2
    for span in app.memory.attempts():
        assert span.attributes["error.code"] == "invalid_model"
    assert len({request.headers["traceparent"] for request in app.api.requests}) == 2


@pytest.mark.parametrize("order", [before_us, after_us])
def test_a_span_that_shows_no_attributes_while_it_is_open_is_the_only_one(app, order, monkeypatch):
    monkeypatch.setattr(trace._Span, "attributes", None)  # one that has ended is of its base
    app.api.answers("invalid_model")
    order(app)
    app.send()

    assert app.scopes() == [app.theirs_scope]
    (span,) = app.memory.attempts()
    assert span.attributes["error.code"] == "invalid_model"


@pytest.mark.parametrize("is_before", [True, False])
def test_its_hooks_are_called_and_their_word_stays(app, is_before):
    if is_before:
        app.theirs(**app.hooks())
        app.ours()
    else:
        app.ours()
        app.theirs(**app.hooks())
    app.send()

    (span,) = app.memory.attempts()
    assert app.scopes() == [app.theirs_scope]
    assert app.hooked == 2
    assert (span.name, span.attributes["mine"]) == ("mine", "kept")
    assert span.attributes["assisters.request.id"]


@pytest.mark.parametrize("code", ["ok", "internal_error"])
@pytest.mark.parametrize("order", [before_us, after_us])
def test_the_headers_that_it_captures_show_no_key(app, order, code, monkeypatch):
    for what in ("REQUEST", "RESPONSE"):
        monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{what}", ".*")
    key, documented = "q7zk41vttxwm93bd", "ask_live_0123456789"
    app.api.answers(code, headers={"X-Echo": f"Key {key}", "X-You": f"for {documented}"})
    order(app)
    app.send(headers={"Authorization": f"Key {key}", "X-Note": documented, "X-Tier": "gold"})

    told = {
        name.replace("-", "_"): value for name, value in app.memory.attempt().attributes.items()
    }
    assert told["http.request.header.x_tier"] == ("gold",)
    assert told["http.request.header.authorization"] == ("REDACTED",)
    assert told["http.request.header.x_note"] == ("REDACTED",)
    assert told["http.response.header.x_echo"] == ("Key REDACTED",)
    assert told["http.response.header.x_you"] == ("for REDACTED",)
    assert key not in repr(told)
    assert documented not in repr(told)


@pytest.fixture(params=["traceparent", None], ids=["w3c", "no propagator"])
def propagated(request):
    """Whether an instrumentation's headers say whose a request is."""
    before = propagate.get_global_textmap()
    if request.param is None:
        propagate.set_global_textmap(CompositePropagator([]))
    yield request.param
    propagate.set_global_textmap(before)


@pytest.mark.parametrize("is_before", [True, False])
def test_where_the_app_has_sampled_its_span_out_there_is_none(app, is_before, propagated):
    """The app's own decision: the library does not record what the app does not want."""
    unsampled = Memory(sampler=ALWAYS_OFF)
    if is_before:
        app.theirs(unsampled)
        app.ours()
    else:
        app.ours()
        app.theirs(unsampled)
    app.send(2)

    assert app.scopes() == []
    for request in app.api.requests if propagated else ():
        assert not int(request.headers["traceparent"][-2:], 16) & TraceFlags.SAMPLED
    unsampled.shutdown()


@pytest.mark.parametrize("is_before", [True, False])
def test_where_a_variable_excludes_the_url_there_is_none(app, is_before, monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "/models")
    if app.anyone.name == "requests":  # which reads the variable as it is imported
        monkeypatch.setattr(
            "opentelemetry.instrumentation.requests._excluded_urls_from_env",
            otel_httpx.get_excluded_urls("REQUESTS"),
        )
    (before_us if is_before else after_us)(app)
    app.send()

    assert app.scopes() == []
    assert "traceparent" not in app.api.requests[0].headers


@pytest.mark.parametrize("app", [pytest.param(None, id="requests")], indirect=True)
@pytest.mark.parametrize("anyone", [one for one in ANYONE if one.name == "requests"], ids=str)
def test_where_the_app_excludes_the_url_by_an_argument_there_is_none(app):
    app.ours()
    app.theirs(excluded_urls="/models")
    app.send()

    assert app.scopes() == []


def test_once_it_is_switched_off_the_spans_are_ours(app):
    before_us(app)
    app.send()
    app.not_theirs()
    app.send()
    app.theirs()
    app.send()
    app.not_theirs()
    app.send()

    assert app.scopes() == [app.theirs_scope, OURS, app.theirs_scope, OURS]


def test_once_ours_is_shut_down_the_app_s_stay(app):
    app.theirs()
    ours = app.ours()
    app.send()
    ours.shutdown()
    app.send()

    spans = app.memory.attempts()
    assert [span.instrumentation_scope.name for span in spans] == [app.theirs_scope] * 2
    assert "assisters.request.id" in spans[0].attributes
    assert "assisters.request.id" not in spans[1].attributes


# -- for some clients alone ------------------------------------------------------------------------


@pytest.mark.parametrize("anyone", CALLERS, ids=str)
def test_one_instrumented_client_has_its_spans_and_another_ours(app):
    app.ours()
    one, other = app.anyone.client(), app.anyone.client()
    app.instrumentor.instrument_client(one, tracer_provider=app.memory.tracer_provider)

    async def script(at):
        await at.request("GET", f"{app.api.url}/models")

    app.anyone.use(one, script)
    app.anyone.use(other, script)

    assert app.scopes() == [app.theirs_scope, OURS]


@pytest.mark.parametrize("anyone", CALLERS, ids=str)
@pytest.mark.parametrize("is_before", [True, False])
def test_a_client_that_is_instrumented_no_more_has_ours(app, is_before):
    client = app.anyone.client()
    if not is_before:
        app.ours()
    app.instrumentor.instrument_client(client, tracer_provider=app.memory.tracer_provider)
    if is_before:
        app.ours()

    async def script(at):
        await at.request("GET", f"{app.api.url}/models")
        app.instrumentor.uninstrument_client(client)
        await at.request("GET", f"{app.api.url}/models")

    app.anyone.use(client, script)

    assert app.scopes() == [app.theirs_scope, OURS]


@pytest.mark.usefixtures("propagated")
@pytest.mark.parametrize("anyone", CALLERS, ids=str)
def test_an_instrumented_client_whose_span_is_sampled_out_has_none(app):
    unsampled = Memory(sampler=ALWAYS_OFF)
    app.ours()
    client = app.anyone.client()
    app.instrumentor.instrument_client(client, tracer_provider=unsampled.tracer_provider)

    async def script(at):
        await at.request("GET", f"{app.api.url}/models")

    app.anyone.use(client, script)

    assert app.scopes() == []
    unsampled.shutdown()


@pytest.mark.parametrize("anyone", CALLERS, ids=str)
def test_a_transport_of_opentelemetry_s_whose_span_is_sampled_out_has_none(app):
    unsampled = Memory(sampler=ALWAYS_OFF)
    app.ours()
    flavour = "Async" if app.anyone.run else "Sync"
    suffix = "Httpx2" if app.anyone.module.__name__ == "httpx2" else ""
    wrapper = getattr(otel_httpx, f"{flavour}OpenTelemetryTransport{suffix}")
    transport = wrapper(app.anyone.transport(), tracer_provider=unsampled.tracer_provider)

    async def script(at):
        await at.request("GET", f"{app.api.url}/models")

    app.anyone.use(app.anyone.client(transport=transport), script)

    assert app.scopes() == []
    unsampled.shutdown()


AIOHTTP = [one for one in ANYONE if one.name == "aiohttp"]


@pytest.mark.parametrize("anyone", AIOHTTP, ids=str)
def test_a_session_with_the_app_s_trace_configuration_has_its_spans(app):
    app.ours()
    unsampled = Memory(sampler=ALWAYS_OFF)
    url = f"{app.api.url}/models"

    async def main():
        for memory in (app.memory, unsampled, None):
            config = memory and create_trace_config(tracer_provider=memory.tracer_provider)
            async with aiohttp.ClientSession(trace_configs=[config] if config else None) as session:
                await (await session.get(url)).read()

    asyncio.run(main())
    assert app.scopes() == [app.theirs_scope, OURS]
    unsampled.shutdown()


@pytest.mark.parametrize("anyone", AIOHTTP, ids=str)
def test_a_session_is_the_app_s_from_its_beginning_until_it_is_uninstrumented(app):
    app.ours()
    url = f"{app.api.url}/models"

    async def main():
        async with aiohttp.ClientSession() as early:
            app.theirs()
            async with aiohttp.ClientSession() as session:
                await (await early.get(url)).read()
                await (await session.get(url)).read()
                app.not_theirs()
                await (await session.get(url)).read()  # its trace configuration is its own
                AioHttpClientInstrumentor.uninstrument_session(session)
                await (await session.get(url)).read()

    asyncio.run(main())
    assert app.scopes() == [OURS, app.theirs_scope, app.theirs_scope, OURS]


@pytest.mark.parametrize("anyone", [one for one in ANYONE if one.name == "requests"], ids=str)
def test_a_call_of_an_adapter_has_ours(app):
    """The app's instrumentation is around `Session.send`, and sees no call of an adapter."""
    app.ours()
    prepared = requests.Request("GET", f"{app.api.url}/models").prepare()
    with contextlib.closing(requests.adapters.HTTPAdapter()) as adapter:
        adapter.send(prepared, timeout=5).close()
        app.theirs()
        adapter.send(prepared, timeout=5).close()

    assert app.scopes() == [OURS, OURS]


def test_what_a_request_s_content_is_fetched_with_has_its_span(app):
    """Except beneath requests, where OpenTelemetry's instrumentation suppresses all others, too."""
    of_requests = app.anyone.module is requests
    app.instrumentor = HTTPXClientInstrumentor() if of_requests else RequestsInstrumentor()
    app.ours()
    app.theirs()

    def fetched(url):
        yield (httpx if of_requests else requests).get(url, timeout=5).content

    async def fetched_async(url):
        for part in fetched(url):
            yield part

    with RawServer() as other:
        fetch = fetched_async if app.anyone.run else fetched
        app.anyone.send("POST", f"{app.api.url}/embeddings", content=fetch(other.url))

    scopes = [one.instrumentation_scope.name for one in app.memory.attempts()]
    theirs = [] if of_requests else [type(app.instrumentor).__module__]
    assert sorted(scopes) == sorted([OURS, *theirs])
    assert len({one.context.trace_id for one in app.memory.attempts()}) == 1
