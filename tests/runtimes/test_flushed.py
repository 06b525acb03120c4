"""`flushed`: each call ends with one flush, within its time, and is otherwise as it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from typing import TYPE_CHECKING

import pytest
import requests
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

import assisters_otel
from assisters_otel.attempts.control_flow import units
from assisters_otel.runtimes import work_units
from scripts import passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan


WAIT_S = 1.9
"""A call that waits for a flush in vain waits for two seconds. One that does not takes less, also
on a busy machine."""


class Flushes(SpanProcessor):
    """Takes note of the flushes, and of the spans that have ended before each.

    Attributes:
        hang_s: How long a flush takes.
        spans: The spans.
        seen: How many of them had ended at each flush.
        ended: How many flushes have.
        over: Set to end the flushes that hang.
    """

    def __init__(self) -> None:
        self.hang_s = 0.0
        self.spans: list[ReadableSpan] = []
        self.seen: list[int] = []
        self.ended = 0
        self.over = threading.Event()

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's
        self.seen.append(len(self.spans))
        is_over = self.over.wait(self.hang_s)
        self.ended += 1
        return not is_over


@pytest.fixture
def flushes(api) -> Iterator[Flushes]:
    work_units._waits._forked()  # what earlier tests have waited for in vain
    flushes = Flushes()
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    tracers.add_span_processor(flushes)
    handle = assisters_otel.init(tracer_provider=tracers, meter_provider=meters, hosts=[api.url])
    yield flushes
    flushes.over.set()
    handle.shutdown()
    tracers.shutdown()
    meters.shutdown()
    work_units._waits._forked()


@pytest.fixture
def get(api):
    def get() -> int:
        return requests.get(f"{api.url}/models", timeout=10).status_code

    return get


class Context:
    """As AWS Lambda's, in what is read of it."""

    def __init__(self, left_s: float, request_id: str = "one") -> None:
        self.until_s = time.monotonic() + left_s
        self.aws_request_id = request_id

    def get_remaining_time_in_millis(self) -> int:
        return int((self.until_s - time.monotonic()) * 1000)


def wait_for(condition, limit_s: float) -> bool:
    until_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.01)
    return condition()


def took_s(call) -> float:
    started_s = time.monotonic()
    call()
    return time.monotonic() - started_s


def test_a_function_is_flushed_after_each_call(flushes, get):
    @assisters_otel.flushed
    def work(number: int, *, more: int = 1) -> int:
        return number + more + get()

    assert [work(1, more=2), work(1)] == [203, 202]
    assert flushes.seen == [1, 2]


def test_a_coroutine_function_is_flushed_while_the_loop_goes_on(flushes, get):
    flushes.hang_s = 30
    beats = 0

    @assisters_otel.flushed
    async def work() -> int:
        return await asyncio.to_thread(get)

    async def main() -> int:
        async def beat() -> None:
            nonlocal beats
            while beats < 5:
                await asyncio.sleep(0.01)
                beats += bool(flushes.seen)
            flushes.over.set()

        beating = asyncio.create_task(beat())
        status = await work()
        beating.cancel()
        return status

    assert asyncio.run(main()) == 200
    assert flushes.seen == [1]
    assert beats == 5, "the flush ends with the fifth, and the call with the flush"


def test_a_coroutine_function_on_trio_is_flushed(flushes):
    @assisters_otel.flushed
    async def work() -> str:
        await trio.lowlevel.checkpoint()
        return "done"

    assert trio.run(work) == "done"
    assert flushes.seen == [0]


def test_an_exception_is_the_function_s_own_and_is_flushed(flushes, get):
    @assisters_otel.flushed
    def work() -> None:
        get()
        raise LookupError("as asked for")

    with pytest.raises(LookupError, match="as asked for"):
        work()
    assert flushes.seen == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_does_not_wait(flushes, error):
    flushes.hang_s = 30

    @assisters_otel.flushed
    def work() -> None:
        raise error

    with pytest.raises(error):
        work()
    assert flushes.seen == []


