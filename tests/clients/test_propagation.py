"""What is sent with a request beside what the app sends, and that the app sees none of it."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import aiohttp
import aiohttp_retry
import pytest
import requests
import urllib3
import wrapt
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import assisters_otel
import callers
from callers import ANYONE, CALLERS, in_client
from memory import Memory, watching
from raw_server import FINE, RawServer

DURATION = "assisters.client.request.duration"
W3C = TraceContextTextMapPropagator


@pytest.fixture
def propagating():
    """Set a propagator; the one before is back afterwards."""
    before = propagate.get_global_textmap()
    yield propagate.set_global_textmap
    propagate.set_global_textmap(before)


@contextlib.contextmanager
def app_baggage():
    within = baggage.set_baggage("planted-tenant", "planted-acme")
    token = context.attach(baggage.set_baggage("sentry-x", "planted", within))
    try:
        yield
    finally:
        context.detach(token)


# -- by whom ---------------------------------------------------------------------------------------


class Sloppy(TextMapPropagator):
    """One that asks for the current context, whichever it is given; baggage under a name of its."""

    def inject(self, carrier, context=None, setter=None):  # noqa: ARG002 - OpenTelemetry's
        span = trace.get_current_span().get_span_context()
        carrier["x-span"] = trace.format_span_id(span.span_id)
        for name, value in baggage.get_all().items():
            carrier[f"x-{name}"] = str(value)

    def extract(self, carrier, context=None, getter=None):  # noqa: ARG002
        return context

    @property
    def fields(self):
        return set()


def w3c():
    return CompositePropagator([W3C(), W3CBaggagePropagator()])


def w3c_and_another():
    return CompositePropagator([W3C(), Sloppy()])


def another_and_baggage():
    return CompositePropagator([Sloppy(), W3CBaggagePropagator()])


def three():
    return CompositePropagator([W3C(), W3CBaggagePropagator(), Sloppy()])


def b3_single():
    from opentelemetry.propagators.b3 import B3SingleFormat

    return CompositePropagator([B3SingleFormat(), W3CBaggagePropagator()])


def b3_multi():
    from opentelemetry.propagators.b3 import B3MultiFormat

    return B3MultiFormat()


def jaeger():
    from opentelemetry.propagators.jaeger import JaegerPropagator

    return JaegerPropagator()


PROPAGATORS = [
    pytest.param(w3c, "traceparent", id="w3c"),
    pytest.param(Sloppy, "x-span", id="sloppy"),
    pytest.param(w3c_and_another, "x-span", id="w3c and another"),
    pytest.param(another_and_baggage, "x-span", id="another and baggage"),
    pytest.param(three, "x-span", id="three"),
    *(
        pytest.param(make, header, id=make.__name__, marks=pytest.mark.skipif(
            find_spec("opentelemetry.propagators") is None
            or find_spec(f"opentelemetry.propagators.{package}") is None,
            reason=f"opentelemetry-propagator-{package} is not installed",
        ))
        for make, header, package in (
            (b3_single, "b3", "b3"), (b3_multi, "x-b3-spanid", "b3"),
            (jaeger, "uber-trace-id", "jaeger"),
        )
    ),
]  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("is_sampled", [True, False])
@pytest.mark.parametrize(("make", "header"), PROPAGATORS)
def test_the_span_goes_to_the_api_and_the_app_s_baggage_does_not(
    api, anyone, propagating, make, header, is_sampled
):
    propagating(make())
    memory = Memory() if is_sampled else Memory(sampler=ALWAYS_OFF)
    with watching(api, memory, strict=True), app_baggage():
        anyone.send("GET", f"{api.url}/models", headers={"X-Mine": "1", "Baggage": "mine=1"})

    (sent,) = api.requests
    assert sent.headers["x-mine"] == "1"
    assert sent.headers["baggage"] == "mine=1"
    assert "planted" not in repr({k: v for k, v in sent.headers.items() if k != "authorization"})
    if is_sampled:
        assert trace.format_span_id(memory.attempt().context.span_id) in sent.headers[header]
    else:
        assert memory.spans() == []
        assert len(sent.headers[header]) > 1
        assert sent.headers[header].strip("0-") != ""
    memory.shutdown()


@pytest.mark.skipif(find_spec("sentry_sdk") is None, reason="sentry-sdk is not installed")
@pytest.mark.parametrize("anyone", ANYONE, ids=str)
def test_sentry_s_trace_goes_to_the_api_and_its_baggage_does_not(api, memory, propagating, anyone):
    import sentry_sdk
    from sentry_sdk.integrations.opentelemetry import SentryPropagator, SentrySpanProcessor

    class Silent(sentry_sdk.Transport):
        def capture_envelope(self, envelope):
            pass

    sentry_sdk.init("http://key@127.0.0.1:9/1", traces_sample_rate=1.0, instrumenter="otel",
                    default_integrations=False, auto_enabling_integrations=False,
                    transport=Silent)  # fmt: skip
    try:
        memory.tracer_provider.add_span_processor(SentrySpanProcessor())
        propagating(CompositePropagator([W3C(), W3CBaggagePropagator(), SentryPropagator()]))
        tracer = memory.tracer_provider.get_tracer("app")
        with (
            watching(api, memory, strict=True),
            app_baggage(),
            tracer.start_as_current_span("work"),
        ):
            anyone.send("GET", f"{api.url}/models", headers={"Baggage": "mine=1"})
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.get_global_scope().set_client(None)

    (sent,) = api.requests
    assert trace.format_span_id(memory.attempt().context.span_id) in sent.headers["sentry-trace"]
    assert sent.headers["baggage"] == "mine=1"


# -- one that raises -------------------------------------------------------------------------------


class Raising(Sloppy):
    def inject(self, carrier, context=None, setter=None):  # noqa: ARG002
        carrier["x-half"] = "1"
        raise KeyError("mine")


class Writing(Sloppy):
    """One that writes what no client can send, and something that each can."""

    def inject(self, carrier, context=None, setter=None):  # noqa: ARG002
        carrier.update({
            "x-none": None, "x-bytes": b"1", "x-number": 1, "x-break": "a\r\nx-injected: 1",
            "x-nul": "a\0", "x-snowman": "\N{SNOWMAN}", "x-surrogate": "\udcff", " x": "1",
            "x:y": "1", "": "1", "x-blank": " a ", 7: "1", "x-fine": "a b",
        })  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: CompositePropagator([Raising(), W3C(), Raising()]), {"traceparent", "x-half"}),
        (
            lambda: CompositePropagator([CompositePropagator([Raising(), W3C()])]),
            {"traceparent", "x-half"},
        ),
        (Raising, {"x-half"}),
        (lambda: CompositePropagator([Writing(), W3C()]), {"traceparent", "x-fine"}),
    ],
    ids=["among others", "deep inside", "alone", "of headers that cannot be sent"],
)
def test_a_propagator_that_raises_costs_its_own_headers_alone(
    api, memory, anyone, propagating, make, expected
):
    anyone.send("GET", f"{api.url}/models")
    propagating(make())
    with watching(api, memory, strict=False):
        for _ in range(2):
            assert anyone.send("GET", f"{api.url}/models").status_code == 200
        assert trace.get_current_span() is trace.INVALID_SPAN

    before, *after = api.requests
    for request in after:
        assert request.headers.keys() - before.headers.keys() == expected
    assert len(memory.attempts()) == 2
    assert memory.point(DURATION)["count"] == 2


# -- what the app sees -----------------------------------------------------------------------------

OUTCOMES = {
    "a success": ({}, {}),
    "an error": ({"codes": ("internal_error",)}, {}),
    "a redirect": ({"redirect": "/v1/rate-limit"}, {"follow_redirects": True}),
    "a dropped connection": ({"fault": "drop", "times": 2}, {}),
    "a timeout": ({"fault": "silence"}, {"timeout": 0.1}),
}


def headers_of(told):
    """Return the headers of the requests of a response or an exception, as its app finds them."""
    found = []
    for one in (*getattr(told, "history", ()), told):
        request = getattr(one, "request_info", None)
        if request is None:
            with contextlib.suppress(RuntimeError):  # httpx has none to give
                request = getattr(one, "request", None)
        if request is not None:
            found.append(sorted((k.lower(), v) for k, v in request.headers.items()))
    return found


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_app_finds_its_own_request_without_our_headers(api, memory, anyone, outcome):
    answer, options = OUTCOMES[outcome]

    async def script(request):
        try:
            return headers_of(await request("GET", f"{api.url}/models", **dict(options)))
        except anyone.broken as error:
            return headers_of(error)

    def play():
        api.reset()
        told = dict(answer)
        api.answers(*told.pop("codes", ()), **told)
        return in_client(anyone, script), [sorted(one.headers) for one in api.requests]

    found, sent = play()
    with watching(api, memory, strict=True):
        found_with_us, sent_with_us = play()

    assert found_with_us == found
    assert found or (anyone.name == "aiohttp" and outcome in {"a dropped connection", "a timeout"})
    assert sent_with_us == [sorted([*one, "traceparent"]) for one in sent]


@pytest.mark.usefixtures("memory")
def test_nor_does_it_after_a_retry_of_the_client_s_own(api, memory):
    retries = urllib3.Retry(
        2, status_forcelist=[503], backoff_factor=0, respect_retry_after_header=False
    )
    with watching(api, memory, strict=True), requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
        api.answers(status=503, times=2)
        response = session.get(f"{api.url}/models")

    assert [one.headers["traceparent"] != "" for one in api.requests] == [True] * 3
    assert "traceparent" not in response.request.headers


def test_nor_does_it_after_a_retry_of_aiohttp_s(api, memory):
    import asyncio

    async def main():
        options = aiohttp_retry.ExponentialRetry(3, start_timeout=0.01)
        async with (
            aiohttp_retry.RetryClient(retry_options=options) as client,
            client.get(f"{api.url}/models") as response,
        ):
            return headers_of(response)

    api.answers(status=503, times=2)
    with watching(api, memory, strict=True):
        (found,) = asyncio.run(main())

    assert len({one.headers["traceparent"] for one in api.requests}) == 3
    assert "traceparent" not in dict(found)


def test_threads_may_share_a_prepared_request(api, memory):
    prepared = requests.Request("POST", f"{api.url}/rerank", data=b"{}").prepare()
    before = list(prepared.headers.items())

    def send(_):
        with requests.Session() as session:
            response = session.send(prepared)
            return response.request is prepared, list(response.request.headers.items()) == before

    with watching(api, memory, strict=True), ThreadPoolExecutor(8) as pool:
        told = list(pool.map(send, range(40)))

    assert set(told) == {(True, True)}
    assert list(prepared.headers.items()) == before
    sent = {one.headers["traceparent"].split("-")[2] for one in api.requests}
    assert sent == {trace.format_span_id(span.context.span_id) for span in memory.attempts()}
    assert len(sent) == 40


@pytest.mark.parametrize("caller", CALLERS, ids=str)
def test_a_request_that_cannot_be_copied_is_sent_as_it_is(api, memory, caller):
    class Proxying(caller.transport().__class__):
        def handle_request(self, request):
            return super().handle_request(wrapt.ObjectProxy(request))

        async def handle_async_request(self, request):
            return await super().handle_async_request(wrapt.ObjectProxy(request))

    with watching(api, memory, strict=True):
        client = caller.client(transport=Proxying())
        assert caller.send("GET", f"{api.url}/models", client=client).status_code == 200

    assert memory.attempt().attributes["assisters.request.id"]
    assert memory.point(DURATION)["count"] == 1
    assert "traceparent" not in api.requests[0].headers


# -- what is on the wire ---------------------------------------------------------------------------

ODD = [("X-Mixed-CASE", "1"), ("accept", "text/x"), ("TraceState", "mine=1"), ("X-Empty", "")]
TWICE = [("X-Twice", "1"), ("X-Twice", "2")]


@pytest.mark.parametrize("anyone", ANYONE, ids=str)
def test_the_bytes_are_those_without_us_and_the_propagator_s(memory, anyone, monkeypatch):
    monkeypatch.setattr(callers, "PLANTED", {"Authorization": "Bearer k"})
    with RawServer() as server:
        headers = dict(ODD) if anyone.name == "requests" else [*ODD, *TWICE]

        async def script(request):
            for method in ("GET", "POST", "GET"):
                await request(method, f"{server.url}/models?q=%7e", headers=headers)

        def play():
            server.received.clear()
            server.connections = 0
            in_client(anyone, script)
            return b"".join(server.received).split(b"\r\n"), server.connections

        server.answer = server.usual = FINE, False
        without, connections = play()
        with assisters_otel.init(
            hosts=[server.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            with_us, connections_with_us = play()

    added = [line for line in with_us if line.lower().startswith(b"traceparent: 00-")]
    assert len(added) == 3
    assert [line for line in with_us if line not in added] == without
    assert connections_with_us == connections == 1


def test_the_app_s_own_trace_headers_are_the_app_s_again_afterwards(api, memory, anyone):
    """What is sent is the span's, as with OpenTelemetry's own instrumentation."""
    mine = f"00-{'a' * 32}-{'b' * 16}-01"

    async def script(request):
        response = await request("GET", f"{api.url}/models", headers={"Traceparent": mine})
        return dict(headers_of(response)[0])

    with watching(api, memory, strict=True):
        assert in_client(anyone, script)["traceparent"] == mine
    span_id = trace.format_span_id(memory.attempt().context.span_id)
    assert span_id in api.requests[0].headers["traceparent"]
    assert "," not in api.requests[0].headers["traceparent"]


@pytest.mark.parametrize("is_repeated", [True, False])
def test_aiohttp_s_request_info_has_the_app_s_own_trace_headers_all_of_them(
    api, memory, is_repeated
):
    import asyncio

    mine = [("TraceParent", "a")] + [("TraceParent", "b")] * is_repeated

    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{api.url}/models", headers=mine) as response,
        ):
            headers = response.request_info.headers
            return [(k, v) for k, v in headers.items() if k.lower() == "traceparent"]

    with watching(api, memory, strict=True):
        assert asyncio.run(main()) == mine
