"""What takes the place of the interpreter's own ways: tracers, gevent, uvloop."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial

import pytest

import scripts
from otlp import Collector

SLACK_S = 10  # on a busy machine everything takes longer
run = partial(scripts.run, is_first=True)  # a runtime patches what is imported after it
passed = partial(scripts.passed, is_first=True)

SENDERS = """
import asyncio, threading
import httpx, requests

def by_httpx():
    with httpx.Client(trust_env=False, verify=False) as client:
        return [client.post(URL + "/chat/completions", json=[1]).status_code for _ in range(3)]

def by_requests():
    with requests.Session() as session:
        session.trust_env = False
        return [session.post(URL + "/chat/completions", json=[2]).status_code for _ in range(3)]

async def by_httpx_async():
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        sent = [await client.post(URL + "/chat/completions", json=[3]) for _ in range(3)]
        return [response.status_code for response in sent]
"""


def resends(spans):
    """How many attempts were a first, how many a first resend, and so on."""
    return Counter(span.attributes.get("http.request.resend_count", 0) for span in spans)


# -- tracers ------------------------------------------------------------------------------------

TRACED = """
import bdb, sys
import assisters_otel
telemetry = assisters_otel.init("traced", hosts=[URL], strict=True)

def send():
    assert by_httpx() == by_requests() == [429, 429, 429]
    assert asyncio.run(by_httpx_async()) == [429, 429, 429]

class Debugger(bdb.Bdb):
    def user_line(self, frame):
        self.set_step()

def by_settrace():
    def tracer(frame, event, argument):
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return tracer
    lines = set()
    threading.settrace(tracer)
    sys.settrace(tracer)
    send()
    assert sys.gettrace() is tracer
    sys.settrace(None)
    assert any("assisters_otel" in filename for filename, _ in lines)

def by_setprofile():
    def profiler(frame, event, argument):
        events.add(event)
    events = set()
    sys.setprofile(profiler)
    send()
    assert sys.getprofile() is profiler
    sys.setprofile(None)
    assert {"call", "c_call"} <= events

def by_debugger():
    Debugger().runcall(send)

BY()
assert telemetry.status().last_failure is None
"""


@pytest.mark.parametrize("by", ["by_settrace", "by_setprofile", "by_debugger"])
def test_under_a_tracer_everything_is_as_ever(api, by):
    api.answers("rate_limit_exceeded", times=9)
    with Collector() as collector:
        passed(
            f"URL = {api.url!r}\n{SENDERS}\n{TRACED.replace('BY()', by + '()')}",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        assert resends(collector.spans()) == {0: 3, 1: 3, 2: 3}
        points = collector.points("assisters.client.errors")
        assert sum(point.value for point in points) == 9


# -- gevent -------------------------------------------------------------------------------------

PATCH = "from gevent import monkey; monkey.patch_all()\n"
IMPORT = "import assisters_otel.startup\n"
INIT = "import assisters_otel; assisters_otel.init('greenlets', hosts=[URL])\n"
GREENLETS = """
import gevent

# httpcore imports trio, which runs a program, when the first client is made. That forks, and a
# fork beside greenlets that send is not what this is about.
httpx.Client(trust_env=False, verify=False).close()
jobs = [gevent.spawn(send) for send in (by_httpx, by_requests) * 5]
gevent.joinall(jobs, timeout=100, raise_error=True)
assert [job.value for job in jobs] == [[429, 429, 429]] * 10
import time
print(time.time(), flush=True)
"""


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(PATCH + INIT, id="patched before us"),
        pytest.param(IMPORT + PATCH + INIT, id="patched between import and init"),
        pytest.param(INIT + PATCH, id="patched after init"),
    ],
)
def test_greenlets_are_watched_each_for_itself(api, order):
    api.answers("rate_limit_exceeded", times=30)
    # Patched late, what is in the threads already is not gevent's, of which it warns itself.
    with Collector() as collector:
        done = run(
            f"import atexit, time\natexit.register(lambda: print(time.time()))\n"
            f"URL = {api.url!r}\n{order}{SENDERS}{GREENLETS}",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        assert done.code == 0, done.err
        assert "assisters_otel/" not in done.err
        assert order.startswith(INIT) or "Traceback" not in done.err
        left_at, ended_at = map(float, done.out.split())
        assert ended_at - left_at < 5 + SLACK_S
        # All send the same: what a greenlet sends again is its own, and no other's.
        assert resends(collector.spans()) == {0: 10, 1: 10, 2: 10}
        points = collector.points("assisters.client.errors")
        assert sum(point.value for point in points) == 30


EXPORTING = """
import gevent, logging
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

