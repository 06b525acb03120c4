"""A span may have few attributes, and the SDK drops the oldest: the code is written last of all."""

from __future__ import annotations

import httpx
import openai
import pytest
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import SpanLimits

import assisters_otel
from memory import Memory
from scripts import passed

LIMITS = [1, 3, 5, 10, 15]
HELLO = [{"role": "user", "content": "Hello"}]
LOOKED_FOR = ["error.code", "error.type", "assisters.request.id"]


@pytest.fixture(params=LIMITS)
def limit(request):
    return request.param


@pytest.fixture
def limited(api, limit):
    memory = Memory(span_limits=SpanLimits(max_span_attributes=limit))
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        capture_message=True,
        strict=True,
    ):
        yield memory
    memory.shutdown()


@pytest.fixture(params=["", "http", "http/dup"])
def _mode(request, monkeypatch):
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", request.param)
    from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability

    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)


def has_what_is_looked_for(span, limit):
    wanted = LOOKED_FOR[:limit]
    return [name for name in wanted if name in span.attributes] == wanted


@pytest.mark.sampled
@pytest.mark.usefixtures("_mode")
def test_an_attempt_s_code_is_not_what_a_limit_drops(anyone, api, limited, limit):
    api.answers("rate_limit_exceeded")
    anyone.send("GET", f"{api.url}/models")

    assert has_what_is_looked_for(limited.attempt(), limit)


@pytest.mark.sampled
@pytest.mark.parametrize("code", ["rate_limit_exceeded", "invalid_model"])
def test_nor_on_a_span_that_the_app_s_own_instrumentation_has_made(
    anyone, api, limited, limit, code
):
    instrumentors = [
        HTTPXClientInstrumentor(), HTTPX2ClientInstrumentor(),
        RequestsInstrumentor(), AioHttpClientInstrumentor(),
    ]  # fmt: skip
    for one in instrumentors:
        one.instrument(tracer_provider=limited.tracer_provider)
    try:
        api.answers(code)
        anyone.send("GET", f"{api.url}/models")
    finally:
        for one in instrumentors:
            one.uninstrument()

    assert has_what_is_looked_for(limited.attempt(), limit)


@pytest.mark.parametrize("streamed", [False, True])
def test_nor_a_call_s(api, limited, limit, streamed):
    api.answers("invalid_parameter")
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
        pytest.raises(openai.BadRequestError),
    ):
        client.chat.completions.create(model="m", messages=HELLO, stream=streamed)

    assert has_what_is_looked_for(limited.call(), limit)


def test_nor_a_stream_s_inside_a_call(api, limited, limit):
    api.answers(in_stream="model_overloaded")
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
        pytest.raises(openai.APIError),
    ):
        list(client.chat.completions.create(model="m", messages=HELLO, stream=True))

    assert has_what_is_looked_for(limited.call(), limit)


def test_nor_a_stream_s_outside_one(api, limited, limit):
    api.answers(in_stream="model_overloaded")
    httpx.post(f"{api.url}/chat/completions", json={"stream": True})

    (span,) = [one for one in limited.spans() if one.name == "assisters.stream"]
    assert has_what_is_looked_for(span, limit)


@pytest.mark.parametrize(
    "variable", ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"]
)
def test_nor_where_a_variable_sets_the_limit(variable):
    passed(
        """
        import httpx

        import assisters_otel
        from assisters_otel.testing import FakeApi
        from opentelemetry import trace
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        spans = InMemorySpanExporter()
        with FakeApi() as api, assisters_otel.init(hosts=[api.url]):
            trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
            api.answers("rate_limit_exceeded")
            httpx.get(api.url + "/models")
        (span,) = spans.get_finished_spans()
        assert len(span.attributes) == 5
        assert list(span.attributes)[-2:] == ["error.type", "error.code"]
        """,
        OTEL_METRICS_EXPORTER="none",
        OTEL_TRACES_EXPORTER="none",
        **{variable: "5"},
    )
