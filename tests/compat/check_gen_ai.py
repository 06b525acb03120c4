"""What is recorded beside another instrumentation's GenAI spans: check_gen_ai.py NAME ORDER.

It runs inside an environment that `gen_ai.py` has made, against servers on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import importlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import assisters_otel
import gen_ai_calls
from assisters_otel.testing import FakeApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OURS = "assisters_otel"
OUTCOME = "assisters.call.outcome"
STREAM = "assisters.stream.outcome"
OPERATION = "gen_ai.operation.name"
TOKENS = "gen_ai.client.token.usage"
DURATION = "gen_ai.client.operation.duration"
INFERENCES = {
    f"/v1/{path}" for path in ("chat/completions", "completions", "embeddings", "responses")
}
"""The endpoints of which each instrumentation records the calls."""

BESIDES = {"image_gen", "image_generation", "moderation", "transcription", "speech"}
"""The operations of the other endpoints, by the names of each instrumentation."""

FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
MODEL = "assisters-chat-v1"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi."}]}
ENVELOPE: dict[str, Any] = {"status": 200, "json": {"error": {"code": "internal_error"}}}
BROKEN: dict[str, Any] = {"status": 200, "body": '{"id": ', "content_type": "application/json"}

ADOPTED, INNER, OWN = "adopted", "inner", "own"
"""Whose span the call's is: the other's; the library's, which is no inference; the library's."""


class Step(NamedTuple):
    """What is asked, and how it ends.

    Attributes:
        ask: It asks.
        outcomes: The outcomes of the calls of the SDK, in their order.
        answers: What the API answers, if it is no success.
    """

    ask: Callable[[], object]
    outcomes: tuple[str, ...] = ("ok",)
    answers: tuple[dict[str, Any], ...] = ()


def by_openai(api: FakeApi) -> Iterator[Step]:
    import openai

    client = openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0)
    chat = client.chat.completions
    yield Step(lambda: chat.create(**CHAT))
    yield Step(lambda: list(chat.create(**CHAT, stream=True)))
    yield Step(lambda: chat.with_raw_response.create(**CHAT).parse())
    yield Step(lambda: list(chat.with_raw_response.create(**CHAT, stream=True).parse()))
    yield Step(lambda: client.embeddings.create(model="assisters-embed-v1", input="x"))
    yield Step(lambda: chat.create(**CHAT), ("failed",), ({"code": "invalid_model"},))
    yield Step(lambda: chat.create(**CHAT), ("failed",), (ENVELOPE,))

    async def in_async() -> None:
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as other:
            await other.chat.completions.create(**CHAT)
            async for _ in await other.chat.completions.create(**CHAT, stream=True):
                pass

    yield Step(lambda: asyncio.run(in_async()), ("ok", "ok"))


def streamed_response(client: Any, read: str, **more: Any) -> None:
    """Ask with `with_streaming_response`, and read the answer by the method *read*."""
    create = client.chat.completions.with_streaming_response.create
    with create(**CHAT, **more) as answer:
        found = getattr(answer, read)()
        for _ in found if more or read.startswith("iter") else ():
            pass


async def streamed_response_async(client: Any, read: str) -> None:
    create = client.chat.completions.with_streaming_response.create
    async with create(**CHAT) as answer:
        await getattr(answer, read)()


FORMS: dict[str, Callable[[Any, Any], object]] = {
    **{name: call for name, call in gen_ai_calls.OF_OPENAI.items() if name != "models"},
    **{
        f"streaming response, {read}": lambda client, _, read=read: streamed_response(client, read)
        for read in ("parse", "read", "json", "text", "iter_lines", "iter_bytes")
    },
    "streaming response, streamed": lambda client, _: streamed_response(
        client, "parse", **gen_ai_calls.USED
    ),
    "models": gen_ai_calls.OF_OPENAI["models"],  # it ends the call of a raw answer before it
}
"""The forms of a call of `openai`."""


def ask_in_each_form(api: FakeApi) -> None:
    """Make each form of a call, sync, and the ones that differ async."""
    import openai

    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        for call in FORMS.values():
            call(client, api)

    async def in_async() -> None:
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as other:
            chat = other.chat.completions
            (await chat.with_raw_response.create(**CHAT)).parse()
            async for _ in await chat.create(**CHAT, **gen_ai_calls.USED):
                pass
            for read in ("parse", "read", "json"):
                await streamed_response_async(other, read)
            await other.models.list()

    asyncio.run(in_async())


def by_pydantic_ai(api: FakeApi) -> Iterator[Step]:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    Agent.instrument_all()
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=api.url, api_key="ask_k"))
    agent = Agent(model)

    async def streamed() -> None:
        async with agent.run_stream("Hi.") as result:
            async for _ in result.stream_text():
                pass

    yield Step(lambda: agent.run_sync("Hi."))
    yield Step(lambda: asyncio.run(streamed()))
    yield Step(lambda: agent.run_sync("Hi."), ("failed",), ({"code": "invalid_model"},))


def by_langchain(api: FakeApi) -> Iterator[Step]:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=api.url, api_key="ask_k", model=MODEL, max_retries=0)  # type: ignore[arg-type] # as its users write it
    yield Step(lambda: model.invoke("Hi."))
    yield Step(lambda: list(model.stream("Hi.")))
    yield Step(lambda: model.batch(["a", "b"]), ("ok", "ok"))
    yield Step(lambda: asyncio.run(model.ainvoke("Hi.")))  # type: ignore[arg-type] # a coroutine
    yield Step(lambda: model.invoke("Hi."), ("failed",), (ENVELOPE,))
    yield Step(lambda: model.invoke("Ha."), ("failed",), (BROKEN,))


def by_litellm(api: FakeApi) -> Iterator[Step]:
    import litellm

    litellm.suppress_debug_info = True
    options = {**CHAT, "model": f"openai/{MODEL}", "api_base": api.url, "api_key": "ask_k"}
    options["max_retries"] = 0
    yield Step(lambda: litellm.completion(**options))
    yield Step(lambda: list(litellm.completion(**options, stream=True)))
    yield Step(lambda: asyncio.run(litellm.acompletion(**options)))
    yield Step(lambda: litellm.completion(**options), ("failed",), (ENVELOPE,))
    yield Step(lambda: litellm.completion(**options), ("failed",), (BROKEN,))


def by_agents(api: FakeApi) -> Iterator[Step]:
    import openai
    from agents import Agent, Runner
    from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel

    async def whole() -> None:
        client = openai.AsyncOpenAI(base_url=api.url, api_key="ask_k", max_retries=0)
        agent = Agent(name="a", model=OpenAIChatCompletionsModel(MODEL, client))
        await Runner.run(agent, "Hi.")
        result = Runner.run_streamed(agent, "Hi.")
        async for _ in result.stream_events():
            pass
        await client.close()

    yield Step(lambda: asyncio.run(whole()), ("ok", "ok"))


def by_instructor(api: FakeApi) -> Iterator[Step]:
    import instructor
    import openai
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str

    client = instructor.from_openai(
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0), mode=instructor.Mode.JSON
    )

    def ask() -> object:
        return client.chat.completions.create(**CHAT, response_model=Person, max_retries=2)

    yield Step(ask, ("failed", "ok"), (BROKEN, answer('{"name": "Ada"}')))
    yield Step(ask, ("ok", "ok"), (answer("no JSON"), answer('{"name": "Ada"}')))


def answer(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    found = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL}
    return {"status": 200, "json": {**found, "choices": [choice]}}


class Peer(NamedTuple):
    """One of those beside which it is tried.

    Attributes:
        play: What is asked.
        whose: Whose span a call's is.
        instrumentor: The module and class that switch it on, or None.
    """

    play: Callable[[FakeApi], Iterator[Step]]
    whose: str
    instrumentor: tuple[str, str] | None = None


_OTEL, _OPENINFERENCE = "opentelemetry.instrumentation", "openinference.instrumentation"
PEERS = {
    "openllmetry": Peer(by_openai, ADOPTED, (f"{_OTEL}.openai", "OpenAIInstrumentor")),
    "openai-v2": Peer(by_openai, ADOPTED, (f"{_OTEL}.openai_v2", "OpenAIInstrumentor")),
    "genai-openai": Peer(by_openai, ADOPTED, (f"{_OTEL}.genai.openai", "OpenAIInstrumentor")),
    "openinference": Peer(by_openai, ADOPTED, (f"{_OPENINFERENCE}.openai", "OpenAIInstrumentor")),
    "logfire": Peer(by_openai, ADOPTED),
    "langfuse": Peer(by_openai, INNER),
    "pydantic-ai": Peer(by_pydantic_ai, INNER),
    "langchain": Peer(by_langchain, OWN),
    # The spans of these two are beside the call: they are never current.
    "langchain-openinference": Peer(
        by_langchain, OWN, (f"{_OPENINFERENCE}.langchain", "LangChainInstrumentor")
    ),
    "langchain-openllmetry": Peer(
        by_langchain, OWN, (f"{_OTEL}.langchain", "LangchainInstrumentor")
    ),
    "litellm": Peer(by_litellm, OWN),
    "litellm-openinference": Peer(
        by_litellm, INNER, (f"{_OPENINFERENCE}.litellm", "LiteLLMInstrumentor")
    ),
    "agents-openinference": Peer(
        by_agents, INNER, (f"{_OPENINFERENCE}.openai_agents", "OpenAIAgentsInstrumentor")
    ),
    "agents-openllmetry": Peer(
        by_agents, INNER, (f"{_OTEL}.openai_agents", "OpenAIAgentsInstrumentor")
    ),
    "instructor": Peer(by_instructor, OWN),
}


class _Taker(http.server.BaseHTTPRequestHandler):
    """Takes what Langfuse exports."""

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def set_up(name: str, spans: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
    """Set the global providers, as the other one wants them."""
    processor = SimpleSpanProcessor(spans)
    if name == "logfire":
        import logfire

        logfire.configure(
            send_to_logfire=False,
            console=False,
            additional_span_processors=[processor],
            metrics=logfire.MetricsOptions(additional_readers=[reader]),
        )
        return
    if name == "langfuse":
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Taker)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        os.environ.update(
            LANGFUSE_PUBLIC_KEY="pk", LANGFUSE_SECRET_KEY="sk", LANGFUSE_BASE_URL=place
        )
        from langfuse import Langfuse

        importlib.import_module("langfuse.openai")
        Langfuse()
        trace.get_tracer_provider().add_span_processor(processor)  # type: ignore[attr-defined] # the SDK's
    else:
        provider = TracerProvider()
        provider.add_span_processor(processor)
        trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))


def switch_on(name: str) -> None:
    if name == "logfire":
        import logfire

        logfire.instrument_openai()
    instrumentor = PEERS[name].instrumentor
    if instrumentor is not None:
        module, kind = instrumentor
        getattr(importlib.import_module(module), kind)().instrument()


def look_at(step: Step, whose: str, spans: list[Any]) -> None:
    """Compare the spans of one step with what it must leave."""
    ours = [span for span in spans if scope_of(span) == OURS]
    others = [span for span in spans if scope_of(span) not in {OURS, "app"}]
    calls = [span for span in ours if OUTCOME in span.attributes]
    told = [(span.name, scope_of(span), dict(span.attributes)) for span in spans]
    if whose == ADOPTED:
        # A span that ends before its stream has the outcome beside it.
        written = [
            span.attributes.get(OUTCOME)
            for span in others
            if "assisters.retry.count" in span.attributes
        ]
        streams = [span.attributes[STREAM] for span in ours if STREAM in span.attributes]
        assert calls == [], told
        assert len(written) == len(step.outcomes), told
        seen = [one or ("ok" if streams.pop(0) == "completed" else "failed") for one in written]
        assert streams == [], told
    else:
        seen = [span.attributes[OUTCOME] for span in calls]
        assert not [
            one for span in others for one in span.attributes if one.startswith("assisters.")
        ]
    assert seen == list(step.outcomes), (seen, told)
    for span in calls:
        inference = {one for one in span.attributes if one.startswith("gen_ai.")} - {FIRST_CHUNK}
        assert bool(inference) == (whose == OWN), span.attributes
        assert (span.name == "assisters.call") == (whose == INNER), span.name
        if whose == OWN:
            assert span.attributes[OPERATION] == "chat"
    if ENVELOPE in step.answers:
        codes = [span.attributes.get("error.code") for span in spans]
        assert "internal_error" in codes, told


def look_at_metrics(whose: str, reader: InMemoryMetricReader, api: FakeApi) -> None:
    """Compare the metrics with the API's books: no call is recorded twice, and none is lost."""
    data = reader.get_metrics_data()
    points: dict[tuple[bool, str], list[Any]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for one in scope.metrics:
                by = scope.scope.name == OURS, one.name
                points.setdefault(by, []).extend(one.data.data_points)
    assert (True, "assisters.client.call.attempts") in points
    # A call of another endpoint may have a metric of the other's, and no span.
    recorded = {
        is_ours: sum(
            point.count
            for point in points.get((is_ours, DURATION), ())
            if point.attributes.get(OPERATION) not in BESIDES
        )
        for is_ours in (True, False)
    }
    asked = sum(one.path in INFERENCES for one in api.requests)
    if whose != OWN:
        assert recorded[True] + recorded[False] <= asked, (recorded, asked)
    if not recorded[False]:
        assert recorded[True] == asked, (recorded, asked)
    if (False, TOKENS) not in points:
        tokens = {"input": 0, "output": 0}
        for point in points.get((True, TOKENS), ()):
            tokens[point.attributes["gen_ai.token.type"]] += point.sum
        assert tokens == {
            "input": sum(one.input_tokens for one in api.usage),
            "output": sum(one.output_tokens for one in api.usage),
        }, (tokens, api.usage)


def scope_of(span: Any) -> str:
    return str(span.instrumentation_scope.name)


def check(name: str, order: str) -> None:
    peer = PEERS[name]
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    set_up(name, spans, reader)
    if order == "init last":
        switch_on(name)
    with FakeApi() as api, assisters_otel.init(hosts=[api.url], strict=True) as telemetry:
        if order == "init first":
            switch_on(name)
        for step in peer.play(api):
            for one in step.answers:
                api.answers(**one)
            spans.clear()
            with (
                trace.get_tracer("app").start_as_current_span("work"),
                contextlib.suppress(Exception),
            ):
                step.ask()
            telemetry.flush(5)
            in_order = sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)
            look_at(step, peer.whose, in_order)
            if name == "instructor":
                repeats = [span.attributes.get("assisters.call.resend_count") for span in in_order]
                assert (1 in repeats) == ("failed" in step.outcomes), repeats
        if peer.play is by_openai:
            ask_in_each_form(api)
        look_at_metrics(peer.whose, reader, api)
        assert telemetry.status().last_failure is None, telemetry.status()


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    check(*sys.argv[1:])
