"""A request of aiohttp's that has ended keeps nothing of the app's alive, however it has ended.

asyncio copies the context of a request into the handles of its connection, which stays in the pool,
and into each task that the app starts meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import warnings
import weakref

import aiohttp
import pytest
from aiohttp.client_reqrep import ClientResponse
from opentelemetry.instrumentation.aiohttp_client import create_trace_config

from assisters_otel.testing import FakeApi
from memory import watching


class Document(dict):
    """The app's JSON, its headers or its context of tracing."""


class File(io.BytesIO):
    pass


class Payload(aiohttp.BytesPayload):
    pass


BODIES = {
    "json": lambda: {"json": Document(a=1)},
    "a file": lambda: {"data": File(b"x" * 1000)},
    "a payload": lambda: {"data": Payload(b"x" * 1000)},
}


class Own(ClientResponse):
    """Is started without the library."""

    async def start(self, connection):
        return await ClientResponse.start.__wrapped__(self, connection)


async def _middleware(request, handler):
    return await asyncio.create_task(handler(request))


async def _hedge(request, handler):
    """Send a second attempt beside the first, and leave the first in flight."""
    first = asyncio.create_task(handler(request))
    first.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.sleep(0.05)
    asyncio.get_running_loop().call_later(0.1, first.cancel)
    return await handler(request)


ENDS = {
    "a success": ({}, {}),
    "a failure": ({"code": "internal_error"}, {}),
    "a failure that the session raises": ({"code": "internal_error"}, {"raise_for_status": True}),
    "an exception": ({"fault": "drop", "times": 2}, {}),
    "a redirect": ({"redirect": "/v1/models"}, {}),
    "too many redirects": ({"redirect": "/v1/models", "times": 3}, {"max_redirects": 2}),
    "a cancellation": ({"fault": "silence"}, {}),
    "a time-out": ({"fault": "silence"}, {"timeout": aiohttp.ClientTimeout(total=0.1)}),
    "a body that breaks off": ({"status": 500, "fault": "truncate", "size": 1000}, {}),
    "a middleware's task": ({}, {"middlewares": [_middleware]}),
    "a middleware's second attempt": ({"fault": "silence"}, {"middlewares": [_hedge]}),
}


def keeping_tasks(tasks):
    """Return a tracing of the app's that starts a task at each step of a request."""

    async def start(*_):
        tasks.append(asyncio.create_task(asyncio.sleep(60)))

    tracing = aiohttp.TraceConfig()
    tracing.on_request_start.append(start)
    tracing.on_request_headers_sent.append(start)
    return tracing


async def alive_after(session, url, body, options):
    """Send a request and return the names of what is alive of it when it has ended."""
    kept = {}

    async def send():
        asked = {**BODIES[body](), "headers": Document(A="b"), "trace_request_ctx": Document()}
        kept.update({name: weakref.ref(one) for name, one in asked.items()})
        try:
            sending = session.post(url, **asked, **options)
            async with await asyncio.wait_for(sending, 0.4) as response:
                kept["response"] = weakref.ref(response)
                await response.read()
        except asyncio.TimeoutError:
            pass  # of C, without weak references
        except aiohttp.ClientError as error:
            kept["exception"] = weakref.ref(error)

    await send()
    await asyncio.sleep(0.15)  # until a middleware's other attempt has ended
    gc.collect()
    return [name for name, one in kept.items() if one() is not None]


def alive_after_the_end(api, end, body, *tracing):
    """Send one request by a session that keeps the tasks made meanwhile; what of it is alive."""
    answer, options = ENDS[end]

    async def main():
        tasks = []
        configs = [*tracing, keeping_tasks(tasks)]
        async with aiohttp.ClientSession(trace_configs=configs) as session:
            api.answers(**answer)
            alive = await alive_after(session, f"{api.url}/embeddings", body, options)
            assert tasks
            for task in tasks:
                task.cancel()
            return alive

    return asyncio.run(main())


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("end", ENDS)
def test_of_a_request_that_has_ended_nothing_is_alive(api, memory, end, body):
    bare = alive_after_the_end(api, end, body)
    with watching(api, memory):
        assert alive_after_the_end(api, end, body) == bare


