"""OpenTelemetry's switches for HTTP spans hold for the library's own, of every client."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)

import callers
import scripts
from callers import ANYONE
from memory import watching

DURATION = "assisters.client.request.duration"
CLIENT_REQUEST = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST"
CLIENT_RESPONSE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE"
SANITIZE = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"
KNOWN_METHODS = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"
ALL_METHODS = "OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS"
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
EXCLUDED = "OTEL_PYTHON_EXCLUDED_URLS"
EXCLUDED_OF = {
    "httpx": "OTEL_PYTHON_HTTPX_EXCLUDED_URLS",
    "httpx2": "OTEL_PYTHON_HTTPX_EXCLUDED_URLS",
    "requests": "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS",
    "aiohttp": "OTEL_PYTHON_AIOHTTP_CLIENT_EXCLUDED_URLS",
}
NAMES = {"httpx": "httpx", "httpx2": "httpx2", "requests": "requests", "aiohttp": "aiohttp-client"}
"""The instrumentations' names in the variable that switches them off."""


def counted(memory):
    return sum(point["count"] for point in memory.points(DURATION))


# -- no span ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["/models", "nosuch, v1/models$", "models.b=2,x", r"127\.0\.0\.1"]
)
@pytest.mark.parametrize("is_own", [True, False])
def test_an_excluded_url_has_metrics_and_no_span(api, memory, anyone, monkeypatch, value, is_own):
    monkeypatch.setenv(EXCLUDED_OF[anyone.module.__name__] if is_own else EXCLUDED, value)
    with watching(api, memory):
        url = f"{api.url}/models"
        anyone.send("GET", f"{url}?b=2" if "b=" in value else url)

    assert memory.spans() == []
    assert counted(memory) == 1
    assert "traceparent" not in api.requests[0].headers


def test_a_url_that_is_not_excluded_has_a_span(api, memory, anyone, monkeypatch):
    """The client's own variable takes the place of the common one; another client's is not read."""
    own = EXCLUDED_OF[anyone.module.__name__]
    monkeypatch.setenv(EXCLUDED, "/models")
    monkeypatch.setenv(own, "/MODELS")
    for other in {*EXCLUDED_OF.values()} - {own}:
        monkeypatch.setenv(other, ".*")
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models")

    assert memory.attempt()


@pytest.mark.parametrize("suppressed", [suppress_instrumentation, suppress_http_instrumentation])
def test_what_is_suppressed_has_metrics_and_no_span(api, memory, anyone, suppressed):
    with watching(api, memory), suppressed():
        anyone.send("GET", f"{api.url}/models")

    assert memory.spans() == []
    assert counted(memory) == 1
    assert "traceparent" not in api.requests[0].headers


# -- captured headers ------------------------------------------------------------------------------


def test_the_headers_that_are_asked_for_are_on_the_span(api, memory, anyone, monkeypatch):
    monkeypatch.setenv(CLIENT_REQUEST, "x-TIER, X-Team.*,x-none")
    monkeypatch.setenv(CLIENT_RESPONSE, "x-region,X-Zone-.*")
    api.answers("ok", headers={"X-Region": "eu", "X-Zone-Id": "7", "X-Other": "1"})
    headers = {"X-Tier": "gold", "x-team_name": "a, b", "x-teapot": "1", "X-Tier-Two": "2"}
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models", headers=headers)

    told = memory.attempt().attributes
    assert {k: v for k, v in told.items() if ".header." in k and "request-id" not in k} == {
        "http.request.header.x-tier": ("gold",),
        "http.request.header.x-team_name": ("a, b",),
        "http.response.header.x-region": ("eu",),
        "http.response.header.x-zone-id": ("7",),
    }


