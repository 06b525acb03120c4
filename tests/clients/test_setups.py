"""The same attributes, whoever switched the HTTP instrumentation on, when, and in which mode."""

from __future__ import annotations

import contextlib
import functools
from unittest import mock

import httpx
import httpx2
import pytest
import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation import httpx as otel
from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import assisters_otel
from memory import Memory
from scripts import passed

INSTRUMENTORS = {"httpx": otel.HTTPXClientInstrumentor, "httpx2": otel.HTTPX2ClientInstrumentor}
WRAPPERS = {
    ("httpx", False): otel.SyncOpenTelemetryTransport,
    ("httpx", True): otel.AsyncOpenTelemetryTransport,
    ("httpx2", False): otel.SyncOpenTelemetryTransportHttpx2,
    ("httpx2", True): otel.AsyncOpenTelemetryTransportHttpx2,
}


@pytest.fixture(params=["", "http", "http/dup"])
def mode(request, monkeypatch):
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", request.param)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    yield request.param
    monkeypatch.undo()
    _OpenTelemetrySemanticConventionStability._initialized = False


@pytest.fixture
def setup(api, memory, caller):
    """What the set-ups below need: ours, the app's, and what to undo."""
    with contextlib.ExitStack() as stack:
        yield Setup(api, memory, caller, stack)


class Setup:
    def __init__(self, api, memory, caller, stack):
        self.api, self.memory, self.caller, self.stack = api, memory, caller, stack
        self.instrumentor = INSTRUMENTORS[caller.module.__name__]()
        self.options = {
            "tracer_provider": memory.tracer_provider,
            "meter_provider": memory.meter_provider,
        }
        self.seen = []
        self.client = caller.client

    def ours(self):
        self.stack.enter_context(
            assisters_otel.init(hosts=[self.api.url], strict=True, **self.options)
        )

    def theirs(self, **hooks):
        self.instrumentor.instrument(**self.options, **hooks)
        self.stack.callback(self.not_theirs)

    def not_theirs(self):
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()

    def hooks(self):
        def request_hook(span, _request):
            self.seen.append("request")
            span.set_attribute("mine", "kept")

        def response_hook(_span, _request, _response):
            self.seen.append("response")

        async def async_request_hook(span, request):
            request_hook(span, request)

        async def async_response_hook(span, request, response):
            response_hook(span, request, response)

        return {
            "request_hook": request_hook,
            "response_hook": response_hook,
            "async_request_hook": async_request_hook,
            "async_response_hook": async_response_hook,
        }


def by_us(setup):
    setup.ours()


def before_us(setup):
    setup.theirs()
    setup.ours()


def after_us(setup):
    setup.ours()
    setup.theirs()


def after_us_and_again(setup):
    setup.ours()
    setup.theirs()
    setup.not_theirs()
    setup.theirs()


def before_us_and_off(setup):
    setup.theirs()
    setup.ours()
    setup.not_theirs()


def with_hooks_before_us(setup):
    setup.theirs(**setup.hooks())
    setup.ours()


def with_hooks_after_us(setup):
    setup.ours()
    setup.theirs(**setup.hooks())


def instrumented_client(setup):
    client = setup.caller.client()
    hooks = setup.hooks()
    prefix = "async_" if setup.caller.run else ""
    setup.instrumentor.instrument_client(
        client,
        **setup.options,
        request_hook=hooks[f"{prefix}request_hook"],
        response_hook=hooks[f"{prefix}response_hook"],
    )
    return client


def one_client_after_us(setup):
    setup.ours()
    setup.client = lambda: instrumented_client(setup)


def one_client_before_us(setup):
    """Its transport has what the class had before us."""
    client = instrumented_client(setup)
    setup.ours()
    setup.client = lambda: client


def a_transport_of_opentelemetry_s(setup):
    setup.ours()
    wrapper = WRAPPERS[setup.caller.module.__name__, setup.caller.run is not None]
    setup.client = lambda: setup.caller.client(
        transport=wrapper(setup.caller.transport(), **setup.options)
    )


