"""Whatever step of ours raises, the app gets the very same answers, and the other sinks theirs.

A step is a call of one of the library's functions by another, found by itself: a client is used
from `init` to `shutdown` while the interpreter's profiler takes note of each. Then the same is done
once a step, which raises at its end. Left out are the functions in which the app's own call runs,
and those that others call (clients, the SDK, the garbage collector): what *they* call is planted.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import logging
import os
import socket
import sys
import time
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from contextvars import copy_context
from itertools import takewhile, zip_longest
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import httpx
import openai
import pytest
import requests
from opentelemetry import baggage, context, propagate
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import assisters_otel
from assisters_otel import fail_safe
from assisters_otel.attempts.control_flow import units
from assisters_otel.clients.import_hooks import imports
from memory import Memory
from sizes import SIZE
from streamers import STREAMERS, UNSTREAMED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from _typeshed import TraceFunction

CAPTURED = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE"
BAGGAGE = "ASSISTERS_OTEL_BAGGAGE"
HOME = f"{Path(assisters_otel.__file__).parent}/"
WAITS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

EXEMPT = {
    "pending_call.<locals>.checked": "calls the client's function, whose exceptions are the app's",
    "with_names_of": "assigns two names",
    "_pending_of": "looks into a dictionary",
    "EventStreamScanner.skip_plain_event": "runs for every chunk; a guard doubles it; is fuzzed",
    "_always": "as above",
    "Chunks.__init__": "assigns its arguments",
    "AsyncChunks.__init__": "as above",
    "_Replay.__init__": "as above",
    "_Replay.readable": "is a constant",
    "_FirstStepInCall.__init__": "assigns its arguments",
    "_FirstStepInCall.__iter__": "is a constant",
    "_watching_class.<locals>.HTTPResponse._report_chunk": "calls guarded steps alone",
    "_watching_class.<locals>.HTTPResponse._report_end": "as above",
    "_watching_class.<locals>.StreamReader._stop_watching": "as above",
    "raise_in_reader": "raises what the app is to get",
    "_EndHook.__call__": "is a span's end, which calls a guarded step and the real one",
    "Exchange.start": "calls guarded steps alone",
    "Exchange.__exit__": "as above",
    "Exchange.end": "as above",
    "Exchange.leave": "as above",
    "Exchange.start_again": "as above",
    "SessionSend.__init__": "assigns its arguments",
    "Exchange._end_span": "as above",
    "_chain.<locals>.hook": "runs the app's own function, and a guarded step",
    "WorkUnit.__enter__": "calls guarded steps alone",
    "WorkUnit.__exit__": "as above",
    "Telemetry.shutdown": "calls guarded steps alone, as does what it calls",
    "Telemetry.end": "as above",
}
# What the user wrote is checked by functions that are to raise.
CHECKS = ("baggage_names", "config", "hosts")
# What the interpreter calls, or what is no function in the source.
BY_ITSELF = ("__del__", "<listcomp>", "<dictcomp>", "<setcomp>")
SINKS = {
    "spans": {
        *("sinks/attempt_span", "sinks/call_span", "sinks/foreign_span", "sinks/gen_ai_span"),
        "sinks/stream_span",
    },
    "metrics": {
        *("sinks/caller_labels", "sinks/label_values", "sinks/metrics", "sinks/rate_limits"),
    },
    "logs": {"sinks/failure_log"},
    "resends": {"resends/failed_attempts", "resends/tracker"},
}
"""The modules that write what was met, each to one place; or that know what it is a resend of."""

REFUSAL = {"code": "rate_limit_exceeded", "request_id": "req_1"}
ANSWERS = (
    {},
    REFUSAL,
    {},
    {"code": "invalid_model", "size": 100_000},
    {"code": "invalid_model", "fault": "truncate"},  # whoever reads ahead, waits for more
    {"in_stream": "model_overloaded"},
    {"fault": "unfinished"},
    {"fault": "truncate"},
    {"fault": "drop"},
    {"redirect": "/v1/chat/completions"},
    {},
)
ALL = range(len(ANSWERS))


class PlantedError(RuntimeError):
    """What no step of ours raises by itself."""


class Step(NamedTuple):
    """One function's call by another.

    Attributes:
        called: What is called.
        module: Of the library, where it is called.
        line: There.
    """

    called: CodeType
    module: str
    line: int

    @property
    def name(self) -> str:
        return getattr(self.called, "co_qualname", self.called.co_name)

    def __str__(self) -> str:
        return f"{module_of(self.called)}: {self.name}, called at {self.module}:{self.line}"


def module_of(code: CodeType) -> str:
    return code.co_filename.removeprefix(HOME).removesuffix(".py")


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(HOME) and not module_of(code).startswith(
        ("fail_safe", "testing/")
    )


def step_of(frame: FrameType) -> Step | None:
    """Give the step whose function ends in a frame, or None if it is none."""
    code, caller = frame.f_code, frame.f_back
    if not is_ours(code) or code.co_flags & WAITS or code.co_name in BY_ITSELF:
        return None
    while caller is not None and caller.f_code.co_filename == f"{HOME}fail_safe.py":
        caller = caller.f_back
    if caller is None or not is_ours(caller.f_code):
        return None
    return Step(code, module_of(caller.f_code), caller.f_lineno)


class Steps:
    """A profiler that takes note of each step, and of the functions that the app's call is in.

    Attributes:
        met: The steps, each with the number of the answer at which it was met first.
        around: Those functions.
    """

    def __init__(self) -> None:
        self.met: dict[Step, int] = {}
        self.around: set[CodeType] = set()
        self.number = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "return":
            step = step_of(frame)
            if step is not None:
                self.met.setdefault(step, self.number)
        elif event == "c_call" and isinstance(getattr(arg, "__self__", None), socket.socket):
            around: FrameType | None = frame
            while around is not None:
                self.around.add(around.f_code)
                around = around.f_back


class Planted:
    """A tracer that makes a step raise, the first time it is met. It ends with that.

    It is asked at each call of a function in Python, and nowhere within: a profiler, which is asked
    at each call in C and at each end, doubles the time of a life.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.is_over = False

    def __call__(self, frame: FrameType, _event: str, _arg: object) -> TraceFunction | None:
        if frame.f_code is not self.step.called or step_of(frame) != self.step:
            return None
        frame.f_trace_lines = False
        return self._end

    def _end(self, _frame: FrameType, event: str, _arg: object) -> TraceFunction:
        if event == "return" and not self.is_over:
            self.is_over = True
            raise PlantedError("a fault of ours")
        return self._end


