"""What is raised in a step of ours and is not ours comes out at once; what the app plugs in, not.

Not ours is what the app's signal handler raises, and what a runtime injects into the thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import re
import signal
import socket
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress

import aiohttp
import httpx
import openai
import pytest
import requests
from opentelemetry import context, trace
from opentelemetry.sdk.trace import SpanProcessor
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

import assisters_otel
from callers import CALLERS

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
LOGGER = logging.getLogger("assisters_otel")


class JobTimeoutError(Exception):
    """As RQ's and Celery's time limits raise one."""


class OwnTimeoutError(TimeoutError):
    """As `timeout-decorator` does: an OSError, which clients take for the network's."""


def session(*, again=0):
    made = requests.Session()
    made.trust_env = False
    retry = Retry(again, status_forcelist=[500], allowed_methods=None, raise_on_status=False)
    made.mount("http://", HTTPAdapter(max_retries=retry))
    return made


def by_httpx(url):
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{url}/embeddings", timeout=30) as response,
    ):
        return response.status_code


def by_httpx_async(url):
    async def ask():
        async with (
            httpx.AsyncClient(trust_env=False) as client,
            client.stream("POST", f"{url}/embeddings", timeout=30) as response,
        ):
            return response.status_code

    return asyncio.run(ask())


def by_requests(url):
    with (
        session() as made,
        made.post(f"{url}/embeddings", stream=True, timeout=30) as response,
    ):
        return response.status_code


def by_urllib3_again(url):
    with (
        session(again=1) as made,
        made.post(f"{url}/embeddings", stream=True, timeout=30) as response,
    ):
        return response.status_code


def by_aiohttp(url):
    async def ask():
        timeout = aiohttp.ClientTimeout(sock_read=30)
        async with (
            aiohttp.ClientSession(timeout=timeout) as made,
            made.post(f"{url}/embeddings") as response,
        ):
            return response.status

    return asyncio.run(ask())


def by_openai(url):
    with openai.OpenAI(api_key="ask_k", base_url=url, max_retries=0, timeout=30) as client:
        try:
            client.chat.completions.create(**CHAT)
        except openai.APIStatusError as error:
            return error.status_code


WAYS = [by_httpx, by_httpx_async, by_requests, by_urllib3_again, by_aiohttp, by_openai]
SYNC = [by_httpx, by_requests, by_urllib3_again]


@contextmanager
def alarm(raises, *, api=None):
    """Have the app's handler of SIGALRM raise something; ring once the API has been asked."""
    is_over = threading.Event()

    def over(*_):
        raise type(raises)(*raises.args)

    def ring():
        while not api.requests:
            if is_over.wait(0.01):
                return
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)

    before = signal.signal(signal.SIGALRM, over)
    ringing = threading.Thread(target=ring)
    if api is not None:
        ringing.start()
    try:
        yield
    finally:
        is_over.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if api is not None:
            ringing.join()
        signal.setitimer(signal.ITIMER_REAL, 0)  # it may have been about to ring
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """No context, no span that is current, and no lock of ours is held."""
    before = context.get_current()
    yield
    with warnings.catch_warnings():
        # The frame in which OpenTelemetry keeps the exception has the socket, too: it ends here,
        # and not in whichever test is next.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert context.get_current() == before
    assert not trace.get_current_span().is_recording()


def assert_all_works(api, memory, way):
    """Ask once more: an answer, its span, and its metric point."""
    before = len(memory.attempts())
    api.answers("invalid_model")
    assert way(api.url) == 400
    assert len(memory.attempts()) > before
    assert memory.attempts()[-1].attributes["error.code"] == "invalid_model"


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("kind", [JobTimeoutError, OwnTimeoutError])
@pytest.mark.parametrize("way", WAYS)
def test_an_alarm_while_a_refusal_s_body_is_waited_for_is_not_put_off(api, memory, way, kind):
    api.answers("internal_error", fault="stall")

    # For what `openai` and asyncio make of it, the app's own exception is found in it.
    with alarm(kind("the job's time is over"), api=api), pytest.raises(Exception) as met:  # noqa: PT011
        way(api.url)

    chain, error = [], met.value
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    assert any(type(one) is kind and "over" in str(one) for one in chain)
    assert_all_works(api, memory, way)


class Plugged(SpanProcessor):
    """A span processor of the app's, which does something at a span's begin or end."""

    def __init__(self, act, *, at):
        self._act = act
        self._at = at

    def on_start(self, span, parent_context=None):  # noqa: ARG002 - its signature
        if self._at == "begin" and span.name.startswith(("chat", "assisters.stream")):
            self._act()

    def on_end(self, span):
        if self._at == "end" and span.name.startswith(("chat", "assisters.stream")):
            self._act()


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("at", ["begin", "end"])
@pytest.mark.parametrize("kind", [JobTimeoutError, OwnTimeoutError])
def test_an_alarm_while_a_span_of_ours_is_written_comes_out(api, memory, at, kind):
    memory.tracer_provider.add_span_processor(
        Plugged(lambda: signal.raise_signal(signal.SIGALRM), at=at)
    )

    with alarm(kind("over")), pytest.raises(kind):
        by_openai(api.url)

    memory.tracer_provider._active_span_processor._span_processors = (
        memory.tracer_provider._active_span_processor._span_processors[:-1]
    )
    assert_all_works(api, memory, by_openai)


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("way", WAYS)
def test_an_alarm_while_the_log_is_written_comes_out(api, memory, way):
    def ring(_record):
        signal.raise_signal(signal.SIGALRM)
        return True

    api.answers("invalid_model")
    LOGGER.addFilter(ring)
    try:
        with alarm(JobTimeoutError("over")), pytest.raises(JobTimeoutError):
            way(api.url)
    finally:
        LOGGER.removeFilter(ring)

    assert_all_works(api, memory, way)