def test_all_of_them_may_be_asked_for_and_no_key_is_shown(api, memory, anyone, monkeypatch):
    monkeypatch.setenv(CLIENT_REQUEST, ".*")
    monkeypatch.setenv(CLIENT_RESPONSE, ".*")
    monkeypatch.setenv(SANITIZE, "x-SESSION.*,^tier$")
    key = "ask_live_0123456789"
    api.answers("ok", headers={"X-Echo": f"Bearer {key}", "Set-Cookie": "a=planted", "Tier": "b"})
    headers = {
        "X-Api-Key": "planted", "X-Session-Id": "planted", "X-Note": f"for {key}", "X-Tier": "1",
        "Cookie": "planted=1", "X-Auth-Token": "planted",
    }  # fmt: skip
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models", headers=headers)

    told = memory.attempt().attributes
    assert "planted" not in repr(dict(told))
    assert key not in repr(dict(told))
    expected = {
        "request.header.authorization": "REDACTED", "request.header.x-api-key": "REDACTED",
        "request.header.cookie": "REDACTED", "request.header.x-auth-token": "REDACTED",
        "request.header.x-session-id": "[REDACTED]", "request.header.x-note": "for REDACTED",
        "request.header.x-tier": "1", "response.header.x-echo": "REDACTED",
        "response.header.set-cookie": "REDACTED", "response.header.tier": "[REDACTED]",
    }  # fmt: skip
    assert {name: told[f"http.{name}"] for name in expected} == {
        name: (value,) for name, value in expected.items()
    }
    assert told["http.response.header.content-type"]
    assert "http.request.header.traceparent" not in told, "what the library adds"


def test_a_header_that_quotes_another_shows_no_key(api, memory, anyone, monkeypatch):
    """A key in a form that no pattern knows, which an answer repeats."""
    monkeypatch.setattr(callers, "PLANTED", {"Authorization": "Bearer planted.odd-form"})
    monkeypatch.setenv(CLIENT_RESPONSE, "x-you-said")
    api.answers("ok", headers={"X-You-Said": "planted.odd-form"})
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models")

    assert memory.attempt().attributes["http.response.header.x-you-said"] == ("REDACTED",)


def test_a_captured_header_is_cut_and_can_be_encoded(api, memory, anyone, monkeypatch):
    monkeypatch.setenv(CLIENT_REQUEST, "x-long")
    monkeypatch.setenv(CLIENT_RESPONSE, "x-odd")
    api.answers("ok", headers={"X-Odd": "caf\xe9"})
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models", headers={"X-Long": "x" * 9000})

    told = memory.attempt().attributes
    assert told["http.request.header.x-long"] == ("x" * 4096,)
    assert told["http.response.header.x-odd"][0].encode().isascii() is False


def test_a_user_agent_shows_no_key(api, memory):
    agent = "shop/1 ask_live_0123456789"
    with watching(api, memory):
        requests.get(f"{api.url}/models", headers={"User-Agent": agent}, timeout=5)

    assert memory.attempt().attributes["user_agent.original"] == "shop/1 REDACTED"


