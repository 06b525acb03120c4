"""A call under another instrumentation's GenAI span: who is written to, and what is no inference.

By tracers that have the other instrumentations' scopes. tests/compat/gen_ai.py has the real ones.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

import assisters
import httpx2
import openai
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation

from assisters_otel.sinks.gen_ai_span import FRAMEWORK_SCOPES, INFERENCES, SDK_SCOPES

pytestmark = pytest.mark.usefixtures("telemetry")

OUTCOME = "assisters.call.outcome"
CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "Hi."}]}
NO_INFERENCES = [
    ("gen_ai.operation.name", "execute_tool"),
    ("gen_ai.operation.name", "invoke_agent"),
    ("gen_ai.operation.name", "invoke_workflow"),
    ("gen_ai.operation.name", "create_agent"),
    ("openinference.span.kind", "AGENT"),
    ("openinference.span.kind", "TOOL"),
    ("openinference.span.kind", "CHAIN"),
    ("traceloop.span.kind", "workflow"),
    ("langfuse.observation.type", "span"),
    ("gen_ai.operation.name", ("chat",)),
    ("gen_ai.request.model", "chat"),
]

ALL_INFERENCES = [(name, one) for name, values in INFERENCES.items() for one in sorted(values)]
GEN_AI_METRICS = {
    "gen_ai.client.operation.duration",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.token.usage",
}


def chat(client):
    client.chat.completions.create(**CHAT)


def stream(client):
    list(client.chat.completions.create(**CHAT, stream=True))


@pytest.fixture
def inside(memory, api):
    """Ask inside a span of another scope; the spans but that one, and that one."""

    def ask(scope, how=chat, **attributes):
        tracer = memory.tracer_provider.get_tracer(scope)
        with (
            openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
            tracer.start_as_current_span("around", attributes=attributes),
        ):
            how(client)
        (around,) = (span for span in memory.spans() if span.name == "around")
        return around, [span for span in memory.spans() if span is not around]

    return ask


@pytest.mark.sampled
@pytest.mark.parametrize("scope", [*FRAMEWORK_SCOPES, "app", *(f"{one}x" for one in SDK_SCOPES)])
@pytest.mark.parametrize(
    ("name", "value"),
    [(name, one) for name, values in INFERENCES.items() for one in sorted(values)],
)
def test_a_framework_s_inference_is_not_written_to_and_the_call_in_it_is_none(
    inside, scope, name, value
):
    around, (attempt, call) = inside(scope, **{name: value})

    assert dict(around.attributes) == {name: value}
    assert (call.name, call.kind) == ("assisters.call", trace.SpanKind.INTERNAL)
    assert call.attributes[OUTCOME] == "ok"
    assert call.attributes["assisters.request.id"]
    assert not [one for one in call.attributes if one.startswith("gen_ai.")]
    assert call.parent.span_id == around.context.span_id
    assert attempt.parent.span_id == call.context.span_id


@pytest.mark.parametrize(("name", "value"), NO_INFERENCES)
def test_what_contains_inferences_is_none(inside, name, value):
    around, (_, call) = inside("pydantic-ai", **{name: value})

    assert dict(around.attributes) == {name: value}
    assert (call.name, call.kind) == ("chat assisters-chat-v1", trace.SpanKind.CLIENT)
    assert call.attributes["gen_ai.provider.name"] == "assisters"


def test_an_inference_that_is_not_the_direct_parent_is_not_asked(inside, memory):
    tracer = memory.tracer_provider.get_tracer("app")

    def in_a_tool(client):
        with tracer.start_as_current_span("tool"):
            chat(client)

    _, spans = inside("pydantic-ai", in_a_tool, **{"gen_ai.operation.name": "chat"})

    assert "chat assisters-chat-v1" in {span.name for span in spans}


def test_a_call_under_an_inference_has_its_failure_and_its_stream(inside, api):
    api.answers("invalid_model")

    def both(client):
        with pytest.raises(openai.BadRequestError):
            chat(client)
        stream(client)

    around, spans = inside("app", both, **{"gen_ai.operation.name": "chat"})

    first, second = (span for span in spans if span.name == "assisters.call")
    assert first.attributes["error.code"] == "invalid_model"
    assert first.status.description == "invalid_model"
    assert second.attributes["assisters.stream.outcome"] == "completed"
    assert "error.code" not in around.attributes
    assert around.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("scope", SDK_SCOPES)
def test_a_span_of_the_sdk_s_instrumentation_is_the_call_s_also_if_it_suppresses(
    inside, memory, scope
):
    def suppressed(client):
        with suppress_instrumentation():
            chat(client)

    around, spans = inside(scope, suppressed, **{"gen_ai.operation.name": "chat"})

    assert spans == []
    assert around.attributes[OUTCOME] == "ok"
    assert around.attributes["gen_ai.operation.name"] == "chat"
    assert "gen_ai.provider.name" not in around.attributes
    assert memory.point("assisters.client.call.attempts")["count"] == 1


def test_nothing_is_opened_where_a_framework_suppresses(inside, memory):
    def suppressed(client):
        with suppress_instrumentation():
            chat(client)

    around, spans = inside("pydantic-ai", suppressed, **{"gen_ai.operation.name": "chat"})

    assert spans == []
    assert dict(around.attributes) == {"gen_ai.operation.name": "chat"}
    assert memory.point("assisters.client.call.attempts")["count"] == 1


@pytest.mark.parametrize("is_suppressed", [False, True])
def test_a_stream_that_outlives_the_sdk_s_span_has_a_span_of_its_own(api, memory, is_suppressed):
    tracer = memory.tracer_provider.get_tracer("logfire.openai")
    api.answers(chunked=True, chunk_delay_s=0.05)
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        with tracer.start_as_current_span("around") as around:
            if is_suppressed:
                with suppress_instrumentation():
                    chunks = client.chat.completions.create(**CHAT, stream=True)
            else:
                chunks = client.chat.completions.create(**CHAT, stream=True)
        list(chunks)

    (own,) = (span for span in memory.spans() if span.name == "assisters.stream")
    (ended,) = (span for span in memory.spans() if span.name == "around")
    assert own.attributes["assisters.stream.outcome"] == "completed"
    assert own.attributes["assisters.request.id"] == ended.attributes["assisters.request.id"]
    assert own.parent.span_id == around.get_span_context().span_id
    assert own.start_time >= ended.start_time
    assert own.end_time >= ended.end_time
    assert own.end_time - own.start_time > 100e6, "it lives as long as the body"
    assert ended.attributes["assisters.retry.count"] == 0
    assert OUTCOME not in ended.attributes
    links = [link.context.span_id for link in own.links]
    assert links == [span.context.span_id for span in memory.attempts()]


def test_a_failing_stream_that_outlives_the_sdk_s_span_says_why(api, memory):
    tracer = memory.tracer_provider.get_tracer("logfire.openai")
    api.answers(in_stream="internal_error")
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        with tracer.start_as_current_span("around"):
            chunks = client.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(openai.APIError):
            list(chunks)

    (own,) = (span for span in memory.spans() if span.name == "assisters.stream")
    assert own.attributes["error.code"] == "internal_error"
    assert own.status.description == "internal_error"


@pytest.mark.parametrize("scope", [*SDK_SCOPES, *FRAMEWORK_SCOPES, "app"])
def test_a_metric_that_the_other_instrumentation_records_is_not_recorded_again(
    inside, memory, scope
):
    def streamed(client):
        list(
            client.chat.completions.create(
                **CHAT, stream=True, stream_options={"include_usage": True}
            )
        )

    inside(scope, streamed, **{"gen_ai.operation.name": "chat"})

    theirs = SDK_SCOPES.get(scope) or FRAMEWORK_SCOPES.get(scope, frozenset())
    assert GEN_AI_METRICS & memory.collect().keys() == GEN_AI_METRICS - theirs
    assert memory.point("assisters.client.call.attempts")["count"] == 1


READINGS = {
    "parse": lambda answer: answer.parse(),
    "json": lambda answer: answer.json(),
    "text": lambda answer: answer.text(),
    "read": lambda answer: answer.read(),
    "lines": lambda answer: list(answer.iter_lines()),
    "bytes": lambda answer: list(answer.iter_bytes(7)),
    "texts": lambda answer: list(answer.iter_text(7)),
    "the client's own bytes": lambda answer: list(answer.http_response.iter_raw(7)),
}
"""How an app may read the answer of `with_streaming_response`."""

AROUND = {
    "no span": None,
    "a span that ends before the body": "logfire.openai",
    "a span that ends after the body": "openinference.instrumentation.openai",
    "a framework's inference": "app",
}


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("reading", READINGS)
def test_the_tokens_of_a_streaming_response_are_counted_however_it_is_read(
    api, memory, reading, around, compression
):
    api.answers(chunked=True, gzip=compression is not None)
    scope = AROUND[around]
    attributes = {"gen_ai.operation.name": "chat"} if scope == "app" else {}
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
        contextlib.ExitStack() as stack,
    ):
        if scope is not None:
            span = memory.tracer_provider.get_tracer(scope).start_span(
                "around", None, attributes=attributes
            )
            stack.enter_context(trace.use_span(span))
        with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
            if around == "a span that ends before the body":
                span.end()
            READINGS[reading](answer)
        if scope is not None:
            span.end()

    (used,) = api.usage
    found = {
        point["gen_ai.token.type"]: point["sum"]
        for point in memory.points("gen_ai.client.token.usage")
    }
    assert found == {"input": used.input_tokens, "output": used.output_tokens}
    assert memory.point("assisters.client.call.attempts")[OUTCOME] == "ok"


@pytest.mark.parametrize(
    ("fault", "reading", "outcome"),
    [
        (None, lambda answer: next(answer.iter_bytes(7)), "cancelled"),
        ("truncate", lambda answer: answer.read(), "failed"),
    ],
    ids=["left", "broken off"],
)
def test_an_answer_that_did_not_come_to_its_end_has_no_record(api, memory, fault, reading, outcome):
    api.answers(chunked=True, fault=fault)

    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
        contextlib.suppress(openai.APIError, httpx2.HTTPError),
        client.chat.completions.with_streaming_response.create(**CHAT) as answer,
    ):
        reading(answer)

    call = memory.call().attributes
    assert call[OUTCOME] == outcome
    assert not [name for name in call if name.startswith(("gen_ai.response.", "gen_ai.usage."))]
    assert memory.points("gen_ai.client.token.usage") == []


def test_the_time_to_the_first_chunk_is_the_only_gen_ai_attribute_under_an_inference(inside):
    _, spans = inside("app", stream, **{"gen_ai.operation.name": "chat"})

    (call,) = (span for span in spans if span.name == "assisters.call")
    found = [one for one in call.attributes if one.startswith("gen_ai.")]
    assert found == ["gen_ai.response.time_to_first_chunk"]


def test_none_is_written_to_another_s_span(inside):
    around, _ = inside("openinference.instrumentation.openai", stream)

    assert not [one for one in around.attributes if one.startswith("gen_ai.")]
    assert around.attributes["assisters.stream.outcome"] == "completed"


@pytest.mark.parametrize("scope", SDK_SCOPES)
def test_a_raw_answer_s_call_is_on_another_s_span_though_it_is_parsed_later(api, memory, scope):
    """Such a span ends when the SDK returns."""
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        with memory.tracer_provider.get_tracer(scope).start_as_current_span("around"):
            answer = client.chat.completions.with_raw_response.create(**CHAT)
        assert answer.parse()

    (around,) = (span for span in memory.spans() if span.name == "around")
    assert around.attributes[OUTCOME] == "ok"


@pytest.fixture
def langfuse(monkeypatch):
    monkeypatch.setitem(sys.modules, "langfuse.openai", ModuleType("langfuse.openai"))


@pytest.mark.usefixtures("langfuse")
def test_a_call_that_langfuse_records_is_no_second_inference(api, memory):
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        chat(client)
        client.embeddings.create(model="assisters-embed-v1", input="x")
        client.models.list()

    assert [span.name for span in memory.calls()] == [
        "assisters.call",
        "assisters.call",
        "GET /v1/models",
    ]


@pytest.mark.usefixtures("langfuse")
def test_langfuse_records_no_call_of_another_sdk(api, memory):
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        client.chat.completions.create(**CHAT)

    assert memory.call().name == "chat assisters-chat-v1"


def test_a_repeat_under_a_framework_s_inference_is_marked(inside, api):
    api.answers("internal_error")

    def twice(client):
        with pytest.raises(openai.InternalServerError):
            chat(client)
        chat(client)

    _, spans = inside("pydantic-ai", twice, **{"gen_ai.operation.name": "chat"})

    first, second = (span for span in spans if span.name == "assisters.call")
    assert second.attributes["assisters.call.resend_count"] == 1
    assert [link.context for link in second.links] == [first.context]
