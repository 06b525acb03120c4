"""The library's own HTTP span beside the one that OpenTelemetry's instrumentation makes.

Each request is sent twice: with OpenTelemetry's own instrumentation of its client, under the stable
conventions, and with the library. `DIFFERENCES` is all in which the two spans differ, and why.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import StatusCode

import assisters_otel
import callers
from api_only import Recorded
from callers import ANYONE
from http2_server import http2
from memory import Memory
from raw_server import RawServer

if TYPE_CHECKING:
    from collections.abc import Callable

INSTRUMENTORS = {
    "httpx": HTTPXClientInstrumentor,
    "httpx2": HTTPX2ClientInstrumentor,
    "requests": RequestsInstrumentor,
    "aiohttp": AioHttpClientInstrumentor,
}
HOST = "gateway.example"
INTERNATIONAL, ENCODED = "b\xfccher.example", "xn--bcher-kva.example"
ADDRESS = "192.0.2.1"  # nobody's: it is for documentation (RFC 5737)
TRUSTED = trustme.CA()


class Request(NamedTuple):
    method: str
    url: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to
    is_lower: bool = False
    """True if its method is sent as it is. The clients write it in capitals otherwise."""


# -- situations ------------------------------------------------------------------------------------


def answered(api, _client):
    return Request("GET", f"{api.url}/models")


def limited(api, _client):
    api.answers("rate_limit_exceeded")
    return Request("POST", f"{api.url}/chat/completions", {"content": b"{}"})


def not_found(api, _client):
    api.answers(status=404, body=b"no")
    return Request("GET", f"{api.url}/nothing")


def only_headers(api, _client):
    api.answers(status=200)
    return Request("HEAD", f"{api.url}/models")


def refused(api, _client):
    api.stop()
    return Request("GET", f"{api.url}/models")


def silent(api, _client):
    api.answers(fault="silence")
    return Request("POST", f"{api.url}/chat/completions", {"content": b"{}", "timeout": 0.1})


def dropped(api, _client):
    api.answers(fault="drop", times=2)
    return Request("GET", f"{api.url}/models")


def of_an_odd_method(api, _client):
    api.answers(status=200)
    return Request("FROBNICATE", f"{api.url}/models")


def of_a_lower_case_method(api, _client):
    api.answers(status=200)
    return Request("get", f"{api.url}/models", is_lower=True)


def with_a_query(api, _client):
    signed = "AWSAccessKeyId=A&Signature=q%20%2B&sig=s&X-Goog-Signature=g"
    return Request("GET", f"{api.url}/models?{signed}&b=2&a=%20x#part")


def with_a_password(api, _client):
    return Request("GET", f"{api.url.replace('://', '://joe:planted@')}/models?b=2")


def without_a_path(api, _client):
    api.answers(status=200)
    return Request("GET", api.url.removesuffix("/v1"))


def redirected(api, _client):
    api.answers(redirect=f"{api.url}/rate-limit")
    return Request("GET", f"{api.url}/models", {"follow_redirects": True})


@contextlib.contextmanager
def to_ipv6(_api, _client):
    with RawServer("::1") as server:
        yield Request("GET", f"{server.url}/models")


@contextlib.contextmanager
def to_port_443(_api, client):
    """By the name of a host, without a port. What is looked up and connected with is mapped."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    TRUSTED.issue_cert(HOST).configure_cert(context)
    with RawServer(tls=context) as server, TRUSTED.cert_pem.tempfile() as cafile, mapped(server):
        trusting = ssl.create_default_context(cafile=cafile)
        options = {
            "requests": {"verify": cafile},
            "aiohttp": {"ssl": trusting},
        }.get(client.name) or {"client": client.client(verify=trusting)}
        yield Request("GET", f"https://{HOST}/v1/models", options)


@contextlib.contextmanager
def to_a_name_in_capitals(_api, _client):
    with RawServer() as server, mapped(server):
        yield Request("GET", f"http://{HOST.upper()}:8080/v1/models")


@contextlib.contextmanager
def to_an_international_name(_api, _client):
    with RawServer() as server, mapped(server):
        yield Request("GET", f"http://{INTERNATIONAL}:8080/v1/models")


