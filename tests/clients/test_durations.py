"""What is measured is in seconds, and no less and no more than the caller's own clock saw.

The least is what the server waits, by its own clock, before it goes on; the most is what the caller
sees around it all. Both hold on a machine that has no time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import threading
import time

import anyio
import assisters
import httpx
import openai
import pytest

import streamers
from streamers import PLAIN, SDKS, STREAMERS, UNSTREAMED

pytestmark = pytest.mark.usefixtures("telemetry")

REQUEST = "assisters.client.request.duration"
CALL = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
FIRST = "gen_ai.response.time_to_first_chunk"
BODY = {"model": "assisters-embed-v1", "input": "hello"}
EVENTS = {"content_type": "text/event-stream"}
TEXT = b'data: {"choices": []}\n\n'
DONE = b"data: [DONE]\n\n"

DELAY_S = 0.03
NEARLY = 0.9  # a timer may be early by what its clock cannot tell
GIVEN_UP = (KeyboardInterrupt, openai.OpenAIError, assisters.AssistersAPIError, httpx.HTTPError)


class Watch:
    """The caller's own clocks, around what it does."""

    def __enter__(self):
        self.start()
        return self

    def start(self):
        self._began_s, self.began_ns = time.perf_counter(), time.time_ns()

    def __exit__(self, *_):
        self.s, self.ended_ns = self.lap_s(), time.time_ns()

    def lap_s(self):
        return time.perf_counter() - self._began_s

    def saw(self, span, least_s):
        """Say whether a span lies inside, and is no shorter than *least_s*."""
        lasted_s = (span.end_time - span.start_time) / 1e9
        is_inside = self.began_ns <= span.start_time <= span.end_time <= self.ended_ns
        return is_inside and lasted_s >= NEARLY * least_s


def total(points):
    return sum(point["sum"] for point in points)


# -- attempts ---------------------------------------------------------------------------------

ENDS = {
    "an answer": {},
    "a refusal": {"code": "internal_error"},
    "a dropped connection": {"fault": "drop"},
    "silence": {"fault": "silence"},
}


@pytest.mark.parametrize("end", ENDS)
def test_an_attempt_lasts_as_long_as_its_caller_saw(api, memory, anyone, end):
    api.answers(**ENDS[end], delay_s=DELAY_S)
    timeout_s = DELAY_S if end == "silence" else 5
    broken = anyone.broken if isinstance(anyone.broken, tuple) else (anyone.broken,)

    with Watch() as watch, contextlib.suppress(*broken):
        anyone.send("POST", f"{api.url}/embeddings", json=BODY, timeout=timeout_s)

    point = memory.point(REQUEST)
    assert point["count"] == 1
    assert NEARLY * DELAY_S <= point["sum"] <= watch.s


@pytest.mark.parametrize("end", ["an answer", "a refusal"])
def test_how_long_the_api_says_that_it_took_is_in_seconds(api, memory, anyone, end):
    api.answers(**ENDS[end], delay_s=DELAY_S)

    with Watch() as watch:
        anyone.send("POST", f"{api.url}/embeddings", json=BODY)

    told_s = memory.attempt().attributes["assisters.server.duration"]
    assert NEARLY * DELAY_S <= told_s <= watch.s + 0.001  # the API rounds it


def test_what_is_read_ahead_of_a_refusal_is_not_in_its_duration(api, memory, caller):
    """By what the client itself tells of its steps."""
    api.answers(code="internal_error", chunk_delay_s=DELAY_S)
    at_s = {}

    def note(name, _):
        at_s[name.partition(".")[2]] = watch.lap_s()

    async def note_async(name, told):
        note(name, told)

    extensions = {"trace": note_async if caller.run else note}
    with Watch() as watch:
        caller.send("POST", f"{api.url}/embeddings", json=BODY, extensions=extensions)

    lasted_s = memory.point(REQUEST)["sum"]
    least_s = at_s["receive_response_headers.complete"] - at_s["send_request_headers.started"]
    assert least_s <= lasted_s <= at_s["receive_response_body.started"]


def _pause(api):
    """Wait until the server has got a request, and has kept silent for a while."""
    for _ in range(5000):
        if api.requests:
            break
        yield 0.002
    yield DELAY_S


@contextlib.contextmanager
def interrupted(api):
    """Have Ctrl-C pressed while an answer is waited for.

    Again, should that have come between two steps of Python's: it is met after the wait then.
    """
    is_met = threading.Event()

    def interrupt():
        for pause_s in _pause(api):
            time.sleep(pause_s)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        while not is_met.wait(2):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else: in the background
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        is_met.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


async def cancelled(api, ask):
    """Cancel what waits for an answer."""
    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        for pause_s in _pause(api):
            await anyio.sleep(pause_s)
        group.cancel_scope.cancel()


def given_up(api, streamer, **options):
    async def script(opened):
        async def ask():
            await (await opened()).rest()

        if streamer.is_async:
            await cancelled(api, ask)
        else:
            with interrupted(api):
                await ask()

    streamer.use(api.url, script, **options)


@pytest.mark.parametrize("streamer", PLAIN, ids=str)
def test_a_cancelled_attempt_lasts_as_long_as_its_caller_saw(api, memory, streamer):
    api.answers(fault="silence")

    with Watch() as watch, contextlib.suppress(KeyboardInterrupt):
        given_up(api, streamer)

    point = memory.point(REQUEST)
    assert point["error.type"] == "CancelledError"
    assert NEARLY * DELAY_S <= point["sum"] <= watch.s