@pytest.mark.parametrize("end", ENDS)
def test_of_a_request_with_the_app_s_span_nothing_is_alive(api, memory, end):
    def theirs():
        return create_trace_config(tracer_provider=memory.tracer_provider)

    bare = alive_after_the_end(api, end, "json", theirs())
    with watching(api, memory):
        assert alive_after_the_end(api, end, "json", theirs()) == bare


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("end", ["a success", "a failure", "an exception", "a cancellation"])
def test_a_redirect_from_elsewhere_leaves_nothing_in_the_task_s_context(api, memory, end, body):
    answer, options = ENDS[end]

    async def main():
        before = set(contextvars.copy_context())
        async with aiohttp.ClientSession() as session:
            alive = await alive_after(session, f"{elsewhere}/embeddings", body, options)
            return alive, set(contextvars.copy_context()) - before

    with FakeApi() as other, watching(api, memory):
        for _ in range(1 + answer.get("times", 1)):
            other.answers(redirect=f"{api.url}/embeddings", status=307)
        api.answers(**answer)
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        assert asyncio.run(main()) == ([], set())
    assert memory.attempts()


def test_redirects_from_elsewhere_do_not_pile_up_in_a_task(api, memory):
    """Their response class reads the headers by itself, so that no step ends the attempt."""

    async def main():
        kept = []
        async with aiohttp.ClientSession(response_class=Own) as session:
            for _ in range(5):
                payload = Payload(b"x" * 1000)
                kept.append(weakref.ref(payload))
                async with session.post(f"{elsewhere}/embeddings", data=payload) as response:
                    await response.read()
                del payload, response
            gc.collect()
            return sum(one() is not None for one in kept)

    with FakeApi() as other, watching(api, memory):
        other.answers(redirect=f"{api.url}/embeddings", status=307, times=5)
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        assert asyncio.run(main()) <= 1


@pytest.mark.parametrize("end", ["a success", "a failure", "a redirect"])
def test_a_session_that_the_app_drops_is_said_to_be_unclosed(api, memory, end):
    async def send():
        session = aiohttp.ClientSession()
        async with session.post(f"{api.url}/embeddings", json={"a": 1}) as response:
            await response.read()
        return weakref.ref(session), weakref.ref(session.connector)

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # a log would hold it
        api.answers(**ENDS[end][0])
        texts = set()

        def show(message, *_args, **_more):  # a record of `warnings` would hold the session
            texts.add(str(message).partition(" <")[0])

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            kept = await send()
            await asyncio.sleep(0)
            gc.collect()
        return [one() for one in kept], texts

    asyncio.run(main())  # what is said of the first may come from elsewhere
    with watching(api, memory):
        alive, texts = asyncio.run(main())
    assert alive == [None, None]
    assert {"Unclosed client session", "Unclosed connector"} <= texts


def test_during_a_request_nothing_is_alive_that_the_session_has_left(api, memory):
    """A redirect by 303 has no body any more."""
    seen = []

    async def main(body):
        async def look(*_):
            gc.collect()
            seen[-1].append(body() is not None)

        tracing = aiohttp.TraceConfig()
        tracing.on_request_end.append(look)
        async with aiohttp.ClientSession(trace_configs=[tracing]) as session:
            made = File(b"x" * 1000)
            body = weakref.ref(made)
            sending = session.post(f"{api.url}/embeddings", data=made)
            del made
            async with sending as response:
                await response.read()

    def run():
        seen.append([])
        api.answers(redirect="/v1/models", status=303)
        asyncio.run(main(None))
        return seen[-1]

    bare = run()
    with watching(api, memory):
        assert run() == bare


def test_what_ends_after_its_request_leaves_nothing_in_it(api, memory):
    """A middleware's attempt is in flight, and its exception comes behind the request's end."""
    found = []

    async def main():
        async with aiohttp.ClientSession(middlewares=[_hedge]) as session:
            async with session.get(f"{api.url}/models") as response:
                await response.read()
            await asyncio.sleep(0.2)
            gc.collect()
            found.extend(
                one
                for one in gc.get_objects()
                if type(one).__name__ == "SessionRequest"
                and (one.error or one.task or one.response or one.session)
            )

    api.answers(fault="silence")
    with watching(api, memory):
        asyncio.run(main())
    assert found == []