@contextmanager
def observed(observer: Steps | Planted | None) -> Iterator[None]:
    """Have an observer asked in this thread; what measures coverage goes on afterwards."""
    if observer is None:
        yield
        return
    is_tracer = isinstance(observer, Planted)
    before = sys.gettrace() if is_tracer else sys.getprofile()
    put = sys.settrace if is_tracer else sys.setprofile
    put(observer)
    try:
        yield
    finally:
        put(before)


class Told(logging.Handler):
    """Takes note of the failures that the log tells, but the library's own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += "trouble of our own" not in record.getMessage()


class Life(NamedTuple):
    """What came of one run.

    Attributes:
        app: What the app has got, and the server.
        telemetry: How much each sink has got.
    """

    app: list[object]
    telemetry: dict[str, Counter[str]]


def live(api, client, observer=None, numbers=ALL) -> Life:
    """Use a client from `init` to `shutdown`, observed, for some of the answers."""
    api.reset()
    memory, told, before = Memory(), Told(), context.get_current()
    logger = logging.getLogger("assisters_otel")
    logger.addHandler(told)
    got = []

    async def script(opened):
        for number in numbers:
            if isinstance(observer, Steps):
                observer.number = number
            api.answers(**ANSWERS[number])
            got.append(await seen(opened, whole=number != ALL[-1]))

    try:
        with (
            observed(observer),
            assisters_otel.init(
                hosts=[api.url],
                tracer_provider=memory.tracer_provider,
                meter_provider=memory.meter_provider,
            ) as handle,
        ):
            # Another test may have imported all that this one needs: the app imports one more.
            sys.modules.pop("colorsys", None)
            importlib.import_module("colorsys")
            client.use(api.url, script, retries=1)
            handle.flush(5)
    except PlantedError as error:
        got.append(error)
    finally:
        logger.removeHandler(told)
    assert context.get_current() == before
    got += [(one.method, one.path, one.body, without_ours(one.headers)) for one in api.requests]
    found = told_of(memory, told)
    memory.shutdown()
    return Life(got, found)


def without_ours(headers: dict[str, str]) -> list[str]:
    return sorted(name for name in headers if name != "traceparent")


async def seen(opened, *, whole: bool) -> object:
    """Open a stream, read it or its first chunk, and close it; what the app sees of that."""
    read = []
    try:
        stream = await opened()
        try:
            chunk = await stream.read()
            while chunk is not None:
                read.append(chunk)
                chunk = await stream.read() if whole else None
        finally:
            await stream.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        context_of = error.__context__
        return type(error), str(error), type(error.__cause__), type(context_of), length(read)
    return length(read)


def length(read: list[object]) -> object:
    """What is the same however the network has cut it."""
    return b"".join(read)[:60] if read and isinstance(read[0], bytes) else len(read)


def told_of(memory: Memory, told: Told) -> dict[str, Counter[str]]:
    found = {sink: Counter() for sink in SINKS}
    for span in memory.spans():
        found["spans"][span.name] += 1
        found["spans"]["failed"] += "error.type" in span.attributes
        found["resends"]["spans"] += "http.request.resend_count" in span.attributes
    for name, points in memory.collect().items():
        if name.startswith("assisters.") and not name.endswith((".limit", ".remaining")):
            group = "resends" if name.endswith(".retries") else "metrics"
            found[group][name] = sum(point["count"] or point["value"] for point in points)
    found["logs"]["lines"] = told.lines
    return found


def sink_of(step: Step) -> str | None:
    """Name the sink that is called from outside of all of them, and not only made."""
    within = {module: sink for sink, modules in SINKS.items() for module in modules}
    if step.module in within or step.called.co_name == "__init__":
        return None
    return within.get(module_of(step.called))


def retrying(url: str, cafile: str | None, retries: int) -> requests.Session:
    session = REQUESTS.make(url, cafile, retries)
    again = Retry(2, status_forcelist=[429], allowed_methods=None, respect_retry_after_header=False)
    session.mount("http://", HTTPAdapter(max_retries=again))
    return session


(REQUESTS,) = (one for one in STREAMERS if one.name == "requests")
# trio runs the same lines as asyncio, and warns of what httpx leaves to the garbage collector.
CLIENTS = [
    *(one for one in (*STREAMERS, *UNSTREAMED) if "trio" not in one.name),
    REQUESTS._replace(name="requests-retry", make=retrying),
]


class Survey(NamedTuple):
    """What is met by which client.

    Attributes:
        met: By the client's name, its steps, each with the answer at which it was met first.
        around: The functions in which the app's own call runs, whatever the client.
    """

    met: dict[str, dict[Step, int]]
    around: set[CodeType]

    def of(self, client: str) -> Iterator[tuple[Step, int]]:
        """Give a client's steps: in a short run those of its own, and a share of what others have.

        Then a step in `clients/` is of a third of those that have it, and of two at least; another
        of one.
        """
        for step, at in self.met[client].items():
            sharing = [name for name, met in self.met.items() if step in met]
            count = max(2, -(-len(sharing) // 3)) if step.module.startswith("clients/") else 1
            first = zlib.crc32(str(step).encode()) + sharing.index(client)
            # Its like stand beside it: httpx and httpx2, sync and async, plain and streamed.
            is_mine = first * count % len(sharing) < count
            if self._may_raise(step) and (SIZE > 1 or is_mine):
                yield step, at

    def _may_raise(self, step: Step) -> bool:
        is_check = module_of(step.called) in CHECKS
        return not is_check and step.called not in self.around and step.name not in EXEMPT


@pytest.fixture(scope="module")
def survey(shared_api):
    live(shared_api, CLIENTS[0])  # what is imported at first is no step
    found = {client.name: Steps() for client in CLIENTS}
    for client in CLIENTS:
        live(shared_api, client, found[client.name])
    return Survey(
        {name: steps.met for name, steps in found.items()},
        set().union(*(steps.around for steps in found.values())),
    )


@pytest.fixture(scope="module", autouse=True)
def _import_hooks_go() -> Iterator[None]:
    """Take out the finder, and who waits in it, that a fault in the end of a life has left."""
    before = list(sys.meta_path)
    yield
    imports._waiting.clear()
    imports._added.clear()
    sys.meta_path[:] = before


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0.0)


def test_each_step_is_made_to_raise_with_one_client_and_those_of_clients_with_two(survey):
    taken = Counter(step for client in survey.met for step, _ in survey.of(client))
    having = Counter(step for met in survey.met.values() for step in met if survey._may_raise(step))

    assert taken.keys() == having.keys()
    shared = {step for step in having if step.module.startswith("clients/") and having[step] > 1}
    assert len(shared) > 100
    assert all(taken[step] > 1 for step in shared)


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_whatever_step_of_ours_raises_the_app_and_the_other_sinks_get_the_same(api, client, survey):
    assert len(survey.met[client.name]) > 200
    wanted, wrong, missed = {}, [], []
    for step, at in survey.of(client.name):
        for numbers in (range(max(at - 1, 0), at + 1), ALL):
            if numbers not in wanted:
                wanted[numbers] = live(api, client, numbers=numbers)
            planted = Planted(step)
            got = live(api, client, planted, numbers)
            if planted.is_over:
                wrong += [f"{step}: {fault}" for fault in faults(step, wanted[numbers], got)]
                break
        else:
            missed.append(step)  # who holds a method, and what was collected, is not the same again
    assert not wrong, "\n".join(wrong)
    assert len(missed) < 20, missed


class Refusing(TraceContextTextMapPropagator):
    """A propagator of the app's that raises."""

    def inject(self, *_args, **_kwargs):
        raise KeyError("mine")