@contextlib.contextmanager
def mapped(server):
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host, port, *args, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in {HOST, INTERNATIONAL, ENCODED}:
            return look_up(host, port, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (ADDRESS, port))]

    def connected(one, address):
        return connect(one, ("127.0.0.1", server.port) if address[0] == ADDRESS else address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(socket.socket, "connect", connected)
        yield


@contextlib.contextmanager
def by_http_2(api, client):
    with http2(api.app) as url:
        yield Request("GET", f"{url}/models", {"client": client.client(http1=False, http2=True)})


SITUATIONS = [
    answered, limited, not_found, only_headers, refused, silent, dropped, of_an_odd_method,
    of_a_lower_case_method, with_a_query, with_a_password, without_a_path, redirected, to_ipv6,
    to_port_443, to_a_name_in_capitals, to_an_international_name, by_http_2,
]  # fmt: skip

HTTPX = frozenset(one.name for one in ANYONE if one.name.startswith("httpx"))
REQUESTS, AIOHTTP = frozenset({"requests"}), frozenset({"aiohttp"})
EVERYONE = HTTPX | REQUESTS | AIOHTTP
IMPOSSIBLE = {
    by_http_2: (REQUESTS | AIOHTTP, "they speak HTTP/1 alone"),
    of_a_lower_case_method: (AIOHTTP, "it writes every method in capitals"),
}
"""The situations that a client cannot be in."""

FAILED = (limited, not_found)
UNANSWERED = (refused, silent, dropped)
BY_NAME = (to_port_443, to_a_name_in_capitals, to_an_international_name)
BY_RAW_SERVER = (to_ipv6, *BY_NAME)
UNDOCUMENTED = (not_found, without_a_path)
"""The paths of these have no template."""


# -- differences -----------------------------------------------------------------------------------


class Difference(NamedTuple):
    """What the library's span says otherwise.

    Attributes:
        what: An attribute, or another part of a span as `facts` names it.
        agree: Returns True of the two values, OpenTelemetry's and the library's, if the difference
            is the one that is meant. None stands for nothing.
        where: The situations.
        clients: The clients.
        reason: Why.
    """

    what: str
    agree: Callable[[Any, Any], bool]
    where: tuple[Callable[..., Any], ...]
    clients: frozenset[str]
    reason: str


def all_but(*situations):
    return tuple(one for one in SITUATIONS if one not in situations)


def only_ours(theirs, ours):
    return theirs is None and ours is not None


def only_theirs(theirs, ours):
    return ours is None and theirs is not None


def are(theirs, ours):
    return lambda *both: both == (theirs, ours)


ASSISTERS = "the library tells what the API says of an attempt"
PER_ATTEMPT = "an attempt has one span; the client's instrumentation makes one for all of them"
NO_NAME = "conventions: it is an address, and the name is in server.address"
PEER = "the conventions recommend it; aiohttp's instrumentation leaves it out"
ANSWERED = all_but(*UNANSWERED)
KNOWN_BY_ID = all_but(*UNANSWERED, *BY_RAW_SERVER)

DIFFERENCES = [
    Difference(
        "name", lambda theirs, ours: ours.startswith(f"{theirs} /v1/"),
        all_but(*UNDOCUMENTED), EVERYONE, "conventions: method and template, where there is one",
    ),
    Difference(
        "url.template", only_ours, all_but(*UNDOCUMENTED), EVERYONE,
        "conventions: opt-in, and the documented path of the API",
    ),
    Difference("assisters.request.id", only_ours, KNOWN_BY_ID, EVERYONE, ASSISTERS),
    Difference("assisters.server.duration", only_ours, KNOWN_BY_ID, EVERYONE, ASSISTERS),
    Difference("http.response.header.x-request-id", only_ours, KNOWN_BY_ID, EVERYONE, ASSISTERS),
    Difference(
        "assisters.error.retryable", only_ours, (*FAILED, *UNANSWERED), EVERYONE, ASSISTERS
    ),
    Difference(
        "error.type", are("429", "rate_limit_error"), (limited,), EVERYONE,
        "the envelope's type says more than the status, which has its own attribute",
    ),
    Difference("error.code", only_ours, (limited,), EVERYONE, ASSISTERS),
    Difference("assisters.retry_after", only_ours, (limited,), EVERYONE, ASSISTERS),
    *(
        Difference(f"assisters.ratelimit.{kind}.{what}", only_ours, (limited,), EVERYONE, ASSISTERS)
        for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")
    ),
    Difference(
        "description", are(None, "rate_limit_exceeded"), (limited,), EVERYONE,
        "the code, by which a failure is found",
    ),
    Difference("description", are(None, "404"), (not_found,), EVERYONE, "error.type, without code"),
    # -- one span an attempt
    Difference("spans", are(1, 2), (redirected,), REQUESTS | AIOHTTP, PER_ATTEMPT),
    Difference(
        "http.response.status_code", are(200, 307), (redirected,), REQUESTS | AIOHTTP, PER_ATTEMPT
    ),
    Difference("spans", are(1, 2), (dropped,), AIOHTTP, PER_ATTEMPT),
    # -- where it went
    Difference(
        "server.port", are(None, 443), (to_port_443,), EVERYONE,
        "conventions: required, also where it is the scheme's own",
    ),
    Difference("network.peer.address", only_theirs, BY_NAME, HTTPX | REQUESTS, NO_NAME),
    Difference(
        "network.peer.port", only_theirs, (to_a_name_in_capitals, to_an_international_name),
        HTTPX | REQUESTS, "conventions: of the address, which is not known",
    ),
    Difference("network.peer.address", only_ours, all_but(*BY_NAME), AIOHTTP, PEER),
    Difference("network.peer.port", only_ours, all_but(*BY_NAME), AIOHTTP, PEER),
    Difference(
        "server.address", are(ENCODED, INTERNATIONAL), (to_an_international_name,),
        REQUESTS | AIOHTTP, "one name of a host for every client, in spans and in metrics",
    ),
    Difference("network.protocol.version", are(None, "1.1"), ANSWERED, AIOHTTP, PEER),
    Difference(
        "url.full", lambda theirs, ours: theirs == f"{ours}#part", (with_a_query,), AIOHTTP,
        "aiohttp has taken it away before it asks for a connection; no server gets it",
    ),
    Difference(
        "url.full", lambda theirs, ours: theirs.replace("REDACTED:REDACTED@", "") == ours,
        (with_a_password,), AIOHTTP, "aiohttp has made a header of it by then",
    ),
]  # fmt: skip


# -- how they are compared -------------------------------------------------------------------------


def facts(span, around, port):
    """Return all that a span says, flat, with 1 for the port that it went to.

    Of a stack trace it is the line of the exception.
    """
    told = {
        "name": span.name,
        "kind": span.kind,
        "is child": span.parent == around.context,
        "status": span.status.status_code,
        "description": span.status.description,
        "links": len(span.links) or None,
        "events": [event.name for event in span.events],
        **span.attributes,
    }
    for event in span.events:
        told |= event.attributes
        trace_back = event.attributes["exception.stacktrace"]
        assert trace_back.count("Traceback (most recent call last)") >= 1
        told["exception.stacktrace"] = trace_back.rstrip().rpartition("\n")[2]
    told["url.full"] = told["url.full"].replace(f":{port}", ":1")
    return {name: 1 if value == port else value for name, value in told.items()}


def facts_of_recorded(told, port):
    """Return the same of a span that only a test can read: of an event it has what it was given."""
    found = {
        "name": told.name,
        "kind": told.kind,
        "is child": told.parent is not None,
        "status": StatusCode[told.status[0]],
        "description": told.status[1],
        "links": len(told.links) or None,
        "events": [name for name, _ in told.events],
        **told.attributes,
    }
    for _, attributes in told.events:
        found["exception.message"] = attributes["exception.message"]
    found["url.full"] = found["url.full"].replace(f":{port}", ":1")
    return {name: 1 if value == port else value for name, value in found.items()}


@pytest.fixture
def mode(request, monkeypatch):
    yield from in_mode(getattr(request, "param", "http"), monkeypatch)


def in_mode(value, monkeypatch):
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", value)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    yield value
    monkeypatch.undo()
    _OpenTelemetrySemanticConventionStability._initialized = False


@contextlib.contextmanager
def theirs(anyone, memory):
    instrumentor = INSTRUMENTORS[anyone.module.__name__]()
    instrumentor.instrument(**providers(memory))
    try:
        yield
    finally:
        instrumentor.uninstrument()


@contextlib.contextmanager
def ours(_anyone, memory):
    hosts = ["127.0.0.1", "[::1]", HOST, INTERNATIONAL]
    with assisters_otel.init(hosts=hosts, strict=True, **providers(memory)):
        yield


def providers(memory):
    return {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}


def told_by(instrumentation, situation, api, anyone, memory=None):
    """Return what the HTTP spans say that one of the two makes of a request."""
    api.reset()
    memory = Memory() if memory is None else memory
    made = situation(api, anyone)
    around = made if hasattr(made, "__enter__") else contextlib.nullcontext(made)
    tracer = memory.tracer_provider.get_tracer("app")
    with around as request, instrumentation(anyone, memory):
        with tracer.start_as_current_span("work") as work, contextlib.suppress(anyone.broken):
            if request.is_lower:
                send_as_it_is(anyone, request)
            else:
                anyone.send(request.method, request.url, **request.options)
        assert trace.get_current_span() is trace.INVALID_SPAN
    if situation is refused:
        api.start()
    if situation is silent:  # the client may have left before it was read
        until_s = time.monotonic() + 30
        while not api.requests and time.monotonic() < until_s:
            time.sleep(0.01)
    port = urlsplit(request.url).port
    if isinstance(memory, Recorded):
        return [facts_of_recorded(told, port) for told in memory.ended if told.scope != "app"]
    spans = memory.attempts()
    memory.shutdown()
    return [facts(span, work, port) for span in spans]


def send_as_it_is(anyone, request):
    if anyone.name == "requests":
        prepared = anyone.module.Request("GET", request.url).prepare()
        prepared.method = request.method
        with anyone.module.Session() as session:
            session.send(prepared)
        return

    async def script(at):
        built = at.client.build_request("GET", request.url)
        built.method = request.method
        sent = at.client.send(built)
        if anyone.run:
            await sent

    anyone.use(anyone.client(), script)


def differences(before, after):
    """Return where two spans differ, with both values."""
    every = sorted({*before, *after})
    pairs = {name: (before.get(name), after.get(name)) for name in every}
    return {name: both for name, both in pairs.items() if both[0] != both[1]}


CELLS = [
    pytest.param(situation, one, id=f"{situation.__name__}-{one}")
    for situation in SITUATIONS
    for one in ANYONE
    if one.name not in IMPOSSIBLE.get(situation, ((), ""))[0]
]


@pytest.fixture(autouse=True)
def _no_authorization(monkeypatch):
    """With that header, aiohttp refuses a URL with a password."""
    monkeypatch.setattr(callers, "PLANTED", {})


@pytest.mark.sampled
@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize(("situation", "anyone"), CELLS)
def test_a_span_of_ours_differs_from_theirs_in_nothing_but_these(api, situation, anyone):
    before = told_by(theirs, situation, api, anyone)
    after = told_by(ours, situation, api, anyone)

    found = differences(before[0], after[0])
    if len(before) != len(after):
        found["spans"] = len(before), len(after)
    rows = {
        row.what: row
        for row in DIFFERENCES
        if situation in row.where and anyone.name in row.clients
    }
    assert {name: both for name, both in found.items() if name not in rows} == {}
    assert {name: None for name in rows if name not in found} == {}
    assert [name for name, both in found.items() if not rows[name].agree(*both)] == [], found


def test_each_row_of_the_table_has_a_cell():
    cells = {(cell.values[0], cell.values[1].name) for cell in CELLS}
    for row in DIFFERENCES:
        assert any((situation, one) in cells for situation in row.where for one in row.clients), row
    keys = [(row.what, situation, one)
            for row in DIFFERENCES for situation in row.where for one in row.clients]  # fmt: skip
    assert len(keys) == len(set(keys)), "two rows for the same"


VARYING = {
    "assisters.request.id", "http.response.header.x-request-id", "assisters.server.duration",
    "assisters.ratelimit.requests.reset", "assisters.ratelimit.tokens.reset",
    "assisters.retry.delay",
}  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize("situation", [answered, limited, silent, of_an_odd_method, redirected])
def test_ours_is_the_same_in_every_mode(api, situation, anyone, monkeypatch):
    told = []
    for value in ("", "http", "http/dup"):
        for _ in in_mode(value, monkeypatch):
            spans = told_by(ours, situation, api, anyone)
            told.append([{k: v for k, v in one.items() if k not in VARYING} for one in spans])

    assert told[0] == told[1] == told[2]
    assert all("http.request.method" in one for one in told[0])


TOLD_BY_THE_SDK = {"exception.type", "exception.stacktrace", "exception.escaped"}


@pytest.mark.sampled
@pytest.mark.parametrize(("situation", "anyone"), CELLS)
def test_ours_is_the_same_with_a_provider_whose_spans_cannot_be_read(api, situation, anyone):
    with_sdk = told_by(ours, situation, api, anyone)
    recorded = Recorded()
    without = told_by(ours, situation, api, anyone, recorded)

    assert len(without) == len(with_sdk)
    for before, after in zip(with_sdk, without, strict=True):
        found = differences(before, after)
        assert {name: both for name, both in found.items()
                if name not in VARYING | TOLD_BY_THE_SDK} == {}  # fmt: skip
    assert [told.ends for told in recorded.started] == [1] * len(recorded.started)


class OddError(Exception):
    pass


@contextlib.contextmanager
def both(anyone, memory):
    with theirs(anyone, memory), ours(anyone, memory):
        yield


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("made_by", [ours, both])
def test_what_an_exception_says_can_be_encoded(api, anyone, made_by):
    """One lone surrogate, of a file's name say, would cost the exporter its whole batch."""
    memory = Memory()

    def broken():
        yield b"{"
        raise OddError("caf\udce9 \0 " + "x" * 9000)

    async def broken_async():
        for part in broken():
            yield part

    body = broken_async() if anyone.run else broken()
    with made_by(anyone, memory), pytest.raises((OddError, *anyone.wraps)):
        anyone.send("POST", f"{api.url}/rerank", content=body)

    span = memory.attempt()
    encode_spans([span])
    (event,) = span.events
    assert "OddError" in event.attributes["exception.stacktrace"]
    assert len(span.status.description) <= 4096
    memory.shutdown()
