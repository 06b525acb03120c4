"""A collector that fails, in every way and at every time: what the app notices of it.

Each case is a small app in a process of its own, which sends two bursts of requests; the
collector fails from the start, between the bursts, or after the second. They all run side by
side, and are asked about afterwards.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pytest

from assisters_otel.testing import FakeApi
from otlp import Collector
from sizes import sized

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_S = 5.0
SLACK_S = 3.0  # on a busy machine everything takes longer
QUEUE = sized(32, at_least=16)
SMALL_QUEUE = {
    "OTEL_BSP_MAX_QUEUE_SIZE": str(QUEUE),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": str(QUEUE // 2),
}
BURST = sized(160, at_least=2 * QUEUE)  # more than are held

APP = """
import atexit, gc, json, sys, time
atexit.register(lambda: print(time.time()))  # registered first, it runs last
import httpx
import assisters_otel
from opentelemetry.sdk.trace import ReadableSpan

telemetry = assisters_otel.init("checkout", hosts=[sys.argv[1]])
client = httpx.Client(trust_env=False, verify=False)
client.get(sys.argv[1] + "/models")
taken_s = []

def burst(is_healthy):
    if not is_healthy:
        telemetry.flush(1)  # so that it is known by what the queue fills up
    for number in range(int(sys.argv[2])):
        if is_healthy and number % 8 == 0:
            assert telemetry.flush(60)  # however slow the machine, the queue is never full
        started_s = time.perf_counter()
        assert client.get(sys.argv[1] + "/models").status_code == 200
        taken_s.append(time.perf_counter() - started_s)

def wait():
    print("next", flush=True)
    return sys.stdin.readline() == "healthy\\n"