def collect_here(instrumentor) -> None:
    """Collect garbage, and run here what that has put off: a thread would, and is not profiled."""
    if instrumentor.active is None:
        gc.collect()
        return
    deferred = instrumentor.active.recorder.deferred
    with deferred._lock:
        gc.collect()
        deferred.run_all()


def live_with_requests(api, _sdk, memory, _instrumentor) -> Iterator[object]:
    """Send what is suppressed, with a propagator that raises, and with spans of the app's own."""
    url, propagator, theirs = (
        f"{api.url}/models",
        propagate.get_global_textmap(),
        RequestsInstrumentor(),
    )
    try:
        with suppress_instrumentation():
            yield requests.get(url, timeout=5).status_code
        propagate.set_global_textmap(CompositePropagator([Refusing(), propagator]))
        yield requests.get(url, timeout=5).status_code
        propagate.set_global_textmap(propagator)
        theirs.instrument(tracer_provider=memory.tracer_provider)
        api.answers(redirect="/v1/models")
        api.answers("model_overloaded")
        yield requests.get(url, timeout=5).status_code
        yield requests.get(url, timeout=5).status_code
        api.answers(fault="drop")
        with suppress(requests.ConnectionError):
            yield requests.get(url, timeout=5)
    finally:
        propagate.set_global_textmap(propagator)
        theirs.uninstrument()


