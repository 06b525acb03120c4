"""One request of an aiohttp session that makes several attempts, of which none has met an error."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import warnings

import aiohttp
import pytest
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from opentelemetry import trace

from assisters_otel.testing import FakeApi

pytestmark = pytest.mark.usefixtures("telemetry")

DURATION = "assisters.client.request.duration"


class Own(ClientResponse):
    """Reads its headers by itself, so that nobody tells us of them."""

    async def start(self, connection):
        return await inspect.unwrap(ClientResponse.start)(self, connection)


async def a_redirect(api):
    """Followed after an answer that was read by a class of the app's own."""
    api.answers(redirect=f"{api.url}/models")
    async with aiohttp.ClientSession(response_class=Own) as session:
        return await _get(session, api)


async def a_hedge(api):
    """A middleware's second attempt, sent while the first one waits for its answer."""
    is_sent = asyncio.Event()

    async def hedge(request, handler):
        first = asyncio.create_task(handler(request))
        await is_sent.wait()
        try:
            return await handler(request)
        finally:
            first.cancel()

    async def sent(*_):
        is_sent.set()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(sent)
    api.answers(fault="silence")
    async with aiohttp.ClientSession(middlewares=[hedge], trace_configs=[tracing]) as session:
        return await _get(session, api)


async def _get(session, api):
    async with session.get(f"{api.url}/rate-limit") as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("way", [a_redirect, a_hedge])
def test_an_attempt_that_follows_one_that_has_met_no_error_does_not_fail_it(
    api, memory, telemetry, way
):
    assert asyncio.run(way(api)) == 200

    assert len(api.requests) == 2
    assert telemetry.status().errors == 0
    assert memory.points("assisters.client.errors") == []
    ended_with = {point.get("error.type") for point in memory.points(DURATION)}
    assert ended_with <= {None, "CancelledError"}
    spans = memory.attempts()
    assert len(spans) == 2, "each attempt has a span of its own"
    for span in spans:
        assert "error.type" not in span.attributes
        assert "http.request.resend_count" not in span.attributes


@pytest.mark.parametrize("way", [a_redirect, a_hedge])
def test_no_attempt_stays_in_the_context_of_the_app(api, way):
    async def whole():
        assert await way(api) == 200
        assert trace.get_current_span() is trace.INVALID_SPAN

    asyncio.run(whole())


@pytest.mark.parametrize("loser", ["first", "second"])
def test_of_attempts_at_the_same_time_each_is_told_as_it_ended(api, memory, telemetry, loser):
    """Whichever of them a middleware leaves."""
    api.answers(**({"fault": "silence"} if loser == "first" else {"delay_s": 0.3}))
    if loser == "second":
        api.answers(fault="silence")

    async def both(request, handler):
        tasks = [asyncio.create_task(handler(request)) for _ in range(2)]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in rest:
            one.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        return done.pop().result()

    async def whole():
        async with aiohttp.ClientSession(middlewares=[both]) as session:
            return await _get(session, api)

    assert asyncio.run(whole()) == 200

    points = memory.points(DURATION)
    assert sorted(str(point.get("error.type")) for point in points) == ["CancelledError", "None"]
    statuses = [span.attributes.get("http.response.status_code") for span in memory.attempts()]
    assert sorted(map(str, statuses)) == ["200", "None"]
    assert telemetry.status().attempts == 2


def test_an_attempt_that_a_middleware_answers_for_has_failed(api, memory, telemetry):
    """Its own answer comes from somewhere else."""
    kept = []

    async def answer(request, handler):
        try:
            return await handler(request)
        except aiohttp.ClientError:
            return kept[0]

    async def whole():
        async with aiohttp.ClientSession() as session:
            kept.append(await session.get(f"{api.url}/rate-limit"))
            await kept[0].read()
        api.answers(fault="drop", times=2)
        async with aiohttp.ClientSession(middlewares=[answer]) as session:
            return await _get(session, api)

    assert asyncio.run(whole()) == 200

    failed = [point for point in memory.points(DURATION) if point.get("error.type")]
    assert [point["error.type"] for point in failed] == ["ServerDisconnectedError"]
    assert telemetry.status().errors == failed[0]["count"]


def test_a_refused_connection_that_a_middleware_sends_again_has_failed(api, memory, telemetry):
    """The session has raised nothing for the first one."""

    async def again(request, handler):
        try:
            return await handler(request)
        except aiohttp.ClientConnectorError:
            return await handler(request)

    async def whole():
        async with aiohttp.ClientSession(middlewares=[again]) as session:
            return await _get(session, api)

    api.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        asyncio.run(whole())

    first, second = memory.attempts()
    for span in (first, second):
        assert span.attributes["error.type"] == "ClientConnectorError"
    assert second.attributes["assisters.retry.reason"] == "ClientConnectorError"
    assert memory.point(DURATION)["count"] == telemetry.status().errors == 2


def test_an_answer_that_an_interrupt_keeps_from_the_app_is_closed(api):
    answers = []

    class Kept(ClientResponse):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            answers.append(self)

    def profile(frame, event, _):
        of_request = "session_request" in frame.f_code.co_filename
        if event == "call" and frame.f_code.co_name == "end" and of_request:
            sys.setprofile(None)
            raise KeyboardInterrupt

    async def whole():
        async with aiohttp.ClientSession(response_class=Kept) as session:
            sys.setprofile(profile)
            try:
                await session.get(f"{api.url}/models")
            except KeyboardInterrupt:
                return [answer.closed for answer in answers]
            finally:
                sys.setprofile(None)

    api.answers(size=300_000)
    assert asyncio.run(whole()) == [True]