def client_before_us(setup):
    client = setup.caller.client()
    setup.ours()
    setup.client = lambda: client


def under_somebody_else_s_wrapper(setup):
    transport = setup.caller.module.HTTPTransport
    asynchronous = setup.caller.module.AsyncHTTPTransport

    @wrapt.decorator
    def wrapper(wrapped, _instance, args, kwargs):
        return wrapped(*args, **kwargs)

    for owner, name in ((transport, "handle_request"), (asynchronous, "handle_async_request")):
        before = vars(owner)[name]
        setattr(owner, name, wrapper(before))
        setup.stack.callback(setattr, owner, name, before)
    setup.ours()


OURS = {by_us, before_us_and_off, client_before_us, under_somebody_else_s_wrapper}
"""Where the span is the library's, which follows the stable conventions in every mode."""

HOOKED = {
    with_hooks_before_us,
    with_hooks_after_us,
    one_client_after_us,
    one_client_before_us,
}


@pytest.mark.sampled
@pytest.mark.parametrize(
    "order",
    [
        by_us,
        before_us,
        after_us,
        after_us_and_again,
        before_us_and_off,
        with_hooks_before_us,
        with_hooks_after_us,
        one_client_after_us,
        one_client_before_us,
        a_transport_of_opentelemetry_s,
        client_before_us,
        under_somebody_else_s_wrapper,
    ],
)
def test_the_set_up_makes_no_difference(setup, mode, order):
    order(setup)
    if order in OURS:
        mode = "http"
    setup.api.answers(
        "rate_limit_exceeded",
        param="model",
        retry_after="2",
        request_id="req_1",
        headers={
            "x-processing-time-ms": "4",
            "x-ratelimit-reset-rpm": None,
            "x-ratelimit-reset-tpm": None,
        },
    )
    setup.api.answers("ok", request_id="req_2", headers={"x-processing-time-ms": "8"})

    async def script(at):
        await at.request("POST", setup.api.url + "/embeddings", json={})
        await at.request("POST", setup.api.url + "/embeddings", json={})

    setup.caller.use(setup.client(), script)

    failed, fine = setup.memory.attempts()
    url = setup.api.url + "/embeddings"
    extra = {"mine": "kept"} if order in HOOKED else {}
    network = {
        "http.request.method": "POST",
        "url.full": url,
        "server.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "server.port": setup.api.port,
        "network.peer.port": setup.api.port,
        "network.protocol.version": "1.1",
    }
    old = {"http.method": "POST", "http.url": url}
    both = {"http.flavor": "1.1", "http.host": "127.0.0.1", "net.peer.port": setup.api.port}
    before = {"": old, "http": network, "http/dup": old | network | both}[mode]

    def statuses(status):
        new = {"http.response.status_code": status}
        return {"": {"http.status_code": status}, "http": new}.get(
            mode, {"http.status_code": status} | new
        )

    assert dict(failed.attributes) == before | statuses(429) | extra | {
        "url.template": "/v1/embeddings",
        "assisters.request.id": "req_1",
        "http.response.header.x-request-id": ("req_1",),
        "assisters.server.duration": 0.004,
        "error.type": "rate_limit_error",
        "error.code": "rate_limit_exceeded",
        "error.param": "model",
        "assisters.error.retryable": True,
        "assisters.retry_after": 2.0,
        "assisters.ratelimit.requests.limit": 1000,
        "assisters.ratelimit.requests.remaining": 0,
        "assisters.ratelimit.tokens.limit": 100000,
        "assisters.ratelimit.tokens.remaining": 0,
    }
    assert failed.name == "POST /v1/embeddings"
    assert failed.status.description == "rate_limit_exceeded"
    told = dict(fine.attributes)
    assert 0 <= told.pop("assisters.retry.delay") < 60
    assert told == before | statuses(200) | extra | {
        "http.request.resend_count": 1,
        "assisters.retry.reason": "rate_limit_exceeded",
        "assisters.retry.early": True,
        "assisters.retry.futile": False,
        "url.template": "/v1/embeddings",
        "assisters.request.id": "req_2",
        "http.response.header.x-request-id": ("req_2",),
        "assisters.server.duration": 0.008,
    }
    assert [link.context for link in fine.links] == [failed.context]
    assert setup.seen == (["request", "response"] * 2 if order in HOOKED else [])
    assert setup.memory.collect()["assisters.client.errors"][0]["value"] == 1