async def closed_unread(url: str) -> int:
    """Send a request, close its answer without a read, and return its status."""
    async with httpx.AsyncClient(trust_env=False) as client:
        request = client.build_request("GET", f"{url}/models")
        answer = await client.send(request, stream=True)
        await answer.aclose()
    return answer.status_code


def left_in_part(url: str) -> bytes:
    """Read a part of an answer, leave the rest, and return the part."""
    with httpx.stream("GET", f"{url}/models", trust_env=False) as answer:
        parts = answer.iter_raw()
        part = next(parts)
        parts.close()
    return part


def live_with_streams(api, sdk, _memory, instrumentor) -> Iterator[object]:
    """Close a long failed answer, drop a stream, and have another one open at the end."""
    api.answers("invalid_model", size=100_000, chunked=True, times=2)
    yield asyncio.run(closed_unread(api.url))
    yield left_in_part(api.url)
    dropped = sdk.chat.completions.create(model="m", messages=[], stream=True)
    yield next(iter(dropped)).object
    del dropped
    collect_here(instrumentor)
    stream = sdk.chat.completions.create(model="m", messages=[], stream=True)
    yield next(iter(stream)).object
    yield END
    yield [chunk.object for chunk in stream]


def live_with_answers(api, sdk, memory, _instrumentor) -> Iterator[object]:
    """Parse answers that the SDK has not, get one that is no success, and outlive a GenAI span."""
    raw = sdk.chat.completions.with_raw_response
    yield raw.create(model="m", messages=[]).parse().object
    api.answers(body='{"id": ', content_type="application/json")
    with suppress(ValueError):
        yield raw.create(model="m", messages=[]).parse()
    with sdk.chat.completions.with_streaming_response.create(model="m", messages=[]) as answer:
        yield len(answer.read()) > 0
    api.answers(json={"error": {"code": "internal_error"}}, status=200)
    yield sdk.chat.completions.create(model="m", messages=[]).choices
    tracer = memory.tracer_provider.get_tracer("logfire.openai")
    with tracer.start_as_current_span("around"):
        chunks = sdk.chat.completions.create(model="m", messages=[], stream=True)
    yield [chunk.object for chunk in chunks]
    tracer = memory.tracer_provider.get_tracer("pydantic-ai")
    with tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
        yield sdk.chat.completions.create(model="m", messages=[]).object