burst(wait())
burst(wait())
gc.collect()
held = sum(isinstance(thing, ReadableSpan) for thing in gc.get_objects())
wait()
client.close()
print(json.dumps({"taken_s": taken_s, "held": held, "left_at": time.time()}), flush=True)
"""


class Told(NamedTuple):
    code: int
    err: str
    taken_s: list[float]
    held: int
    exit_s: float


def start(api: FakeApi, endpoint: str, **more: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ours = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-c", APP, api.url, str(BURST)],
        env=clean | ours,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def proceed(app: subprocess.Popen[str], *, is_healthy: bool = False) -> None:
    """Let the app go on to its next stop."""
    app.stdin.write("healthy\n" if is_healthy else "\n")
    app.stdin.flush()
    assert app.stdout.readline() == "next\n"


def end(app: subprocess.Popen[str]) -> Told:
    out, err = app.communicate("\n", timeout=100)
    said, ended_at = out.splitlines()
    told = json.loads(said)
    exit_s = float(ended_at) - told["left_at"]
    return Told(app.returncode, err, told["taken_s"], told["held"], exit_s)


def fail(collector: Collector, fault: str, closing: ExitStack) -> None:
    if fault == "down":
        closing.close()
    elif fault == "hangs":
        collector.hang = True
    elif fault == "500":
        collector.status = 500
    elif fault != "none":
        collector.fault = fault


def story(api: FakeApi, fault: str, when: str) -> Told:
    with ExitStack() as stack:
        closing = stack.enter_context(ExitStack())
        collector = closing.enter_context(Collector())
        app = start(api, collector.endpoint, **SMALL_QUEUE)
        stack.callback(app.wait)
        stack.callback(app.kill)
        assert app.stdout.readline() == "next\n"
        is_healthy = True
        for moment in ("start", "middle"):
            if when == moment:
                fail(collector, fault, closing)
                is_healthy = False
            proceed(app, is_healthy=is_healthy)
        if when == "exit":
            fail(collector, fault, closing)
        return end(app)


class Recovered(NamedTuple):
    told: Told
    counts: list[int]
    spans: list[str]


def recovery(api: FakeApi, fault: str, when: str) -> Recovered:
    """The collector fails at the start or in the middle, and is there again a burst later."""
    with ExitStack() as stack:
        closing = stack.enter_context(ExitStack())
        collector = closing.enter_context(Collector())
        port = int(collector.endpoint.rpartition(":")[2])
        if when == "start":
            fail(collector, fault, closing)
        app = start(api, collector.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="1")
        stack.callback(app.wait)
        stack.callback(app.kill)
        assert app.stdout.readline() == "next\n"
        if when == "middle":
            collector.wait_for(lambda: counted(collector) and collector.spans(), timeout_s=60)
            fail(collector, fault, closing)
        proceed(app)
        if fault == "down":
            collector = stack.enter_context(Collector(port=port))
        else:
            collector.status, collector.fault = 200, ""
        proceed(app)
        told = end(app)
        return Recovered(told, counted(collector), [s.span_id for s in collector.spans()])


def counted(collector: Collector) -> list[int]:
    return [point.count for point in collector.points("assisters.client.request.duration")]


FAULTS = ("down", "hangs", "500", "garbage", "reset")
BY_GRPC = ("down", "hangs", "garbage")
CASES = list(product(FAULTS, ("start", "middle", "exit")))
RECOVERIES = [("down", "start"), *((fault, "middle") for fault in FAULTS if fault != "hangs")]


@pytest.fixture(scope="module")
def stories() -> Iterator[dict[tuple[str, str], Future[Told]]]:
    with FakeApi() as api, ThreadPoolExecutor(5) as pool:
        cases = [("none", ""), *CASES]
        yield {case: pool.submit(story, api, *case) for case in cases}


@pytest.fixture(scope="module")
def recoveries() -> Iterator[dict[tuple[str, str], Future[Recovered]]]:
    with FakeApi() as api, ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(recovery, api, *case) for case in RECOVERIES}


@pytest.mark.parametrize(("fault", "when"), [("none", ""), *CASES])
def test_whatever_a_collector_does_there_is_one_warning_a_signal_at_most(stories, fault, when):
    told = stories[fault, when].result()

    lines = told.err.splitlines()
    assert told.code == 0
    assert all(line.startswith("telemetry does not get through to ") for line in lines), told.err
    # One that is not there is lost to both signals at once. One that answers may refuse each,
    # and of one that hangs the spans' full queue may be told before the metrics' time is up.
    assert len(lines) <= {"none": 0, "down": 1}.get(fault, 2), told.err
    lost = [
        word
        for line in lines
        for word in ("spans", "metrics")
        if f"{word} are" in line or f"{word} and" in line
    ]
    assert len(lost) == len(set(lost)), told.err
    assert lines or fault == "none" or when == "exit"


@pytest.mark.parametrize(("fault", "when"), CASES)
def test_whatever_a_collector_does_the_exit_is_held_up_for_five_seconds_at_most(
    stories, fault, when
):
    assert stories[fault, when].result().exit_s < EXIT_S + SLACK_S


@pytest.mark.parametrize(("fault", "when"), CASES)
def test_whatever_a_collector_does_no_request_waits_for_it(stories, fault, when):
    usual = stories["none", ""].result().taken_s
    taken_s = stories[fault, when].result().taken_s

    assert len(taken_s) == 2 * BURST
    # On a busy machine any may take long. Who waits for a collector waits for seconds.
    assert median(taken_s) < 10 * median(usual) + 0.1
    assert sorted(taken_s)[-3] < SLACK_S


@pytest.mark.parametrize(("fault", "when"), CASES)
def test_whatever_a_collector_does_no_more_spans_are_held_than_the_queue_takes(
    stories, fault, when
):
    # The queue, the batch on its way, and what is current or was told apart from them.
    assert stories[fault, when].result().held <= QUEUE + QUEUE // 2 + 8


@pytest.mark.parametrize(("fault", "when"), RECOVERIES)
def test_a_collector_that_is_there_again_has_every_count(recoveries, fault, when):
    recovered = recoveries[fault, when].result()

    assert recovered.told.code == 0
    assert recovered.told.err.count("\n") <= 2
    assert "Traceback" not in recovered.told.err
    assert recovered.counts == [1 + 2 * BURST]
    # An answer that got lost is asked for again, with the same ids: a span is never two.
    assert BURST <= len(set(recovered.spans)) <= 1 + 2 * BURST


def by_grpc(api: FakeApi, fault: str) -> Told:
    with Collector() as http_only, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if fault == "hangs":
            silent.listen()  # and accepts nobody
        there = http_only.endpoint
        if fault != "garbage":
            there = f"http://127.0.0.1:{silent.getsockname()[1]}"
        app = start(api, there, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **SMALL_QUEUE)
        try:
            assert app.stdout.readline() == "next\n"
            proceed(app)
            proceed(app)
            return end(app)
        finally:
            app.kill()
            app.wait()


@pytest.fixture(scope="module")
def stories_by_grpc() -> Iterator[dict[str, Future[Told]]]:
    with FakeApi() as api, ThreadPoolExecutor(3) as pool:
        yield {fault: pool.submit(by_grpc, api, fault) for fault in BY_GRPC}


@pytest.mark.parametrize("fault", BY_GRPC)
def test_by_grpc_too_the_app_notices_one_warning_a_signal_at_most(stories_by_grpc, fault):
    told = stories_by_grpc[fault].result()

    lines = told.err.splitlines()
    assert told.code == 0
    assert all(line.startswith("telemetry does not get through to ") for line in lines), told.err
    assert len(lines) == (2 if fault == "hangs" else 1), told.err
    assert told.exit_s < EXIT_S + SLACK_S
    assert sorted(told.taken_s)[-3] < SLACK_S
    assert told.held <= QUEUE + QUEUE // 2 + 8