def test_a_resend_waited_as_long_as_its_caller_saw(api, memory, anyone):
    api.answers("internal_error", "ok")
    tracer = memory.tracer_provider.get_tracer("app")

    with Watch() as watch, tracer.start_as_current_span("work"):
        anyone.send("POST", f"{api.url}/embeddings", json=BODY)
        time.sleep(DELAY_S)
        anyone.send("POST", f"{api.url}/embeddings", json=BODY)

    waited_s = memory.attempts()[1].attributes["assisters.retry.delay"]
    assert NEARLY * DELAY_S <= waited_s <= watch.s - total(memory.points(REQUEST))


# -- calls ------------------------------------------------------------------------------------

OUTCOMES = {
    "ok": [{}],
    "recovered": [{"code": "model_overloaded", "retry_after": DELAY_S}, {}],
    "failed": [{"code": "invalid_model"}],
    "unanswered": [{"fault": "drop"}],
    "cancelled": [{"fault": "silence"}],
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("sdk", [*SDKS, *UNSTREAMED], ids=str)
def test_a_call_lasts_as_long_as_its_caller_saw(api, memory, sdk, outcome):
    for answer in OUTCOMES[outcome]:
        api.answers(**answer, delay_s=DELAY_S)

    async def script(opened):
        await (await opened()).rest()

    with Watch() as watch, contextlib.suppress(*GIVEN_UP):
        if outcome == "cancelled":
            given_up(api, sdk)
        else:
            sdk.use(api.url, script, retries=len(OUTCOMES[outcome]) - 1)

    point, call = memory.point(CALL), memory.call()
    attempts_s, waited_s = total(memory.points(REQUEST)), call.attributes["assisters.retry.wait"]
    assert point["count"] == 1
    assert NEARLY * DELAY_S * len(api.requests) <= attempts_s <= attempts_s + waited_s
    assert attempts_s + waited_s <= point["sum"] <= watch.s
    assert watch.saw(call, attempts_s)
    if outcome == "recovered" and call.attributes["assisters.retry.count"]:
        (delay_s,) = (span.attributes["assisters.retry.delay"] for span in memory.attempts()[1:])
        assert waited_s == delay_s
        is_patient = not sdk.name.startswith("assisters")
        assert waited_s >= NEARLY * DELAY_S * is_patient


# -- streams ----------------------------------------------------------------------------------


def around(memory):
    """The span around a stream: a call's, or the stream's own."""
    (span,) = memory.calls()
    return span


@pytest.mark.parametrize("streamer", STREAMERS, ids=str)
def test_the_first_chunk_came_when_its_caller_saw_it(api, memory, streamer):
    """A comment is none: the SDKs read over it, and the plain clients as well."""
    parts = [b": soon\n\n", TEXT, TEXT, DONE]
    api.answers(body=parts, **EVENTS, delay_s=DELAY_S, chunk_delay_s=DELAY_S)
    opened_s, came_s = [], []

    async def script(opened):
        stream = await opened()
        opened_s.append(watch.lap_s())
        while (chunk := await stream.read()) is not None:
            if chunk != parts[0]:
                came_s.append(watch.lap_s())

    with Watch() as watch:
        streamer.use(api.url, script)

    point, span = memory.point(FIRST_CHUNK), around(memory)
    assert point["count"] == 1
    assert NEARLY * 2 * DELAY_S <= point["sum"] <= came_s[0]
    assert span.attributes[FIRST] == point["sum"]
    # A stream's own span begins with the headers, whenever a busy machine has read them.
    assert watch.saw(span, came_s[-1] - opened_s[0])
    if streamer.is_call:
        assert NEARLY * 3 * DELAY_S <= memory.point(CALL)["sum"] <= watch.s


# aiohttp, httpx and trio have a word to say on what is left behind, with us and without.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("read", [True, False], ids=["begun", "unread"])
@pytest.mark.parametrize("streamer", STREAMERS, ids=str)
def test_a_dropped_stream_ended_when_it_was_dropped(api, memory, streamer, read):
    """Not when, later, somebody asks for metrics."""
    api.answers(fault="stall")  # it has not been read to its end

    async def script(opened):
        watch.start()  # once there is a client: making one takes longer than what is waited below
        stream = await opened()
        if read or streamer.name == "assisters":  # which sends nothing before
            await stream.read()
        del stream
        gc.collect()

    with Watch() as watch:
        streamer.use(api.url, script)
        gc.collect()
    time.sleep(DELAY_S)
    memory.collect()

    span = around(memory)
    assert span.attributes["assisters.stream.outcome"] in {"abandoned", "cancelled"}
    assert watch.saw(span, 0)
    if streamer.is_call:
        assert 0 < memory.point(CALL)["sum"] <= watch.s


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_call_that_nobody_awaits_any_more_ended_when_it_was_dropped(api, memory):
    """In the garbage collector, where it cannot be told of."""
    api.answers(fault="silence")

    async def main():
        async def begin():
            call = client.chat.completions.create(**streamers.CHAT)
            call.send(None)
            ring = [call]
            ring.append(ring)

        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
            await asyncio.create_task(begin())
            gc.collect()

    with Watch() as watch:
        asyncio.run(main())
    time.sleep(DELAY_S)
    memory.collect()

    assert memory.call().attributes["assisters.call.outcome"] == "cancelled"
    assert watch.saw(memory.call(), 0)
    assert 0 < memory.point(CALL)["sum"] <= watch.s
