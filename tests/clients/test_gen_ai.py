"""A GenAI instrumentation's span around the call is the call's span; there is no second.

Each in a process of its own: not all of them take out again what they have put in.
"""

from __future__ import annotations

import json

import openai
import pytest
from opentelemetry import trace

from scripts import passed

OUTCOME = "assisters.call.outcome"
MODULES = {
    "openllmetry": "opentelemetry.instrumentation.openai",
    "genai": "opentelemetry.instrumentation.genai.openai",
    "openinference": "openinference.instrumentation.openai",
}
SCRIPT = """
import asyncio, contextlib, gc, json, sys
sys.path.insert(0, {tests!r})

import httpx2
import openai
from {module} import OpenAIInstrumentor

import assisters_otel
from assisters_otel.testing import FakeApi
from memory import Memory

CHAT = {{"model": "assisters-chat-v1", "messages": [{{"role": "user", "content": "Hi."}}]}}
memory = Memory()
tracer = memory.tracer_provider.get_tracer("app")


def sync(stream):
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        answer = client.chat.completions.create(**CHAT, stream=stream)
        if stream:
            list(answer)


async def in_async(stream):
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
        answer = await client.chat.completions.create(**CHAT, stream=stream)
        if stream:
            async for _ in answer:
                pass


def dropped(stream):
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        answer = client.chat.completions.create(**CHAT, stream=True)
        next(iter(answer))
        del answer
        gc.collect()


def raw(stream):
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        list(client.chat.completions.with_raw_response.create(**CHAT, stream=True).parse())


def theirs():
    OpenAIInstrumentor().instrument(tracer_provider=memory.tracer_provider)


def told(span):
    return {{
        "id": span.context.span_id,
        "parent": span.parent and span.parent.span_id,
        "is": "attempt" if span in memory.attempts() else span.instrumentation_scope.name,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes),
        "links": [link.context.span_id for link in span.links],
    }}


def play(ask, *answers, times=1, stream=False):
    for answer in answers:
        api.answers(**answer)
    with tracer.start_as_current_span("work"):
        for _ in range(times):
            # A body that breaks off is httpx2's error in openai 3.0, and openai's own later.
            with contextlib.suppress(openai.APIError, httpx2.HTTPError):
                ask(stream)
    telemetry.flush(5)  # the end of what was collected is put off
    played = [told(span) for span in memory.spans() if span.name != "work"]
    memory.clear()
    return played


KEY = dict(status=401, code="api_key_revoked", type="authentication_error")
with FakeApi() as api:
    if {before}:
        theirs()
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ) as telemetry:
        if not {before}:
            theirs()
        seen = {{
            name: {{
                "ok": play(ask),
                "recovered": play(ask, dict(status=503, headers={{"retry-after-ms": "20"}})),
                "failed": play(ask, KEY | dict(param="model")),
                "again": play(ask, KEY, KEY, times=2),
                "stream": play(ask, stream=True),
                "dropped": play(dropped),
                "raw": play(raw),
                "broken": play(ask, dict(fault="truncate"), stream=True),
            }}
            for name, ask in dict(
                sync=sync, in_async=lambda stream: asyncio.run(in_async(stream))
            ).items()
        }}
print(json.dumps(seen, default=str))
"""


@pytest.fixture(scope="module", params=[True, False], ids=["before us", "after us"])
def before(request):
    return request.param


@pytest.fixture(scope="module", params=MODULES)
def seen(request, before, pytestconfig):
    script = SCRIPT.format(
        module=MODULES[request.param], before=before, tests=str(pytestconfig.rootpath / "tests")
    )
    return json.loads(passed(script, by=()).out.splitlines()[-1])


@pytest.fixture(params=["sync", "in_async"])
def played(request, seen):
    return seen[request.param]


def around(spans):
    """The one span around all attempts, which is not ours."""
    attempts = [one for one in spans if one["is"] == "attempt"]
    (span,) = (one for one in spans if one["is"] not in {"attempt", "assisters_otel"})
    assert not [one for one in spans if "assisters.call.outcome" in one["attributes"]][1:]
    assert {one["parent"] for one in attempts} == {span["id"]}
    return span


def test_it_says_that_the_call_is_ok(played):
    told = around(played["ok"])["attributes"]
    (attempt,) = (one for one in played["ok"] if one["is"] == "attempt")

    assert told[OUTCOME] == "ok"
    assert told["assisters.request.id"] == attempt["attributes"]["assisters.request.id"]
    assert told.get("gen_ai.provider.name") != "assisters"


def test_it_says_that_the_call_has_recovered(played):
    span = around(played["recovered"])

    assert span["attributes"][OUTCOME] == "recovered"
    assert span["attributes"]["assisters.retry.count"] == 1
    assert span["status"] != "ERROR"


def test_it_has_our_error_whatever_its_maker_writes_later(played):
    told = around(played["failed"])["attributes"]

    assert told[OUTCOME] == "failed"
    assert told["error.type"] == "authentication_error"
    assert told["error.code"] == "api_key_revoked"
    assert told["error.param"] == "model"
    assert told["assisters.error.retryable"] is False


def test_it_is_told_of_a_stream_s_end(played):
    assert around(played["stream"])["attributes"][OUTCOME] == "ok"

    told = around(played["broken"])["attributes"]
    assert told[OUTCOME] == "failed"
    assert told["error.type"] == "RemoteProtocolError"


def test_a_stream_that_nobody_closes_is_told_though_its_maker_ends_the_span(played):
    told = around(played["dropped"])["attributes"]

    assert told[OUTCOME] == "cancelled"
    assert told["assisters.stream.outcome"] == "abandoned"


def test_a_stream_whose_maker_ends_the_span_at_once_has_its_outcome_on_a_span_of_its_own(played):
    span = around(played["raw"])
    (attempt,) = (one for one in played["raw"] if one["is"] == "attempt")
    own = [one for one in played["raw"] if one["is"] == "assisters_otel"]

    assert span["attributes"]["assisters.retry.count"] == 0
    assert span["attributes"]["assisters.request.id"]
    if span["attributes"].get(OUTCOME) is not None:
        assert span["attributes"][OUTCOME] == "ok"
        assert own == []
        return
    (stream,) = own
    assert stream["attributes"]["assisters.stream.outcome"] == "completed"
    assert stream["parent"] == span["id"]
    assert stream["links"] == [attempt["id"]]


def test_a_loop_outside_goes_on_counting_over_their_spans(played):
    first, second = (one for one in played["again"] if one["is"] != "attempt")

    assert "assisters.call.resend_count" not in first["attributes"]
    assert second["attributes"]["assisters.call.resend_count"] == 1
    assert second["links"] == [first["id"]]


def test_one_span_around_several_calls_is_taken_for_the_first_alone(api, memory, telemetry):
    assert telemetry
    tracer = memory.tracer_provider.get_tracer("opentelemetry.instrumentation.openai.v1")
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k") as client,
        tracer.start_as_current_span("poll", kind=trace.SpanKind.CLIENT),
    ):
        client.models.list()
        client.models.list()

    assert memory.call().name == "GET /v1/models"