class Slow(SpanExporter):
    def export(self, spans):
        logging.getLogger("urllib3.connectionpool").warning("the exporter's")
        gevent.sleep(0.2)
        return SpanExportResult.SUCCESS

def export():
    with exporter_logs.capture_exporter_logs(lambda record: heard.append(record.getMessage())):
        Slow().export([])

def other():
    logging.getLogger("urllib3.connectionpool").warning("the application's")

heard = []
hush = exporter_logs.ExporterLogFilter(export.__code__)
hush.install()
gevent.joinall([gevent.spawn(export), gevent.spawn(other)], raise_error=True)
print(heard)
"""


def test_a_greenlet_is_heard_of_though_another_one_exports_and_gevent_came_late():
    done = passed(f"from assisters_otel.providers import exporter_logs\n{PATCH}{EXPORTING}")

    assert done.out == '["the exporter\'s"]\n'
    assert done.err == "the application's\n"


PROGRAMS = """
import subprocess
import gevent

httpx.Client(trust_env=False, verify=False).close()
def send():
    with httpx.Client(trust_env=False, verify=False) as client:
        for _ in range(20):
            client.get(URL + "/models")
            gevent.sleep(0)

jobs = [gevent.spawn(send) for _ in range(5)]
for _ in range(3):
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    gevent.sleep(0.01)
gevent.joinall(jobs, timeout=100, raise_error=True)
"""


def test_programs_are_run_beside_greenlets_if_gevent_leaves_subprocess_alone(api):
    patch = (
        "from gevent import monkey; monkey.patch_all(os=False, signal=False, subprocess=False)\n"
    )
    with Collector() as collector:
        done = passed(
            f"import sys\nURL = {api.url!r}\n{patch}{INIT}{SENDERS}{PROGRAMS}",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        assert not done.err
        assert len(api.requests) == len(collector.spans()) == 100


FORK = """
import os
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""
MULTIPROCESSING = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=print)
child.start()
child.join()
"""


@pytest.mark.parametrize("fork", [FORK, MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_a_fork_under_gevent_is_warned_of_once(api, fork):
    with Collector() as collector:
        done = passed(
            f"URL = {api.url!r}\n{PATCH}{INIT}{fork}{fork}",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        assert done.err.count("a fork under gevent") == 1
        assert "Fork workers before greenlets send" in done.err


RUN = "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', ''], check=True)\n"
OPENAI = """
import openai
with openai.OpenAI(base_url=URL, api_key="ask_k") as client:
    client.models.list()
"""


@pytest.mark.parametrize(
    "script",
    [
        RUN,
        RUN.replace("check=True", "preexec_fn=int"),
        "import os\nos.popen(':').close()\n",
        OPENAI,
    ],
    ids=["subprocess", "preexec_fn", "os.popen", "openai"],
)
def test_a_program_that_is_run_under_gevent_is_no_fork_to_be_warned_of(api, script):
    with Collector() as collector:
        done = passed(
            f"URL = {api.url!r}\n{PATCH}{INIT}{script}",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        assert done.err == ""


# -- uvloop -------------------------------------------------------------------------------------

UVLOOP = """
import assisters_otel
assisters_otel.init("uvloop", hosts=[URL], strict=True)
import aiohttp, openai, uvloop

async def by_aiohttp():
    async with aiohttp.ClientSession() as session:
        statuses = []
        for _ in range(3):
            async with session.post(URL + "/chat/completions", json=[4]) as response:
                statuses.append(response.status)
                await response.read()
        return statuses

async def by_openai():
    async with openai.AsyncOpenAI(base_url=URL, api_key="ask_x", max_retries=0) as client:
        asked = {"model": "m", "messages": [], "stream": True}
        return [chunk async for chunk in await client.chat.completions.create(**asked)]

async def main():
    assert type(asyncio.get_running_loop()).__module__ == "uvloop"
    assert await by_httpx_async() == await by_aiohttp() == [429, 429, 429]
    assert await by_openai()

loop = uvloop.new_event_loop()
loop.run_until_complete(main())
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_on_uvloop_everything_is_as_ever(api):
    api.answers("rate_limit_exceeded", times=6)
    with Collector() as collector:
        passed(
            f"URL = {api.url!r}\n{SENDERS}\n{UVLOOP}",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        spans = [span for span in collector.spans() if "http.request.method" in span.attributes]
        (call,) = (span for span in collector.spans() if span not in spans)
        assert resends(spans) == {0: 3, 1: 2, 2: 2}
        assert call.attributes["assisters.stream.outcome"] == "completed"
        points = collector.points("assisters.client.errors")
        assert sum(point.value for point in points) == 6