def live_in_runtimes(*_) -> Iterator[object]:
    """Do what AWS Lambda's runtime and uWSGI do, and what `flushed` decorates."""
    importlib.import_module("celery.signals")
    bootstrap = importlib.import_module("awslambdaric.bootstrap")
    ended: list[object] = []

    class Client:
        marshaller = bootstrap.LambdaRuntimeClient.marshaller

        def post_invocation_result(self, *result: object) -> None:
            ended.append(result)

    invocation = (Client(), lambda _event, _context: "done", "one", b"{}", "application/json")
    deadline_ms = int(time.time() * 1000) + 30_000
    bootstrap.handle_event_request(*invocation, None, None, "arn", deadline_ms, None, None)
    # uWSGI adds its module without an import, and then imports the app.
    sys.modules["uwsgi"] = uwsgi = ModuleType("uwsgi")
    vars(uwsgi)["opt"] = {"skip-atexit-teardown": b"true"}
    sys.modules.pop("colorsys", None)
    importlib.import_module("colorsys")
    for name in ("post_fork_hook", "atexit"):
        getattr(uwsgi, name, list)()

    async def work(_context: object) -> str:
        return "done"

    context = bootstrap.LambdaContext("one", None, None, deadline_ms)
    yield assisters_otel.flushed(lambda _context: "done")(context)
    yield asyncio.run(assisters_otel.flushed(work)(context))
    yield ended