def test_a_cancelled_call_does_not_wait(flushes):
    flushes.hang_s = 30

    @assisters_otel.flushed
    async def work() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        await asyncio.wait_for(work(), 0.1)

    started_s = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())
    assert time.monotonic() - started_s < WAIT_S


def test_a_call_in_another_is_flushed_with_that(flushes, get):
    inner = assisters_otel.flushed(get)

    @assisters_otel.flushed
    def outer() -> None:
        inner()
        inner()

    outer()

    assert flushes.seen == [2]


def test_a_call_after_one_whose_end_failed_is_flushed_for_itself(flushes, monkeypatch):
    work = assisters_otel.flushed(lambda: "done")
    monkeypatch.setattr(units, "end", lambda _name: 1 / 0)
    assert work() == "done"
    assert flushes.seen == []
    monkeypatch.undo()

    assert work() == "done"

    assert flushes.seen == [0]
    units.end(units.current())


def test_a_call_in_a_task_that_has_outlived_its_call_is_flushed_for_itself(flushes, get):
    inner = assisters_otel.flushed(get)
    tasks = []

    @assisters_otel.flushed
    async def outer(go_on: asyncio.Event) -> None:
        async def later() -> None:
            await go_on.wait()
            inner()

        tasks.append(asyncio.create_task(later()))

    async def main() -> None:
        go_on = asyncio.Event()
        await outer(go_on)
        go_on.set()
        await tasks[0]

    asyncio.run(main())

    assert flushes.seen == [0, 1]


def test_two_threads_are_two_calls(flushes, get):
    meet = threading.Barrier(2)

    @assisters_otel.flushed
    def work() -> None:
        meet.wait(10)
        get()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(flushes.seen) == 2


def test_two_calls_in_vain_are_waited_for_and_the_next_ten_are_not(flushes):
    flushes.hang_s = 30
    work = assisters_otel.flushed(lambda: None)

    waited_s = [took_s(work) for _ in range(13)]

    assert all(WAIT_S < one < flushes.hang_s for one in [*waited_s[:2], waited_s[12]]), waited_s
    assert max(waited_s[2:12]) < WAIT_S, waited_s


def test_a_flush_that_is_in_time_lets_the_count_begin_anew(flushes):
    work = assisters_otel.flushed(lambda _context=None: None)
    for hang_s in (30, 0, 30, 0):
        flushes.hang_s = hang_s
        flushes.over.clear()
        work(Context(0.7 if hang_s else 30))
        flushes.over.set()
        assert wait_for(lambda: flushes.ended == len(flushes.seen), 30)
    flushes.hang_s = 0

    work()
    assert len(flushes.seen) == 5


@pytest.mark.parametrize(("left_s", "waits_s"), [(30, 2.0), (1.0, 0.5), (0.5, 0), (0.1, 0)])
def test_half_a_second_is_left_of_the_time_of_a_context(flushes, left_s, waits_s):
    flushes.hang_s = 30
    work = assisters_otel.flushed(lambda _event, _context: None)

    waited_s = took_s(lambda: work({}, Context(left_s)))

    assert len(flushes.seen) == (waits_s > 0)
    assert waits_s == 0 or waits_s - 0.1 < waited_s < left_s


@pytest.mark.parametrize("kind", ["raises", "answers to any name", "lies"])
def test_an_argument_that_is_odd_costs_nothing(flushes, kind):
    class Raises:
        def __getattr__(self, name):
            raise KeyError(name)

    class Any:
        def __getattr__(self, name):
            return Any()

    class Lies(Context):
        def get_remaining_time_in_millis(self):
            raise RuntimeError("not here")

    odd = {"raises": Raises, "answers to any name": Any, "lies": functools.partial(Lies, 5)}[kind]()

    assert assisters_otel.flushed(lambda one: one)(odd) is odd
    assert flushes.seen == ([] if kind == "lies" else [0])


