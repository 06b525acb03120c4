"""The library's HTTP span is there for samplers, is current while its request is sent, and no more.

What the app has in its context it finds again, whatever became of the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
import trio
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import SpanKind

from callers import ANYONE, in_client
from memory import Memory, watching

DURATION = "assisters.client.request.duration"
TASKS = [one for one in ANYONE if one.run is not None]
ASYNCIO = [one for one in TASKS if "trio" not in one.name]


# -- at its start ----------------------------------------------------------------------------------


class Asked(sampling.Sampler):
    """A sampler that keeps what it is asked."""

    def __init__(self):
        self.asked = []

    def should_sample(self, parent_context, _trace_id, name, kind=None, attributes=None, *_, **__):
        current = trace.get_current_span(parent_context)
        self.asked.append((name, kind, dict(attributes or {}), current))
        return sampling.SamplingResult(sampling.Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self):
        return "Asked"


def test_a_sampler_gets_the_name_and_what_is_known_before(api, anyone, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST", "x-tier")
    sampler = Asked()
    memory = Memory(sampler=sampler)
    tracer = memory.tracer_provider.get_tracer("app")
    with watching(api, memory, strict=True), tracer.start_as_current_span("work") as work:
        anyone.send("POST", f"{api.url}/rerank?a=1", headers={"X-Tier": "gold"})

    name, kind, attributes, current = sampler.asked[-1]
    assert (name, kind) == ("POST /v1/rerank", SpanKind.CLIENT)
    agent = attributes.pop("user_agent.original", "")
    assert agent.startswith("python-requests/") is (anyone.name == "requests")
    assert attributes == {
        "http.request.method": "POST",
        "url.full": f"{api.url}/rerank?a=1",
        "url.template": "/v1/rerank",
        "server.address": "127.0.0.1",
        "server.port": api.port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": api.port,
        "http.request.header.x-tier": ["gold"],
    }
    assert current is work
    memory.shutdown()


class Raising(sampling.Sampler):
    def should_sample(self, *_, **__):
        raise KeyError("mine")

    def get_description(self):
        return "Raising"


def test_a_sampler_that_raises_costs_the_span_alone(api, anyone):
    memory = Memory(sampler=Raising())
    with watching(api, memory, strict=False):
        for _ in range(2):
            assert anyone.send("GET", f"{api.url}/models").status_code == 200

    assert memory.spans() == []
    assert memory.point(DURATION)["count"] == 2
    assert trace.get_current_span() is trace.INVALID_SPAN
    memory.shutdown()


# -- meanwhile -------------------------------------------------------------------------------------


class Body:
    """A body that notes in which context it is read, while the request is sent."""

    def __init__(self):
        self.seen = []

    def _parts(self):
        for part in (b"{", b"}"):
            self.seen.append(context.get_current())
            yield part

    def __iter__(self):
        return self._parts()

    async def __aiter__(self):
        for part in self._parts():
            yield part

    def of(self, anyone):
        """Return it in the only form that its client takes."""
        return self.__aiter__() if anyone.run else iter(self)


def id_of(within):
    return trace.get_current_span(within).get_span_context().span_id


def test_the_span_is_current_while_the_request_is_sent_and_not_afterwards(api, memory, anyone):
    body = Body()

    async def script(request):
        before = context.get_current()
        variables = dict(contextvars.copy_context())
        await request("POST", f"{api.url}/rerank", content=body.of(anyone))
        assert context.get_current() is before
        assert dict(contextvars.copy_context()) == variables

    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        with watching(api, memory, strict=True):
            in_client(anyone, script)
    finally:
        context.detach(token)

    span = memory.attempt()
    assert {id_of(one) for one in body.seen} == {span.context.span_id}
    assert [baggage.get_baggage("tenant", one) for one in body.seen] == ["acme", "acme"]


FAILING = {
    "an answer": {"codes": ("internal_error",)},
    "a dropped connection": {"fault": "drop"},
    "a timeout": {"fault": "silence"},
    "no HTTP": {"fault": "garbage"},
    "a redirect": {"redirect": "/v1/models/x"},
}


@pytest.mark.parametrize("failing", FAILING)
def test_the_app_s_context_is_its_own_after_a_failure(api, memory, anyone, failing, caplog):
    told = dict(FAILING[failing])
    api.answers(*told.pop("codes", ()), **told, times=2)
    tracer = memory.tracer_provider.get_tracer("app")

    async def script(request):
        with tracer.start_as_current_span("work") as work:
            before = context.get_current()
            variables = dict(contextvars.copy_context())
            with contextlib.suppress(anyone.broken):
                options = {"follow_redirects": True, "timeout": 0.1}
                await request("GET", f"{api.url}/models", **options)
            assert trace.get_current_span() is work
            assert context.get_current() is before
            assert dict(contextvars.copy_context()) == variables

    with watching(api, memory, strict=True):
        in_client(anyone, script)
    assert memory.attempts()
    assert "detach" not in caplog.text


@pytest.mark.parametrize("anyone", TASKS, ids=str)
def test_the_app_s_context_is_its_own_after_a_cancellation(api, memory, anyone, caplog):
    api.answers(fault="silence")
    tracer = memory.tracer_provider.get_tracer("app")

    async def script(request):
        with tracer.start_as_current_span("work"):
            before = context.get_current()
            if "trio" in anyone.name:
                with trio.move_on_after(0.1):
                    await request("GET", f"{api.url}/models")
            else:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(request("GET", f"{api.url}/models"), 0.1)
            assert context.get_current() is before

    with watching(api, memory, strict=True):
        in_client(anyone, script)
    span = memory.attempt()
    assert span.status.status_code is trace.StatusCode.UNSET
    assert not span.events
    assert "detach" not in caplog.text


@pytest.mark.parametrize("anyone", ASYNCIO, ids=str)
def test_a_coroutine_that_is_closed_in_another_context_is_no_trouble(api, memory, anyone, caplog):
    """As the garbage collector closes one that nobody awaits any more."""
    api.answers("ok")
    api.answers(fault="silence")

    async def script(request):
        await request("GET", f"{api.url}/models")  # there is a connection
        before = context.get_current()
        sending = request("GET", f"{api.url}/models")
        within = contextvars.copy_context()
        waited = within.run(sending.send, None)
        while len(api.requests) == 1:
            if waited is None:  # it lets others go on
                await asyncio.sleep(0)
            else:
                waited._asyncio_future_blocking = False  # as a task does
                await asyncio.wait([waited], timeout=1)
            waited = within.run(sending.send, None)
        with contextlib.suppress(RuntimeError):  # httpx2 still waits
            sending.close()
        assert context.get_current() is before

    with watching(api, memory, strict=True):
        in_client(anyone, script)
    assert len(memory.attempts()) == 2
    assert "detach" not in caplog.text


@pytest.mark.parametrize("fault", ["drop", "silence", None])
def test_a_middleware_may_send_in_a_task_of_its_own(api, memory, fault, caplog):
    """`asyncio.wait_for` makes one for each, before Python 3.12."""
    api.answers(fault=fault, times=2)

    async def limited(request, handler):
        task = asyncio.ensure_future(handler(request))
        await asyncio.wait([task], timeout=0.1)
        task.cancel()
        return await task

    async def main():
        async with aiohttp.ClientSession(middlewares=[limited]) as session:
            before = context.get_current()
            try:
                async with session.get(f"{api.url}/models") as response:
                    await response.read()
            except (aiohttp.ClientError, asyncio.CancelledError):
                assert fault
            else:
                assert fault is None
            assert context.get_current() is before

    with watching(api, memory, strict=True):
        asyncio.run(main())
        exemplars = {one.span_id for point in memory.points(DURATION) for one in point["exemplars"]}
    sent = {span.context.span_id for span in memory.attempts()}
    assert exemplars
    assert exemplars <= sent  # a bucket keeps one
    assert len(sent) == (2 if fault == "drop" else 1), "aiohttp sends a GET again by itself"
    assert "detach" not in caplog.text


@pytest.mark.parametrize("anyone", [one for one in ANYONE if one.run is None], ids=str)
def test_threads_that_send_at_once_each_have_their_own(api, memory, anyone):
    tracer = memory.tracer_provider.get_tracer("app")
    together = threading.Barrier(8)

    def work(_):
        body = Body()
        with tracer.start_as_current_span("work") as around:
            together.wait(10)
            anyone.send("POST", f"{api.url}/rerank", content=body.of(anyone))
            assert trace.get_current_span() is around
        return around.context.span_id, id_of(body.seen[0])

    with watching(api, memory, strict=True), ThreadPoolExecutor(8) as pool:
        pairs = list(pool.map(work, range(8)))

    assert {(span.parent.span_id, span.context.span_id) for span in memory.attempts()} == set(pairs)


@pytest.mark.parametrize("anyone", TASKS, ids=str)
def test_tasks_that_send_at_once_each_have_their_own(api, memory, anyone):
    tracer = memory.tracer_provider.get_tracer("app")
    pairs = set()

    async def script(request):
        async def work():
            body = Body()
            with tracer.start_as_current_span("work") as around:
                await request("POST", f"{api.url}/rerank", content=body.of(anyone))
                assert trace.get_current_span() is around
            pairs.add((around.context.span_id, id_of(body.seen[0])))

        if "trio" in anyone.name:
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(work)
        else:
            await asyncio.gather(*(work() for _ in range(8)))

    with watching(api, memory, strict=True):
        in_client(anyone, script)
    assert {(span.parent.span_id, span.context.span_id) for span in memory.attempts()} == pairs
    assert len(pairs) == 8


def test_an_open_body_is_read_in_the_app_s_context(api, memory, anyone):
    """The span has ended with the headers."""
    api.answers(chunked=True, chunk_delay_s=0.01)

    async def script(request):
        with memory.tracer_provider.get_tracer("app").start_as_current_span("work") as work:
            await request("POST", f"{api.url}/rerank", content=b"{}")
            assert trace.get_current_span() is work

    with watching(api, memory, strict=True):
        in_client(anyone, script)
    span = memory.attempt()
    assert span.end_time is not None
    assert "error.type" not in span.attributes