END = object()
"""What a part gives where a life has its end, and the part goes on."""
PARTS = (live_in_runtimes, live_with_requests, live_with_streams, live_with_answers)


def live_elsewhere(api, observer=None, parts=PARTS) -> list[object]:
    """Do what no client's life has: zero-code, with baggage."""
    got = copy_context().run(live_in_a_context_of_its_own, api, observer, parts)
    units._running = ()  # what a fault has left running
    return got


def live_in_a_context_of_its_own(api, observer, parts) -> list[object]:
    api.reset()
    got, instrumentor, memory = [], assisters_otel.AssistersInstrumentor(), Memory()
    if instrumentor.is_instrumented_by_opentelemetry:  # a fault planted in the end of a life
        instrumentor.uninstrument()
    sdk = openai.OpenAI(base_url=api.url, api_key="ask_test", max_retries=0)
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    running = [part(api, sdk, memory, instrumentor) for part in parts]
    try:
        with observed(observer):
            with patch.dict(os.environ, {CAPTURED: "x-request-id", BAGGAGE: "tenant"}):
                instrumentor.instrument(hosts=[api.url])
            for part in running:
                got += takewhile(lambda one: one is not END, part)
            if instrumentor.active is not None:
                instrumentor.active.flush(5)
            instrumentor.uninstrument()
            for part in running:
                got += part
    except PlantedError as error:
        got.append(error)
    finally:
        for part in running:
            part.close()
        context.detach(token)
        sys.modules.pop("uwsgi", None)
        sdk.close()
        memory.shutdown()
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
    return got


@pytest.fixture(scope="module")
def elsewhere(shared_api):
    """The steps of each part that no part before it has."""
    found: dict[Step, tuple[Callable[..., Iterator[object]], ...]] = {}
    for parts in [(part,) for part in PARTS] + [PARTS]:
        steps = Steps()
        live_elsewhere(shared_api, steps, parts)
        for step in steps.met:
            if step.called not in steps.around:
                found.setdefault(step, parts)
    return found


def test_whatever_step_raises_elsewhere_the_app_gets_the_same(api, survey, elsewhere):
    met = {step for one in survey.met.values() for step in one}
    wanted, wrong, missed = {}, [], []
    for step, of_its_own in elsewhere.items():
        if step in met:
            continue
        for parts in (of_its_own, PARTS):
            if parts not in wanted:
                wanted[parts] = live_elsewhere(api, parts=parts)
            planted = Planted(step)
            got = live_elsewhere(api, planted, parts)
            if planted.is_over:
                break
        else:
            missed.append(step)
        if (
            got != wanted[parts]
            and module_of(step.called) not in CHECKS
            and step.name not in EXEMPT
        ):
            wrong.append(f"{step}: {got}")
    assert all(len(got) > 1 for got in wanted.values())
    assert not wrong, "\n".join(wrong)
    assert len(missed) < 20, missed


def test_every_function_that_is_to_be_safe_is_made_to_raise(survey, elsewhere):
    """So that a decorator stands nowhere without a reason, nor where no test comes by."""
    reached = {step.called for met in (*survey.met.values(), elsewhere) for step in met}
    idle = {
        f"{step.__module__}: {step.__qualname__}"
        for step in map(inspect.unwrap, fail_safe.decorated)
        if step.__code__ not in reached
    }
    assert not idle, "\n".join(sorted(idle))


def faults(step: Step, wanted: Life, got: Life) -> Iterator[str]:
    if got.app != wanted.app:
        app = zip_longest(got.app, wanted.app)
        yield f"the app got {[pair for pair in app if pair[0] != pair[1]]}"
    cost = [sink for sink in SINKS if got.telemetry[sink] != wanted.telemetry[sink]]
    if sink_of(step) is not None and len(cost) > 1:
        yield f"cost {cost}"