def test_each_call_is_a_flow_of_control_of_its_own(api, flushes):
    api.answers(code="rate_limit_exceeded", times=6)

    @assisters_otel.flushed
    def work(times: int, _context: object = None) -> None:
        for _ in range(times):
            requests.post(f"{api.url}/embeddings", json={"input": "a"}, timeout=10)

    work(1)
    work(2)
    work(1, Context(9, "a request"))
    work(1, Context(9, "a request"))
    work(1, Context(9, "another"))

    resends = [span.attributes.get("http.request.resend_count", 0) for span in flushes.spans]
    assert resends == [0, 0, 1, 0, 1, 0]


def test_a_call_in_a_unit_of_a_runtime_is_of_that_unit(api, flushes):
    """A task that Celery runs again is the same unit, whatever it calls."""
    api.answers(code="rate_limit_exceeded", times=3)
    work = assisters_otel.flushed(
        lambda: requests.post(f"{api.url}/embeddings", json={"input": "a"}, timeout=10)
    )
    for task in ("celery 1", "celery 1", "celery 2"):
        units.start(task)
        work()
        units.end(task)

    resends = [span.attributes.get("http.request.resend_count", 0) for span in flushes.spans]
    assert resends == [0, 1, 0]


def test_a_decorated_function_looks_like_itself():
    async def work(first: int, *, second: str = "") -> float:
        """Do it."""
        return float(first) + len(second)

    decorated = assisters_otel.flushed(work)

    assert inspect.signature(decorated) == inspect.signature(work)
    assert (decorated.__name__, decorated.__doc__) == ("work", "Do it.")
    assert inspect.iscoroutinefunction(decorated)
    assert inspect.iscoroutinefunction(assisters_otel.flushed(functools.partial(work, 1)))


def test_an_object_with_a_coroutine_function_is_one(flushes):
    class Work:
        async def __call__(self) -> str:
            return "done"

    assert asyncio.run(assisters_otel.flushed(Work())()) == "done"
    assert flushes.seen == [0]


def test_a_coroutine_function_that_a_decorator_hides_is_flushed_after_its_coroutine(flushes, get):
    async def work() -> int:
        return await asyncio.to_thread(get)

    @assisters_otel.flushed
    @functools.wraps(work)
    def hidden() -> object:
        return work()

    async def main() -> int:
        running = hidden()
        assert (inspect.iscoroutine(running), running.__qualname__) == (True, work.__qualname__)
        return await running

    assert asyncio.run(main()) == 200
    assert flushes.seen == [1]


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_context_of_any_kind_of_method_is_asked(flushes, kind):
    flushes.hang_s = 30
    of_class = {staticmethod: lambda: 1_000, classmethod: lambda _class: 1_000}[kind]
    context = type("Context", (), {"get_remaining_time_in_millis": kind(of_class)})()

    work = assisters_otel.flushed(lambda _event, _context: None)

    assert 0.4 < took_s(lambda: work({}, context)) < WAIT_S  # which it takes without a context


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_generator_function_is_refused(kind):
    def generator():
        yield

    async def async_generator():
        yield

    with pytest.raises(ValueError, match="Decorate the function that iterates over it"):
        assisters_otel.flushed(generator if kind == "generator" else async_generator)


@pytest.mark.parametrize("thing", [2, None, "handler", classmethod(print)])
def test_what_is_no_function_is_refused_where_it_is_decorated(thing):
    with pytest.raises(ValueError, match=r"Write @assisters_otel.flushed without brackets"):
        assisters_otel.flushed(thing)


def test_without_init_nothing_is_flushed_and_nothing_is_waited_for():
    assert (
        passed("""
        import assisters_otel
        print(assisters_otel.flushed(lambda one: one + 1)(1))
    """).out
        == "2\n"
    )