@pytest.mark.sampled
@pytest.mark.parametrize("order", [by_us, before_us, after_us, with_hooks_before_us])
@pytest.mark.parametrize("fault", [None, "truncate", "drop"])
def test_an_agent_s_prompt_is_exported_in_no_mode(setup, mode, order, fault, caplog):
    order(setup)
    setup.api.answers("ok", fault=fault)
    url = f"{setup.api.url}/agent/stream?prompt=planted-prompt"

    with contextlib.suppress(httpx.TransportError, httpx2.TransportError):
        setup.caller.send("GET", url, client=setup.client())

    told = "".join(span.to_json() for span in setup.memory.spans())
    assert "/agent/stream?REDACTED" in told, mode
    assert "planted" not in told + caplog.text + str(setup.memory.collect())
    streamed = [span for span in setup.memory.spans() if span.name == "assisters.stream"]
    assert len(streamed) == (fault != "drop")


@pytest.mark.parametrize("switched_on", [by_us, before_us, after_us])
def test_an_excluded_url_has_metrics_only(setup, monkeypatch, switched_on):
    monkeypatch.setenv("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "/models")
    switched_on(setup)
    setup.api.answers("api_key_revoked")
    tracer = setup.memory.tracer_provider.get_tracer("app")

    with tracer.start_as_current_span("work") as span:
        setup.caller.send("GET", setup.api.url + "/models")
        assert span.attributes == {}

    assert setup.memory.attempts() == []
    assert setup.memory.point("assisters.client.errors")["error.code"] == "api_key_revoked"


def test_an_excluded_request_does_not_write_to_the_span_around_it(setup, monkeypatch):
    """A transport that asks the API for something before it answers the app's own request."""
    monkeypatch.setenv("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "/v1/models")
    setup.ours()
    setup.theirs()
    setup.api.answers("api_key_revoked")
    module, url = setup.caller.module, setup.api.url + "/models"

    class Asking(module.BaseTransport):
        def handle_request(self, _request):
            with module.Client(trust_env=False) as client:
                assert client.get(url).status_code == 401
            return module.Response(204)

    wrapper = WRAPPERS[module.__name__, False]
    with module.Client(transport=wrapper(Asking(), **setup.options)) as client:
        client.get("http://elsewhere.example/start")

    span = setup.memory.attempt()
    assert span.attributes["http.url"] == "http://elsewhere.example/start"
    assert "error.code" not in span.attributes
    assert setup.memory.point("assisters.client.errors")["error.code"] == "api_key_revoked"


def test_a_transport_that_retries_inside_one_span_exports_the_last_attempt(setup):
    """RetryTransport inside OpenTelemetry's: one HTTP span, two attempts."""
    setup.ours()
    setup.api.answers("model_overloaded", "ok")
    module, inner = setup.caller.module, setup.caller.transport()
    asynchronous = setup.caller.run is not None

    if asynchronous:

        class Retrying(module.AsyncBaseTransport):
            async def handle_async_request(self, request):
                first = await inner.handle_async_request(request)
                await first.aclose()
                return await inner.handle_async_request(request)

            async def aclose(self):
                await inner.aclose()

    else:

        class Retrying(module.BaseTransport):
            def handle_request(self, request):
                inner.handle_request(request).close()
                return inner.handle_request(request)

            def close(self):
                inner.close()

    wrapper = WRAPPERS[module.__name__, asynchronous]
    client = setup.caller.client(transport=wrapper(Retrying(), **setup.options))
    setup.caller.send("GET", setup.api.url + "/models", client=client)

    span = setup.memory.attempt()
    assert "error.type" not in span.attributes
    assert span.status.status_code is trace.StatusCode.UNSET
    assert setup.memory.point("assisters.client.errors")["value"] == 1


def test_a_sync_hook_of_the_app_s_that_raises_is_still_the_app_s(setup):
    def request_hook(_span, _request):
        raise KeyError("mine")

    async def async_request_hook(_span, _request):
        raise KeyError("mine")

    setup.theirs(request_hook=request_hook, async_request_hook=async_request_hook)
    setup.ours()

    with pytest.raises(KeyError, match="mine"):
        setup.caller.send("GET", setup.api.url + "/models")


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_shutdown_puts_the_very_same_functions_back(module, memory):
    methods = [
        (module.HTTPTransport, "handle_request"),
        (module.AsyncHTTPTransport, "handle_async_request"),
    ]
    before = [vars(owner)[name] for owner, name in methods]

    for _ in range(2):
        with assisters_otel.init(
            tracer_provider=memory.tracer_provider, meter_provider=memory.meter_provider
        ):
            for (owner, name), function in zip(methods, before, strict=True):
                assert vars(owner)[name].__wrapped__ is function
        for (owner, name), function in zip(methods, before, strict=True):
            assert vars(owner)[name] is function


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_shutdown_leaves_the_app_s_instrumentation_on(module, memory):
    providers = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    instrumentor = INSTRUMENTORS[module.__name__]()
    before = vars(module.HTTPTransport)["handle_request"]

    ours = assisters_otel.init(**providers)
    instrumentor.instrument(**providers)
    ours.shutdown()
    layer = vars(module.HTTPTransport)["handle_request"]
    assert isinstance(layer, wrapt.FunctionWrapper)
    assert layer.__wrapped__ is before
    instrumentor.uninstrument()
    assert vars(module.HTTPTransport)["handle_request"] is before


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_the_app_may_take_its_own_out_before_us(module, memory):
    providers = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    instrumentor = INSTRUMENTORS[module.__name__]()
    before = vars(module.HTTPTransport)["handle_request"]

    instrumentor.instrument(**providers)
    ours = assisters_otel.init(**providers)
    instrumentor.uninstrument()
    ours.shutdown()

    assert vars(module.HTTPTransport)["handle_request"] is before


def test_what_somebody_else_has_kept_of_us_sends_on_and_watches_nothing(api, memory):
    kept = []
    providers = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    before = vars(httpx.HTTPTransport)["handle_request"]
    with assisters_otel.init(hosts=[api.url], **providers):
        ours = vars(httpx.HTTPTransport)["handle_request"]

        @functools.wraps(ours)
        def closure(self, request):
            kept.append(request)
            return ours(self, request)

        httpx.HTTPTransport.handle_request = closure
    try:
        assert httpx.get(api.url + "/models").status_code == 200
    finally:
        httpx.HTTPTransport.handle_request = before

    assert len(kept) == 1
    assert memory.spans() == []


def test_a_span_processor_that_raises_does_not_hide_the_app_s_exception(api, caller):
    """On an attempt whose span we switched on; on one of the app's it is the app's own."""

    class Raising(SpanProcessor):
        def on_end(self, _span):
            raise RuntimeError("a processor's")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Raising())
    api.answers(fault="drop")
    with assisters_otel.init(
        hosts=[api.url], tracer_provider=provider, meter_provider=NoOpMeterProvider()
    ) as telemetry:
        with pytest.raises(caller.module.TransportError):
            caller.send("GET", api.url + "/models")
        assert caller.send("GET", api.url + "/models").status_code == 200
        assert telemetry.status().last_failure == "RuntimeError: a processor's"

    assert len(api.requests) == 2


def test_a_sampled_out_attempt_is_counted_once_by_the_http_instrumentation(api, caller):
    memory = Memory(sampler=ALWAYS_OFF)
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    wrapper = WRAPPERS[caller.module.__name__, caller.run is not None]
    with assisters_otel.init(hosts=[api.url], strict=True, **options):
        client = caller.client(transport=wrapper(caller.transport(), **options))
        caller.send("GET", api.url + "/models", client=client)

    assert memory.point("http.client.duration")["count"] == 1
    memory.shutdown()


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_mock_in_the_transport_s_place_gets_what_it_got(api, memory, module):
    """At init, at shutdown, and beyond it."""
    providers = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    before = vars(module.HTTPTransport)["handle_request"]
    answer = module.Response(200)

    with mock.patch.object(module.HTTPTransport, "handle_request", return_value=answer) as mocked:
        with assisters_otel.init(hosts=[api.url], **providers):
            assert module.get(api.url + "/models", trust_env=False).status_code == 200
        assert len(mocked.call_args.args) == 1
    first = assisters_otel.init(hosts=[api.url], **providers)
    with mock.patch.object(module.HTTPTransport, "handle_request", return_value=answer):
        first.shutdown()
    with assisters_otel.init(hosts=[api.url], **providers) as again:
        module.get(api.url + "/models", trust_env=False)
        assert again.status().attempts == 1

    assert vars(module.HTTPTransport)["handle_request"] is before


def test_a_client_that_was_instrumented_before_us_is_as_before_after_us(api, memory, caller):
    client = caller.client()
    module = caller.module
    kind, name = (
        (module.AsyncHTTPTransport, "handle_async_request")
        if caller.run
        else (module.HTTPTransport, "handle_request")
    )
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    INSTRUMENTORS[module.__name__].instrument_client(client, **options)
    layer, original = vars(client._transport)[name], vars(kind)[name]
    with assisters_otel.init(hosts=[api.url], strict=True, **options) as telemetry:
        assert layer.__wrapped__.__func__ is not original
    assert vars(client._transport)[name] is layer
    assert layer.__wrapped__.__func__ is original
    assert vars(kind)[name] is original

    caller.send("GET", api.url + "/models", client=client)
    assert telemetry.status().attempts == 0
    assert len(memory.attempts()) == 1


IMPORTS = """
import sys

import assisters_otel
from assisters_otel.testing import FakeApi
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

with FakeApi() as api:
    telemetry = assisters_otel.init(
        hosts=[api.url],
        tracer_provider=TracerProvider(),
        meter_provider=MeterProvider(),
        strict=True,
    )
    assert "{client}" not in sys.modules
    from opentelemetry.instrumentation.{module} import {instrumentor}

    if {on}:
        {instrumentor}().instrument(tracer_provider=TracerProvider())
    import {client}

    {send}
    (client,) = [c for c in telemetry.status().clients if c.name == "{client}"]
    print(client.http_spans_by, telemetry.status().attempts, telemetry.status().last_failure)
"""
GETS = {
    "requests": "requests.get(api.url + '/models')",
    "aiohttp": (
        "import asyncio; from contextlib import suppress\n"
        "    async def get():\n"
        "        async with aiohttp.request('GET', api.url + '/models'): pass\n"
        "    asyncio.run(get())"
    ),
}


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize(
    ("client", "module", "instrumentor"),
    [
        ("requests", "requests", "RequestsInstrumentor"),
        ("aiohttp", "aiohttp_client", "AioHttpClientInstrumentor"),
    ],
)
def test_an_instrumentation_that_imports_its_client_after_us_is_no_trouble(
    client, module, instrumentor, on
):
    done = passed(
        IMPORTS.format(
            client=client, module=module, instrumentor=instrumentor, on=on, send=GETS[client]
        )
    )

    by = "the application" if on else "assisters_otel"
    assert done.out.split("\n")[0] == f"{by} 1 None"