# -- injected ------------------------------------------------------------------------------------


class Drip:
    """Refuses, with a body of which a byte comes now and then."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.asked = threading.Event()
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        # CPython 3.11 keeps a traced thread at the entry of a function while an exception that was
        # injected into another thread waits there; and that one waits for the next byte.
        sys.settrace(None)
        connection = self._listener.accept()[0]
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 5000\r\n\r\n")
            self.asked.set()
            with suppress(OSError):
                while not self.over.wait(0.01):
                    connection.sendall(b"x")

    def close(self):
        self.over.set()
        self._listener.close()


@pytest.mark.parametrize("way", SYNC)
def test_what_is_injected_while_a_refusal_is_read_ahead_comes_out(memory, way):
    drip, met = Drip(), []

    def work():
        try:
            met.append(way(drip.url))
        except JobTimeoutError as error:
            met.append(type(error))

    with assisters_otel.init(
        hosts=[drip.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ):
        thread = threading.Thread(target=work)
        thread.start()
        assert drip.asked.wait(30)
        time.sleep(0.1)  # it reads now
        number = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(JobTimeoutError))
        thread.join(30)
    drip.close()
    assert met == [JobTimeoutError]
    assert memory.attempts()[0].end_time


# -- what the app plugs in -----------------------------------------------------------------------


def out_of_order(*_args, **_kwargs):
    raise JobTimeoutError("out of order")


@contextmanager
def broken_factory():
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(out_of_order)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)


@contextmanager
def broken_filter():
    LOGGER.addFilter(out_of_order)
    try:
        yield
    finally:
        LOGGER.removeFilter(out_of_order)


@contextmanager
def broken_handler(*, formatter=False):
    handler = logging.StreamHandler(None)
    if formatter:
        handler.format = out_of_order
        handler.handleError = out_of_order  # as under `logging.raiseExceptions` a test's does
    else:
        handler.emit = out_of_order
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


BROKEN = {
    "factory": broken_factory,
    "filter": broken_filter,
    "handler": broken_handler,
    "formatter": lambda: broken_handler(formatter=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", BROKEN)
def test_logging_that_is_broken_costs_the_lines_alone(api, memory, way, what):
    with BROKEN[what]():
        handle = assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        )
        for _ in range(7):  # a storm, which is summed up at the end
            assert_all_works(api, memory, way)
        assert handle.flush(30)
        handle.shutdown()

    assert memory.point("assisters.client.errors")["value"] == 7


def test_fields_that_the_app_s_records_have_already_stay_the_app_s(api, telemetry, caplog):
    made = logging.getLogRecordFactory()

    def factory(*args, **kwargs):
        record = made(*args, **kwargs)
        record.trace_id = record.span_id = "0"
        return record

    logging.setLogRecordFactory(factory)
    try:
        api.answers("internal_error", request_id="req_1", times=7)
        for _ in range(7):
            by_httpx(api.url)
        telemetry.shutdown()
    finally:
        logging.setLogRecordFactory(made)

    lines = [one for one in caplog.records if one.name == "assisters_otel"]
    assert {one.trace_id for one in lines} == {"0"}
    assert re.search(r"answered 500 internal_error .*req_1", lines[0].getMessage())
    assert lines[0].__dict__["error.code"] == "internal_error"


@contextmanager
def watched(url, memory):
    """As an app has it, and not as our tests have, where all trouble is raised."""
    with assisters_otel.init(
        hosts=[url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
    ):
        yield


@pytest.mark.parametrize("at", ["begin", "end"])
def test_a_span_processor_that_raises_costs_its_span_alone(api, memory, at):
    memory.tracer_provider.add_span_processor(Plugged(out_of_order, at=at))

    with watched(api.url, memory):
        assert_all_works(api, memory, by_openai)

    assert memory.point("assisters.client.errors")["value"] == 1
    assert memory.point("assisters.client.call.attempts")["count"] == 1


@pytest.mark.parametrize("at", ["begin", "end"])
@pytest.mark.parametrize("caller", CALLERS, ids=str)
def test_a_stream_s_span_that_cannot_be_written_costs_the_span_alone(api, memory, caller, at):
    memory.tracer_provider.add_span_processor(Plugged(out_of_order, at=at))
    api.answers(in_stream="model_overloaded")

    with watched(api.url, memory):
        body = caller.send("POST", f"{api.url}/chat/completions", json={**CHAT, "stream": True})

    assert b"model_overloaded" in body.content
    assert memory.point("assisters.client.errors")["error.code"] == "model_overloaded"