# -- methods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("HTTP", "_OTHER", "PURGE")),
        ({KNOWN_METHODS: "GET, PURGE"}, ("PURGE", "PURGE", None)),
        ({KNOWN_METHODS: "GET"}, ("HTTP", "_OTHER", "PURGE")),
        ({KNOWN_METHODS: " , "}, ("HTTP", "_OTHER", "PURGE")),
        ({ALL_METHODS: "1"}, ("PURGE", "PURGE", None)),
        ({ALL_METHODS: "1", KNOWN_METHODS: "GET"}, ("PURGE", "PURGE", None)),
    ],
)
def test_an_unknown_method_is_other(api, memory, anyone, monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    api.answers(status=200)
    with watching(api, memory):
        anyone.send("PURGE", f"{api.url}/nothing")

    span = memory.attempt()
    told = span.attributes
    original = told.get("http.request.method_original")
    assert (span.name, told["http.request.method"], original) == expected


def test_the_list_of_methods_may_take_one_away(api, memory, anyone, monkeypatch):
    monkeypatch.setenv(KNOWN_METHODS, "POST,purge")
    with watching(api, memory):
        anyone.send("GET", f"{api.url}/models")

    assert memory.attempt().attributes["http.request.method"] == "_OTHER"


def test_a_method_is_known_in_the_case_in_which_the_list_has_it(api, memory, monkeypatch):
    monkeypatch.setenv(KNOWN_METHODS, "get,POST")
    prepared = requests.Request("GET", f"{api.url}/models").prepare()
    with watching(api, memory), requests.Session() as session:
        for method in ("get", "post"):
            prepared.method = method
            api.answers(status=200)
            session.send(prepared)

    told = [(span.name, span.attributes.get("http.request.method_original"))
            for span in memory.spans()]  # fmt: skip
    assert told == [("get /v1/models", None), ("POST /v1/models", "post")]


# -- urllib3 ---------------------------------------------------------------------------------------


@pytest.mark.skipif(
    find_spec("opentelemetry.instrumentation.urllib3") is None,
    reason="opentelemetry-instrumentation-urllib3 is not installed",
)
@pytest.mark.parametrize("is_excluded", [False, True])
def test_urllib3_s_instrumentation_makes_no_second_span_of_an_attempt(
    api, memory, monkeypatch, is_excluded
):
    from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

    if is_excluded:
        monkeypatch.setenv(EXCLUDED_OF["requests"], "/models")
    instrumentor = URLLib3Instrumentor()
    instrumentor.instrument(tracer_provider=memory.tracer_provider)
    try:
        with watching(api, memory):
            requests.get(f"{api.url}/models", timeout=5)
    finally:
        instrumentor.uninstrument()

    (span,) = memory.spans()
    assert span.instrumentation_scope.name.endswith("urllib3") is is_excluded


# -- switched off ----------------------------------------------------------------------------------


def test_a_client_whose_name_is_disabled_has_metrics_and_no_http_span(
    api, memory, anyone, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "assisters_otel")
    monkeypatch.setenv(DISABLED, f"flask, {NAMES[anyone.module.__name__]}")
    api.answers("invalid_model")
    with watching(api, memory) as telemetry:
        anyone.send("GET", f"{api.url}/models")
        made_by = {one.name: one.http_spans_by for one in telemetry.status().clients}

    assert memory.spans() == []
    assert counted(memory) == 1
    assert "traceparent" not in api.requests[0].headers
    assert made_by[anyone.module.__name__] is None
    lines = [one for one in caplog.records if DISABLED in one.getMessage()]
    assert [one.levelno for one in lines] == [logging.INFO]
    others = [one for one in ANYONE if one.module is not anyone.module]
    with watching(api, memory):
        others[0].send("GET", f"{api.url}/models")
    assert memory.attempt()


def test_its_calls_have_their_spans(api, memory, monkeypatch):
    import openai

    monkeypatch.setenv(DISABLED, "httpx,httpx2")
    with watching(api, memory), openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        client.embeddings.create(model="m", input="a", encoding_format="float")

    (span,) = memory.spans()
    assert span.attributes["assisters.call.outcome"] == "ok"


@pytest.mark.parametrize("value", ["assisters", "*", " flask ,assisters"])
def test_init_is_inert_where_the_library_s_own_name_is_disabled(
    api, memory, anyone, monkeypatch, caplog, value
):
    caplog.set_level(logging.INFO, "assisters_otel")
    monkeypatch.setenv(DISABLED, value)
    with watching(api, memory) as telemetry:
        assert not telemetry.status().active
        anyone.send("GET", f"{api.url}/models")

    assert (memory.spans(), memory.points(DURATION)) == ([], [])
    (line,) = [one for one in caplog.records if DISABLED in one.getMessage()]
    assert line.levelno == logging.INFO


AUTO = (str(Path(sys.executable).with_name("opentelemetry-instrument")),)
ZERO_CODE = """
    import asyncio
    import {module} as client
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    async def by_aiohttp():
        async with client.ClientSession() as session, session.get("{url}") as response:
            await response.read()

    kept = InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(kept))
    asyncio.run(by_aiohttp()) if "{module}" == "aiohttp" else client.get("{url}")
    print(*(span.instrumentation_scope.name for span in kept.get_finished_spans()))
"""


@pytest.mark.sampled
@pytest.mark.parametrize(("module", "name"), NAMES.items())
@pytest.mark.parametrize("is_disabled", [True, False])
def test_under_opentelemetry_instrument_the_names_mean_opentelemetry_s_own(
    api, module, name, is_disabled
):
    # Those that are called "openai" have no part in it, and to import them takes most of the time.
    variables = {DISABLED: f"openai,{name}" if is_disabled else "openai"}
    done = scripts.passed(
        ZERO_CODE.format(module=module, url=f"{api.url}/models"),
        by=AUTO,
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
        ASSISTERS_OTEL_HOSTS=api.url.partition("://")[2],
        **variables,
    )
    scope = name.replace("-", "_").replace("httpx2", "httpx")
    expected = "assisters_otel" if is_disabled else f"opentelemetry.instrumentation.{scope}"
    assert done.out.split() == [expected]
