"""Processes that end by themselves: as many spans arrive, and are counted, as were sent."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from apps import HERE, Told, command, environment, running, told

from otlp import Collector
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from assisters_otel.testing import FakeApi

ATTEMPTS = {"alone": 1, "Process": 2, "Pool": 4, "ProcessPoolExecutor": 4}
MODES = ("ours", "the app's", "zero-code")


def table() -> Iterator[tuple[str, str, str, str]]:
    """Yield each cell; at less than full size one ending of each way that forks."""
    for how in ("fork", "spawn", "forkserver"):
        for number, by in enumerate(ATTEMPTS):
            endings = ["return", "exception"]
            endings += ["sys.exit"] if by in {"alone", "Process"} else []
            if by == "alone" and how != "fork":
                continue
            cells = [(how, by, ending, mode) for ending in endings for mode in MODES]
            if SIZE < WHOLE:
                cells = [cells[4 * number % len(cells)]] if how == "fork" else []
            yield from cells


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("how", "by", "ending", "mode"), list(table()))
def test_nothing_is_lost_when_a_process_ends(
    api: FakeApi, tmp_path: Path, *, how: str, by: str, ending: str, mode: str
):
    made = ATTEMPTS[by]
    with Collector() as collector:
        env = environment(api, collector, mode, PYTHONPATH=str(HERE))
        words = command(mode, "children", how, by, ending)
        with running(words, env, tmp_path) as app:
            app.end()

        assert told(api, collector) == Told(made, made, made), app.said
    assert app.code == (0 if by != "alone" else {"exception": 1, "sys.exit": 3}.get(ending, 0))


THREADS = """
import multiprocessing, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

import children
from switched_on import MODE

pool = ThreadPoolExecutor(1)

def soon():
    time.sleep(0.3)
    children.once("return")

def child():
    threading.Thread(target=soon).start()
    pool.submit(soon)

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("mode", ["ours", "the app's"])
@pytest.mark.parametrize("how", ["fork", "forkserver"])
def test_what_a_child_s_threads_send_after_its_target_has_returned_is_not_lost(
    api: FakeApi, tmp_path: Path, how: str, mode: str
):
    (tmp_path / "threads.py").write_text(THREADS)
    with Collector() as collector:
        env = environment(api, collector, mode, PYTHONPATH=f"{HERE}:{tmp_path}")
        with running([sys.executable, "threads.py", how], env, tmp_path) as app:
            app.end()

        assert (app.code, told(api, collector)) == (0, (2, 2, 2)), app.said


AT_EXIT = """
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from assisters_otel import testing
import assisters_otel, atexit, os, threading

def refuse(*_, **__):
    raise RuntimeError("no new thread")

def start_no_thread():  # in every Python, as CPython 3.12 at exit
    threading._start_new_thread = threading._start_joinable_thread = refuse

tracers = TracerProvider(shutdown_on_exit=False)
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
meters = MeterProvider(
    [PeriodicExportingMetricReader(OTLPMetricExporter())], shutdown_on_exit=False
)
given = {"tracer_provider": tracers, "meter_provider": meters}
if "global" in os.environ["BY"]:
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    given = {}
if os.environ["BY"].startswith("init"):
    assisters_otel.init(hosts=[os.environ["API"]], **given)
else:
    assisters_otel.AssistersInstrumentor().instrument(hosts=[os.environ["API"]], **given)
if "recording" in os.environ["BY"]:
    with testing.recorded():
        pass
atexit.register(start_no_thread)
os.environ["MODE"] = "zero-code"
import children
children.once("return")
"""


@pytest.mark.parametrize(
    "by",
    [
        *("init", "init, global", "init, after a recording"),
        *("the instrumentor", "the instrumentor, global", "the instrumentor, after a recording"),
    ],
)
def test_the_app_s_providers_that_do_not_end_by_themselves_are_flushed_at_the_exit(
    api: FakeApi, tmp_path: Path, by: str
):
    (tmp_path / "at_exit.py").write_text(AT_EXIT)
    with Collector() as collector:
        env = environment(api, collector, "ours", PYTHONPATH=f"{HERE}:{tmp_path}", BY=by)
        with running([sys.executable, "at_exit.py"], env, tmp_path) as app:
            app.end()

        assert (app.code, told(api, collector)) == (0, (1, 1, 1)), app.said


COPIES = """
import importlib, os, sys

copy, by, who = sys.argv[1:]

def once():
    import children
    children.once("return")

if __name__ == "__main__":
    if who == "the parent":
        import switched_on
    context = importlib.import_module(copy)
    if by == "Process":
        processes = [context.Process(target=once) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    else:
        pool = context.Pool(2)
        for result in [pool.apply_async(once) for _ in range(2)]:
            result.get()
        pool.close()
        pool.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    ("copy", "by", "who", "mode"),
    [
        ("multiprocess", "Process", "the parent", "ours"),
        ("multiprocess", "Process", "the child", "the app's"),
        ("multiprocess", "Pool", "the parent", "the app's"),
        ("billiard", "Process", "the parent", "the app's"),
        ("billiard", "Process", "the child", "ours"),
        ("billiard", "Pool", "the parent", "ours"),
    ],
)
def test_nothing_is_lost_when_a_child_of_a_copy_of_multiprocessing_ends(
    api: FakeApi, tmp_path: Path, copy: str, by: str, who: str, mode: str
):
    """pathos and datasets use `multiprocess`; in a task of Celery's nothing but billiard works."""
    (tmp_path / "copies.py").write_text(COPIES)
    with Collector() as collector:
        env = environment(api, collector, mode, PYTHONPATH=f"{HERE}:{tmp_path}")
        with running([sys.executable, "copies.py", copy, by, who], env, tmp_path) as app:
            app.end()

        assert (app.code, told(api, collector)) == (0, (2, 2, 2)), app.said