class Hurried(aiohttp.TCPConnector):
    """Limits the time of a connection, in another task before Python 3.12."""

    async def connect(self, *args, **kwargs):
        return await asyncio.wait_for(super().connect(*args, **kwargs), 5)


class Tasked(aiohttp.TCPConnector):
    """Connects in a task of its own."""

    async def connect(self, *args, **kwargs):
        return await asyncio.ensure_future(super().connect(*args, **kwargs))


class Delegating:
    """A request class that inherits nothing, and hands on to aiohttp's."""

    def __init__(self, *args, **kwargs):
        object.__setattr__(self, "_real", ClientRequest(*args, **kwargs))

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        setattr(self._real, name, value)


CONNECTORS = {"in a task": Tasked, "with a limit": Hurried}
WAYS = {
    **{name: lambda kind=kind: {"connector": kind()} for name, kind in CONNECTORS.items()},
    "by a delegating request": lambda: {"request_class": Delegating},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_attempt_is_of_the_task_that_asks_however_it_is_connected(api, memory, way):
    async def main():
        async with aiohttp.ClientSession(**WAYS[way]()) as session:
            for _ in range(2):
                api.answers("rate_limit_exceeded")
                async with session.post(f"{api.url}/embeddings", json={"input": "a"}) as response:
                    await response.read()

    asyncio.run(main())

    attempts = [span.attributes for span in memory.attempts()]
    assert [one.get("http.request.resend_count") for one in attempts] == [None, 1]
    assert [one["http.response.status_code"] for one in attempts] == [429, 429]
    # What it hands on to is what is sent: the body is of another request's answer, and not seen.
    code = None if way == "by a delegating request" else "rate_limit_exceeded"
    assert [one.get("error.code") for one in attempts] == [code, code]


@pytest.mark.parametrize("way", CONNECTORS)
def test_an_attempt_after_a_redirect_from_elsewhere_ends_however_it_is_connected(api, memory, way):
    async def main():
        async with (
            aiohttp.ClientSession(connector=CONNECTORS[way]()) as session,
            session.get(f"{elsewhere}/models") as response,
        ):
            await response.read()
            return response.status

    with FakeApi() as other:
        other.answers(redirect=f"{api.url}/models")
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        assert asyncio.run(main()) == 200

    (span,) = memory.attempts()
    assert span.attributes["http.response.status_code"] == 200


async def _cancelled(coroutine):
    """Await it in a task that is cancelled before its first step."""
    task = asyncio.ensure_future(coroutine)
    task.cancel()
    return await task


async def _out_of_time(coroutine):
    return await asyncio.wait_for(coroutine, 0)


def _given_up(method, by):
    """Return what a session is given: one step of its requests is not awaited any more."""
    watched = "127.0.0.1"

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *args, **kwargs):
            connecting = super().connect(*args, **kwargs)
            return await (by(connecting) if args[0].url.host == watched else connecting)

    class Request(ClientRequest):
        async def send(self, *args, **kwargs):
            sending = super().send(*args, **kwargs)
            return await (by(sending) if self.url.host == watched else sending)

    class Response(ClientResponse):
        async def start(self, *args, **kwargs):
            starting = super().start(*args, **kwargs)
            return await (by(starting) if self.url.host == watched else starting)

    return {
        "connect": lambda: {"connector": Connector()},
        "send": lambda: {"request_class": Request},
        "start": lambda: {"response_class": Response},
    }[method]()


@pytest.mark.parametrize("by", [_cancelled, _out_of_time])
@pytest.mark.parametrize("method", ["connect", "send", "start"])
@pytest.mark.parametrize("is_from_elsewhere", [False, True], ids=["", "redirected"])
def test_a_step_that_the_app_gives_up_before_it_runs_is_no_forgotten_coroutine(
    api, telemetry, recwarn, method, by, is_from_elsewhere
):
    async def main(url):
        async with aiohttp.ClientSession(**_given_up(method, by)) as session:
            try:
                await session.get(url)
            except (aiohttp.ClientError, asyncio.TimeoutError, asyncio.CancelledError) as error:
                return type(error), str(error)

    with FakeApi() as other:
        other.answers(redirect=f"{api.url}/models", times=2)
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        url = f"{elsewhere if is_from_elsewhere else api.url}/models"
        found = asyncio.run(main(url))
        telemetry.shutdown()
        gc.collect()
        told = [str(one.message) for one in recwarn if one.category is RuntimeWarning]
        assert asyncio.run(main(url)) == found
    gc.collect()
    assert told == []


@pytest.mark.parametrize("method", ["connect", "send", "start"])
def test_a_step_that_the_app_never_awaits_is_said_to_be_forgotten_once(api, method):
    names = {"connect": "BaseConnector", "send": "ClientRequest", "start": "ClientResponse"}

    async def forget(coroutine):
        del coroutine
        raise aiohttp.ClientPayloadError

    async def main():
        async with aiohttp.ClientSession(**_given_up(method, forget)) as session:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                with pytest.raises(aiohttp.ClientPayloadError):
                    await session.get(f"{api.url}/models")
                gc.collect()
            return {str(one.message) for one in told if one.category is RuntimeWarning}

    assert asyncio.run(main()) == {f"coroutine '{names[method]}.{method}' was never awaited"}
