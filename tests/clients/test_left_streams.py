"""A stream that its reader leaves: it ends with what was read last, and is reported at once."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from contextlib import suppress
from time import sleep

import assisters
import openai
import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from callers import _run_sync
from sizes import SIZE
from streamers import STREAMERS

THREAD = "assisters-otel-deferred"


def threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def wait_for(condition, limit_s):
    until_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def _collecting_only_when_asked():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def wait(streamer, seconds):
    if streamer.is_async:
        await asyncio.sleep(seconds)
    else:
        sleep(seconds)  # noqa: ASYNC251 - no event loop runs


async def read_one_and_leave(opened, kept):
    stream = await opened()
    await stream.read()
    kept.append(stream)


@pytest.mark.usefixtures("_collecting_only_when_asked", "telemetry")
@pytest.mark.parametrize("streamer", [one for one in STREAMERS if "trio" not in one.name], ids=str)
def test_a_stream_that_is_dropped_is_reported_without_another_request(api, memory, streamer):
    kept, left = [], []

    async def script(opened):
        await read_one_and_leave(opened, kept)
        left.append(time.time_ns())
        await wait(streamer, 0.3)
        kept.clear()
        gc.collect()
        await wait(streamer, 0.1)  # an event loop closes the generator that was dropped
        gc.collect()
        for _ in range(100):  # by the contract half a second; a busy machine may take longer
            if ended(memory):
                return
            await wait(streamer, 0.1)

    streamer.use(api.url, script)

    (span,) = ended(memory)
    assert span.end_time <= left[0], "it ends with what was read, not with the collection"


def ended(memory):
    names = ("assisters.stream", "chat ")
    return [span for span in memory.spans() if span.name.startswith(names)]


@pytest.mark.usefixtures("_collecting_only_when_asked", "telemetry")
@pytest.mark.parametrize("streamer", [one for one in STREAMERS if "trio" not in one.name], ids=str)
def test_a_stream_that_is_closed_ends_there_and_then_also_if_its_chunks_are_kept(
    api, memory, streamer
):
    api.answers(chunk_delay_s=0.05)

    async def script(opened):
        stream = await opened()
        await stream.read()
        assert ended(memory) == []
        await stream.close_answer()
        (span,) = ended(memory)
        await stream.close()
        return span

    told = streamer.use(api.url, script).attributes

    names = ("assisters.stream.outcome", "assisters.call.outcome")
    assert {told[name] for name in names if name in told} == {"cancelled"}


@pytest.mark.usefixtures("_collecting_only_when_asked", "telemetry")
def test_what_is_put_off_wakes_the_thread(api, memory, monkeypatch):
    monkeypatch.setattr("assisters_otel.recording.deferred.IDLE_S", 60.0)
    (streamer,) = (one for one in STREAMERS if one.name == "httpx")

    async def script(opened):
        kept = []
        await read_one_and_leave(opened, kept)
        kept.clear()
        gc.collect()
        assert wait_for(lambda: ended(memory), 20)

    streamer.use(api.url, script)


class Ended(SpanProcessor):
    """Notes of each span that ends whether that is inside the garbage collector."""

    def __init__(self, telemetry):
        self._deferred = telemetry._instrumentation.recorder.deferred
        self.inside = []

    def on_end(self, span):
        if span.name.startswith(("assisters.stream", "chat ")):
            self.inside.append(self._deferred.is_collecting())


@pytest.mark.usefixtures("_collecting_only_when_asked")
@pytest.mark.parametrize("streamer", [one for one in STREAMERS if not one.is_async], ids=str)
def test_what_a_collected_object_closes_is_reported_outside_of_the_collector(
    api, memory, telemetry, streamer
):
    """There the SDK may hold the lock that a record needs."""
    processor, closed = Ended(telemetry), []
    memory.tracer_provider.add_span_processor(processor)

    class Closing:
        def __init__(self, stream):
            self.stream, self.itself = stream, self

        def __del__(self):
            _run_sync(self.stream.close)
            closed.append(time.time_ns())

    async def script(opened):
        stream = await opened()
        await stream.read()
        read_ns = time.time_ns()
        Closing(stream)
        sleep(0.05)  # noqa: ASYNC251 - no event loop runs
        gc.collect()
        assert wait_for(lambda: ended(memory), 10)
        assert ended(memory)[0].end_time <= read_ns, "it ends with what was read"

    streamer.use(api.url, script)

    assert len(closed) == 1
    assert processor.inside == [False]


@pytest.mark.usefixtures("telemetry")
def test_the_thread_is_there_for_open_streams_alone(api):
    (streamer,) = (one for one in STREAMERS if one.name == "httpx")
    seen = []

    async def script(opened):
        stream = await opened()
        seen.append(len(threads()))
        await stream.rest()
        await stream.close()

    for _ in range(3 * SIZE):
        streamer.use(api.url, script)

    assert set(seen) == {1}
    assert wait_for(lambda: not threads(), 5)


def told_of(memory):
    """Count what has been recorded, by metric, and the spans."""
    points = {
        name: [(one["count"], one["value"]) for one in found]
        for name, found in memory.collect().items()
    }
    return points, len(memory.spans())


@pytest.mark.sampled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork with threads, of the server's
@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("end", ["dropped", "closed", "read", "failed"])
@pytest.mark.parametrize("streamer", [one for one in STREAMERS if not one.is_async], ids=str)
def test_a_forked_child_reports_no_stream_of_its_parent(api, memory, streamer, end):
    if end == "failed":
        api.answers(in_stream="internal_error", chunk_delay_s=0.05)  # the parent reads no error

    async def script(opened):
        stream = await opened()
        await stream.read()
        child = os.fork()
        if child == 0:
            told = 99
            try:
                before = told_of(memory)
                if end in {"read", "failed"}:
                    with suppress(openai.APIError, assisters.AssistersAPIError):
                        await stream.rest()
                elif end == "closed":
                    await stream.close()
                del stream
                gc.collect()
                told = int(told_of(memory) != before)
            finally:
                os._exit(told)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - no event loop runs
        assert os.waitstatus_to_exitcode(status) == 0
        if end in {"dropped", "closed"}:  # what the child has read, nobody else gets
            await stream.rest()
        await stream.close()

    streamer.use(api.url, script)

    assert len(ended(memory)) == 1


class Slow(SpanExporter):
    """Takes long over what it gets, as one does without a collector."""

    def __init__(self):
        self.go_on = threading.Event()
        self.has_begun = threading.Event()

    def export(self, spans):
        if any(span.name == "assisters.stream" for span in spans):
            self.has_begun.set()
            self.go_on.wait(60)
        return SpanExportResult.SUCCESS


@pytest.fixture
def exporter(memory, telemetry):  # noqa: ARG001 - the library is on before
    slow = Slow()
    memory.tracer_provider.add_span_processor(SimpleSpanProcessor(slow))
    yield slow
    slow.go_on.set()


def _drop_one(api, exporter):
    """Leave a stream to the thread, which waits for the exporter."""
    streamer = next(one for one in STREAMERS if one.name == "httpx")

    async def script(opened):
        await read_one_and_leave(opened, [])
        gc.collect()

    streamer.use(api.url, script)
    assert exporter.has_begun.wait(10)


def test_a_flush_waits_for_a_slow_exporter_no_longer_than_it_is_told(api, telemetry, exporter):
    _drop_one(api, exporter)

    started_s = time.monotonic()
    assert not telemetry.flush(0.5)
    assert time.monotonic() - started_s < 5


def test_who_asks_for_metrics_waits_for_a_slow_exporter_once(api, memory, exporter):
    """Not for each instrument, and not as long as that takes."""
    _drop_one(api, exporter)

    started_s = time.monotonic()
    memory.collect()
    first_s = time.monotonic() - started_s
    memory.collect()
    assert 0.9 < first_s < 1.9
    assert time.monotonic() - started_s - first_s < 0.5

    exporter.go_on.set()
    assert wait_for(lambda: memory.points("assisters.client.request.duration"), 5)


def test_who_does_not_wait_at_all_leaves_the_next_one_to_wait(telemetry, monkeypatch):
    monkeypatch.setattr("assisters_otel.recording.deferred.WAIT_S", 60.0)
    deferred = telemetry._instrumentation.recorder.deferred
    is_held, go_on, ran = threading.Event(), threading.Event(), []

    def hold():
        with deferred._lock:
            is_held.set()
            go_on.wait(60)

    threading.Thread(target=hold).start()
    assert is_held.wait(60)
    deferred.put(lambda: ran.append(True))
    deferred.run_all(0)
    assert ran == []
    threading.Timer(0.05, go_on.set).start()
    deferred.run_all()

    assert ran == [True]


@pytest.mark.usefixtures("telemetry")
def test_a_thread_that_cannot_be_started_is_started_with_the_next_stream(api, monkeypatch):
    streamer = next(one for one in STREAMERS if one.name == "httpx")

    async def script(opened):
        stream = await opened()
        seen.append(len(threads()))
        await stream.rest()
        await stream.close()

    def start(thread):
        if thread.name == THREAD:
            raise RuntimeError("can't start new thread")
        start_any(thread)

    seen, start_any = [], threading.Thread.start
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        streamer.use(api.url, script)
    streamer.use(api.url, script)

    assert seen == [0, 1]
