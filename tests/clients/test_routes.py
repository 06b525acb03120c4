"""A route is what all requests of one method and one URL have in common, whoever sends them."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import httpx
import httpx2
import openai
import pytest

import assisters_otel
from assisters_otel.api.headers import known_headers, known_lower_headers, with_lower_names
from assisters_otel.api.request import ApiRequest
from assisters_otel.clients import http_variables
from assisters_otel.clients.http_span import HttpSpans
from assisters_otel.clients.httpx.request_reader import lower_headers, route_key
from assisters_otel.clients.routes import Routes
from assisters_otel.hosts import Host

HOSTS = (Host("api.assisters.dev"),)
PATH = "/v1/models"
URL = f"https://api.assisters.dev{PATH}"


def route(url, memory, template=PATH):
    request = ApiRequest("GET", PATH, template, "api.assisters.dev", 443)
    return HttpSpans(http_variables.read("HTTPX"), memory.tracer_provider).route(
        HOSTS, request, url, 443
    )


def test_a_route_is_found_again_for_the_same_hosts_alone(memory):
    routes = Routes()
    routes.keep(("GET", URL), route(URL, memory))

    assert routes.find(("GET", URL), HOSTS).url == URL
    assert routes.find(("GET", URL), (Host("api.assisters.dev"),)) is None
    assert routes.find(("POST", URL), HOSTS) is None


@pytest.mark.parametrize(
    ("url", "template"),
    [
        (f"{URL}?after=3", PATH),
        ("https://api.assisters.dev/v1/agent/stream?q=secret+wish", "/v1/agent/stream"),
        ("https://user:word@api.assisters.dev/v1/models", PATH),
        (f"{URL}/ask_0123456789abcdef", "/v1/models/{id}"),
        (f"{URL}/{'a' * 600}", "/v1/models/{id}"),
    ],
)
def test_a_url_that_is_one_user_s_is_not_remembered(memory, url, template):
    routes = Routes()
    routes.keep(("GET", url), route(url, memory, template))

    assert routes.find(("GET", url), HOSTS) is None


def test_a_route_s_attributes_are_as_they_were_after_a_sampler_has_written_to_them(memory):
    made = route(URL, memory)
    before = dict(made.span_start.attributes)

    own = HttpSpans(http_variables.read("HTTPX"), memory.tracer_provider).start(
        made, SimpleNamespace()
    )
    own.span.set_attribute("a", 1)
    own.span.end()

    assert made.span_start.attributes == before


def test_no_more_routes_are_remembered_than_a_few_hundred(memory):
    routes = Routes()
    made = [route(f"{URL}/{number}", memory, "/v1/models/{id}") for number in range(300)]
    for one in made:
        routes.keep(one.url, one)

    assert routes.find(made[-1].url, HOSTS) is made[-1]
    assert routes.find(made[0].url, HOSTS) is None


@pytest.mark.parametrize(
    ("path", "is_remembered"),
    [
        ("/models/assisters-chat-v1", True),
        ("/models/assisters-chat-v1?note=secret+wish", False),
        (f"/models/{'a' * 130}", False),
        ("/nosuch", False),
    ],
)
def test_nor_is_that_of_a_call(api, telemetry, path, is_remembered):
    calls = telemetry._instrumentation.recorder.calls
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        for _ in range(2):
            with contextlib.suppress(openai.APIStatusError):
                client.get(path, cast_to=object)

    assert [key[-1].endswith(path) for key in calls._places] == [True] * is_remembered


def test_a_host_that_is_watched_no_more_has_no_spans_by_an_earlier_route(api, memory):
    def watching(*hosts):
        return assisters_otel.init(
            hosts=hosts,
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        )

    with httpx.Client(trust_env=False) as client:
        with watching(api.url):
            client.get(f"{api.url}/models")
            client.get(f"{api.url}/models")
        with watching(api.url.replace("/v1", "/v2")):
            client.get(f"{api.url}/models")

    assert len(memory.spans()) == 2


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_headers_are_the_same_without_httpx_s_own_list(module):
    sent = [
        ("X-Request-ID", "req_1"),
        ("x-request-id", "req_2"),
        ("Content-Encoding", "gzip"),
        ("Content-Length", "3"),
        ("content-encoding", "br"),
        ("Set-Cookie", "a"),
    ]
    headers = module.Headers(sent)
    public = SimpleNamespace(raw=headers.raw)

    assert lower_headers(headers) is headers._list, "no other one is made of it"
    assert lower_headers(headers) == lower_headers(public) == with_lower_names(headers.raw)
    assert known_lower_headers(lower_headers(headers)) == known_headers(headers.raw)
    assert known_headers(headers.raw) == {
        b"x-request-id": b"req_1",
        b"content-encoding": b"gzip,br",
        b"content-length": b"3",
    }
    assert list(lower_headers(module.Headers())) == []


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_key_has_the_whole_url_and_the_method(module):
    keys = [
        route_key(method, module.URL(url))
        for method in ("GET", "POST")
        for url in (URL, f"{URL}?a=1", URL.replace("https", "http"), URL.replace(".dev", ".dev:8"))
    ]

    assert len(set(keys)) == 8
    assert route_key("GET", module.URL(URL)) == keys[0]
    assert route_key("GET", URL) == ("GET", URL)
